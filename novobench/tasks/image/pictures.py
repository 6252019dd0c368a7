"""One encoded picture to RGB pixels of 8 bits, or the reason why it cannot be."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


class BadPicture(Exception):
    """A picture that cannot be decoded, with the reason."""


def rgb_pixels(encoded: Path | bytes) -> np.ndarray:
    """uint8 [H, W, 3] of a file or of its bytes. Raises BadPicture.

    As torchvision's ImageFolder: the first frame of an animation, colours without their alpha (what lies under a
    transparent pixel), EXIF orientation not applied. Unlike it, greys of 16 bits are scaled to 8 instead of clipped.
    """
    with _opened(encoded) as picture:
        if picture.mode.startswith("I") or picture.mode == "F":
            return np.repeat(_deep_grey(picture)[:, :, None], 3, axis=2)
        return np.array(picture.convert("RGB"))


def picture_size(encoded: Path | bytes) -> tuple[int, int]:
    """Width and height, from the header alone. Raises BadPicture."""
    with _opened(encoded) as picture:
        return picture.size


def _deep_grey(picture: Image.Image) -> np.ndarray:
    """uint8 [H, W] of a picture with one channel of more than 8 bits, where its format says which value is white."""
    tags = getattr(picture, "tag_v2", {})
    if picture.mode.startswith("I;16"):
        white = 2 ** tags.get(_TIFF_BITS, (16,))[0] - 1  # TIFF has 12 bits, too
    elif picture.mode == "I" and picture.format in ("PNG", "PPM"):
        white = 65535
    else:  # a guess from each picture's own range would scale the pictures of one set differently
        kind = "floating-point" if picture.mode == "F" else "32-bit or signed"
        raise BadPicture(f"its greys are {kind} numbers, of which none is defined as white; save it with 8 or 16 bits")
    grey = ((np.asarray(picture).astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    return 255 - grey if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO else grey


@contextmanager
def _opened(encoded: Path | bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as picture:
            yield picture
    except (BadPicture, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadPicture("no picture of a format that Pillow reads") from None
    except Exception as error:  # damaged files make Pillow raise errors of many kinds, some of them of no base class
        raise BadPicture(" ".join(str(error).split()) or type(error).__name__) from error
