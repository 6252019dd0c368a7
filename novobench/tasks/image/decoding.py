"""Decodes one image to 8-bit RGB pixels, or says why it cannot be decoded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from novobench.errors import DataError, kind_and_message, one_line
from novobench.tasks.sources import UnreadableFile, open_file

DECODER_VERSION = 3
"""Raised when these functions return other pixels or sizes, so that the caches are built again."""
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")
"""Not all that Pillow can read: some formats run other programs (EPS), and some accept any damaged file."""
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


class BadImage(Exception):
    """An image that cannot be decoded; the message is the reason."""


class MissingImage(BadImage):
    """The file to decode cannot be opened; the message is the reason. The file may have existed before."""


def rgb_pixels(encoded: Path | bytes) -> np.ndarray:
    """uint8 [H, W, 3] of a file or of its bytes. Raises BadImage, and DataError if the disk fails.

    As torchvision's ImageFolder: the first frame of an animation, colors without alpha (transparent pixels keep their
    color), EXIF orientation not applied. Unlike it, 16-bit grays are scaled to 8 bits instead of clipped.
    """
    with quiet(), _open_image(encoded) as image:
        width, height = image.size
        if image.mode.startswith("I") or image.mode == "F":
            pixels = np.repeat(_gray_pixels(image)[:, :, None], 3, axis=2)
        else:
            pixels = np.array(image.convert("RGB"))
        if pixels.shape != (height, width, 3):
            raise BadImage(f"its header says {width} × {height} pixels, but its content has another size")
        return pixels


def image_size(encoded: Path | bytes) -> tuple[int, int]:
    """Width and height, from the header alone; call it inside `quiet`. Raises BadImage, and DataError if the disk
    fails."""
    with _open_image(encoded) as image:
        return image.size


@contextmanager
def quiet() -> Iterator[None]:
    """Turn off Pillow's warnings of many pixels, odd metadata or harmless damage: an image that has pixels is good, and
    any other raises an error. Enter it outside threads, which share the warning filters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _gray_pixels(image: Image.Image) -> np.ndarray:
    """uint8 [H, W] of an image with one channel of more than 8 bits, if its format defines which value is white."""
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        white = 2 ** tags.get(_TIFF_BITS, (16,))[0] - 1  # TIFF also has 12 bits
    elif image.mode == "I" and image.format in ("PNG", "PPM"):
        white = 65535
    else:  # a guess from each image's own range would scale the images of one data set differently
        kind = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise BadImage(f"its gray values are {kind} numbers without a defined white; save it with 8 or 16 bits")
    gray = ((np.asarray(image).astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    return 255 - gray if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO else gray


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)  # Pillow may be built without some


@contextmanager
def _open_image(encoded: Path | bytes) -> Iterator[Image.Image]:
    """The one place that turns a decoder's error into BadImage."""
    try:
        # `open_file` opens the file, not Pillow, so that a disk error is not taken for bad content.
        with (
            nullcontext(io.BytesIO(encoded)) if isinstance(encoded, bytes) else open_file(encoded) as file,
            Image.open(file, formats=_formats()) as image,
        ):
            yield image
    except (BadImage, DataError):
        raise
    except UnreadableFile as error:
        raise MissingImage(str(error)) from None
    except UnidentifiedImageError:
        raise BadImage(f"it has none of the supported formats ({', '.join(_formats())})") from None
    except MemoryError:  # a header may claim any size
        raise BadImage("it needs more memory than this machine has") from None
    except (OSError, Image.DecompressionBombError) as error:
        raise BadImage(one_line(error).rstrip(".") or type(error).__name__) from error
    except Exception as error:  # damaged files make Pillow raise many types of errors
        raise BadImage(kind_and_message(error)) from error
