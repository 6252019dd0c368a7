"""Random crops and normalization: the uniform numbers of each image, the two rules that turn them into a box, and
the scaling of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from novobench.tasks.sampling import SampleKey, uniforms

_ATTEMPTS = {"torchvision": 10, "tensorflow": 100}
_MIN_COVERED = 0.1
"""Share of the image that TensorFlow's crop must cover; OpenSeq2Seq's min_object_covered, without human boxes."""


def crop_draws(seed: int, keys: Sequence[SampleKey], sampler: str = "torchvision") -> np.ndarray:
    """The uniform numbers that crop and flip each image, float64 [len(keys), 23], or [len(keys), 203] for TensorFlow's
    rule: two per attempt and three more, the last of which decides the flip."""
    return uniforms(seed, "crop", keys, 2 * _ATTEMPTS[sampler] + 3)


def crop_box(
    height: int, width: int, draws: Sequence[float] | np.ndarray, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop: area uniform in `scale` of the whole, shape log-uniform in `ratio`.

    The first of ten attempts that fits; if none does, the largest centered box of an allowed shape (torchvision's
    rule).
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(_ATTEMPTS["torchvision"]):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[2 * attempt])
        shape = math.exp(low + (high - low) * draws[2 * attempt + 1])
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(draws[-3] * (height - h + 1)), int(draws[-2] * (width - w + 1)), h, w
    shape = min(max(width / height, ratio[0]), ratio[1])
    w, h = max(min(width, round(height * shape)), 1), max(min(height, round(width / shape)), 1)
    return (height - h) // 2, (width - w) // 2, h, w


def tensorflow_crop_box(
    height: int, width: int, draws: Sequence[float] | np.ndarray, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop: shape uniform in `ratio`, then height uniform where the area is in
    `scale` of the whole and at least a tenth; the whole image if 100 attempts find none (TensorFlow's rule)."""
    smallest, largest = scale[0] * height * width, scale[1] * height * width
    for attempt in range(_ATTEMPTS["tensorflow"]):
        shape = ratio[0] + (ratio[1] - ratio[0]) * draws[2 * attempt]
        high = round(math.sqrt(largest / shape))
        if round(high * shape) > width:
            high = int((width + 0.5 - 1e-7) / shape)
        high = min(high, height)
        low = min(round(math.sqrt(smallest / shape)), high)
        h = low + int(draws[2 * attempt + 1] * (high - low + 1))
        if round(h * shape) * h < smallest:  # because of rounding
            h += 1
        if round(h * shape) * h > largest:
            h -= 1
        w = round(h * shape)
        if max(smallest, _MIN_COVERED * height * width) <= h * w <= largest and 0 < w <= width and 0 < h <= height:
            return int(draws[-3] * max(height - h, 1)), int(draws[-2] * max(width - w, 1)), h, w
    return 0, 0, height, width


def normalize(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """float32 images from uint8 or float32 pixels [..., 3, H, W]; `mean` and `std` are float32 [3, 1, 1] of pixels in
    0 … 255."""
    return (pixels.float() - mean) / std
