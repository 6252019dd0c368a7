"""One encoded picture to RGB pixels of 8 bits, or the reason why it cannot be."""

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
"""Raised when the functions here give other pixels or sizes, so that kept ones are made anew."""
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")
"""Not all that Pillow knows: some run other programs (EPS), and some take any damaged file for one of theirs."""
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


class BadPicture(Exception):
    """A picture that cannot be decoded, with the reason."""


class MissingPicture(BadPicture):
    """There is no file to decode, with the reason: it may have been there before."""


def rgb_pixels(encoded: Path | bytes) -> np.ndarray:
    """uint8 [H, W, 3] of a file or of its bytes. Raises BadPicture, and DataError where the disk fails.

    As torchvision's ImageFolder: the first frame of an animation, colours without their alpha (what lies under a
    transparent pixel), EXIF orientation not applied. Unlike it, greys of 16 bits are scaled to 8 instead of clipped.
    """
    with quiet(), _opened(encoded) as picture:
        width, height = picture.size
        if picture.mode.startswith("I") or picture.mode == "F":
            pixels = np.repeat(_deep_grey(picture)[:, :, None], 3, axis=2)
        else:
            pixels = np.array(picture.convert("RGB"))
        if pixels.shape != (height, width, 3):
            raise BadPicture(f"its header says {width} × {height} pixels, but it holds others")
        return pixels


def picture_size(encoded: Path | bytes) -> tuple[int, int]:
    """Width and height, from the header alone; the caller is `quiet`. Raises BadPicture, and DataError where the disk
    fails."""
    with _opened(encoded) as picture:
        return picture.size


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings: of many pixels, odd metadata, harmless damage. What has pixels is good, and else there
    is an error. Not for threads, which share the filters of warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)  # Pillow may be built without one


@contextmanager
def _opened(encoded: Path | bytes) -> Iterator[Image.Image]:
    """The one place where a decoder's trouble becomes a bad picture."""
    try:
        # A file is opened here, not by Pillow: what the disk says is told from what is in the file.
        with (
            nullcontext(io.BytesIO(encoded)) if isinstance(encoded, bytes) else open_file(encoded) as file,
            Image.open(file, formats=_formats()) as picture,
        ):
            yield picture
    except (BadPicture, DataError):
        raise
    except UnreadableFile as error:
        raise MissingPicture(str(error)) from None
    except UnidentifiedImageError:
        raise BadPicture(f"no picture of a format that is read here ({', '.join(_formats())})") from None
    except MemoryError:  # a header may promise anything
        raise BadPicture("it needs more memory than there is") from None
    except (OSError, Image.DecompressionBombError) as error:
        raise BadPicture(one_line(error).rstrip(".") or type(error).__name__) from error
    except Exception as error:  # damaged files make Pillow raise errors of many kinds, some of them of no base class
        raise BadPicture(kind_and_message(error)) from error
