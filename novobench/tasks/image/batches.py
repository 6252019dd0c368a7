"""What the image data sets return: one sample, and a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import default_collate

SKIPPED_LABEL = -(2**31)
"""Label of an image that cannot be decoded, with `data.on_bad_image` `skip`; its pixels are `GRAY`. No data set has
this label: labels are 0 … classes − 1, which is checked when the data are opened."""
GRAY = 127


class ImageSample(NamedTuple):
    """One image of a data set."""

    image: Tensor
    """float32 [C, H, W], normalized."""
    label: int
    """0 … classes − 1, or `SKIPPED_LABEL`."""
    sample: int
    """Its number in the data set."""


class ImageBatch(NamedTuple):
    """B images of a data set."""

    images: Tensor
    """float32 [B, C, H, W], normalized."""
    labels: Tensor
    """int64 [B]: 0 … classes − 1, or `SKIPPED_LABEL`."""
    samples: Tensor
    """int64 [B]: their numbers in the data set."""


def collate(samples: Sequence[ImageSample]) -> ImageBatch:
    """The samples as one batch."""
    return ImageBatch(*default_collate(list(samples)))
