"""Images of every kind that Pillow reads become 8-bit colors, or have a reason why not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from novobench.tasks.image.decoding import BadImage, image_size, rgb_pixels

RAMP = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
GRAYS = RAMP / 257  # 65535 / 257 = 255


def saved(picture, form, **settings):
    file = io.BytesIO()
    picture.save(file, form, **settings)
    return file.getvalue()


def tiff(bits, packed, photometric=1):
    """A little-endian gray TIFF of 8 × 8 pixels in one strip, by its specification."""
    tags = {256: 8, 257: 8, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 8, 279: len(packed)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)


def png(bits, color, rows):
    """A PNG of 8 × 8 pixels, by its specification."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    scanlines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 8, 8, bits, color, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(scanlines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def twelve_bits():
    first, second = (RAMP.astype(int) >> 4).reshape(-1, 2).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()


DEEP = {
    "png": (png(16, 0, RAMP), GRAYS),
    "tiff": (saved(Image.fromarray(RAMP), "TIFF"), GRAYS),
    "tiff, big-endian": (saved(Image.fromarray(RAMP.astype(">u2")), "TIFF"), GRAYS),
    "tiff, white is 0": (tiff(16, RAMP.astype("<u2").tobytes(), photometric=0), 255 - GRAYS),
    "tiff, 12 bits": (tiff(12, twelve_bits()), GRAYS),
    "pgm": (b"P5 8 8 65535\n" + RAMP.astype(">u2").tobytes(), GRAYS),
    "pgm, 12 bits": (b"P5 8 8 4095\n" + (RAMP >> 4).astype(">u2").tobytes(), GRAYS),
    "jpeg 2000": (saved(Image.fromarray(RAMP), "JPEG2000"), GRAYS),
    "png of colors": (png(16, 2, np.repeat(RAMP, 3, axis=1)), GRAYS),
    "png with alpha": (png(16, 4, np.stack([RAMP, RAMP[::-1]], axis=-1).reshape(8, 16)), GRAYS),
}


@pytest.mark.parametrize("kind", DEEP)
def test_images_of_more_than_8_bits_keep_their_grays(kind):
    encoded, expected = DEEP[kind]
    pixels = rgb_pixels(encoded)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - expected[:, :, None]).max() <= 1
    assert (pixels[..., 0].min(), pixels[..., 0].max()) == (0, 255)


@pytest.mark.parametrize("kind", ["i4", "f4"])
def test_grays_without_a_defined_white_are_refused(kind):
    with pytest.raises(BadImage, match="without a defined white; save it with 8 or 16 bits"):
        rgb_pixels(saved(Image.fromarray(RAMP.astype(kind)), "TIFF"))


def test_alpha_does_not_change_colors():
    colors = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for alpha in (0, 128, 255):
        transparent = np.dstack([colors, np.full((8, 8), alpha, dtype=np.uint8)])
        assert np.array_equal(rgb_pixels(saved(Image.fromarray(transparent), "PNG")), colors)
        gray = np.dstack([colors[..., 0], transparent[..., 3]])
        assert np.array_equal(rgb_pixels(saved(Image.fromarray(gray), "PNG"))[..., 2], colors[..., 0])
    palette = Image.fromarray(colors).quantize(64)
    expected = np.array(palette.getpalette()).reshape(-1, 3)[np.asarray(palette)]
    assert np.array_equal(rgb_pixels(saved(palette, "PNG", transparency=0)), expected)


def test_modes_of_8_bits_and_fewer():
    bits = RAMP > 30000
    assert np.array_equal(rgb_pixels(saved(Image.fromarray(bits), "PNG"))[..., 1], bits * 255)
    for mode, form in (("CMYK", "TIFF"), ("CMYK", "JPEG"), ("YCbCr", "TIFF")):
        pixels = rgb_pixels(saved(Image.new("RGB", (8, 8), (200, 100, 50)).convert(mode), form))
        assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 3


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    encoded = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert image_size(encoded) == (8, 6)
    assert rgb_pixels(encoded).reshape(-1, 3).tolist() == [[255, 0, 0]] * 48


def test_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees for display
    assert rgb_pixels(saved(Image.new("RGB", (8, 6)), "JPEG", exif=exif)).shape == (6, 8, 3)


def test_an_image_that_cannot_be_decoded_has_a_reason(tmp_path):
    for encoded in (b"", b"no picture"):
        with pytest.raises(BadImage, match="it has none of the supported formats .JPEG, PNG, "):
            rgb_pixels(encoded)
    with pytest.raises(BadImage, match="it is missing"):
        rgb_pixels(tmp_path / "missing.png")
    whole = saved(Image.fromarray(RAMP.astype(np.uint8)), "PNG")
    with pytest.raises(BadImage, match="truncated"):
        rgb_pixels(whole[:60])
    bomb = saved(Image.new("1", (14_000, 14_000)), "PNG")
    for use in (rgb_pixels, image_size):
        with pytest.raises(BadImage, match="196000000 pixels. exceeds limit"):
            use(bomb)
