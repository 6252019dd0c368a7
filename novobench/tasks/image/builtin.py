"""The built-in corpus: scikit-learn's digits, 1,797 real 8×8 images of 0-16 grey levels, nothing to download.

`digits-plain` shifts training images by up to a pixel and tests on clean ones. Every optimizer reaches 98 %, so it
shows that a recipe trains, but ranks nothing. `digits-mild` also rotates, scales and adds noise, in training and in
fixed test images, on which the optimizers reach about 92 %.

S samples; images are [S, 1, 8, 8] in [-1, 1].
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from novobench.errors import DataError
from novobench.tasks.image.batches import ImageSample
from novobench.tasks.image.config import ImageDataConfig
from novobench.tasks.sampling import SampleKey, derive_seed, uniforms

_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
_TEST_SIZE = 597
_EVALUATION_SEED = 1905_11286
"""Seed of the evaluation images' corruption, the same for every cell (one training run)."""


@dataclass(frozen=True)
class Corruption:
    """The largest changes of an image; each image draws its own amounts."""

    shift: float = 1.0
    """Whole pixels in either direction."""
    degrees: float = 0.0
    """Rotation in either direction."""
    scale: float = 0.0
    """0.1: from 10 % smaller to 10 % larger."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise, for values in [-1, 1]."""


CORRUPTIONS = {
    "digits-plain": Corruption(),
    "digits-mild": Corruption(degrees=10.0, scale=0.1, noise=0.25),
}


@cache
def _corpus() -> tuple[Tensor, Tensor]:
    """All images float32 [1797, 1, 8, 8] and labels int64 [1797] in a fixed random order; their bytes are checked."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    digest = hashlib.sha256(digits.images.astype("u1").tobytes() + digits.target.astype("u1").tobytes()).hexdigest()
    if digest != _SHA256:
        raise DataError(
            f"scikit-learn's digits are not the expected images (sha256 {digest}). Install another version."
        )
    order = np.argsort(uniforms(0, "digits", [SampleKey(0, i) for i in range(len(digits.target))], 1)[:, 0])
    images = torch.from_numpy(digits.images[order]).float().div_(8).sub_(1).unsqueeze(1)
    return images, torch.from_numpy(digits.target[order]).long()


def corrupt(images: Tensor, keys: Sequence[SampleKey], seed: int, corruption: Corruption) -> Tensor:
    """Images [S, 1, 8, 8], each changed by its own random numbers, which depend only on (seed, key)."""
    draws = torch.from_numpy(2 * uniforms(seed, "move", keys, 4) - 1).float()  # [S, 4] in (-1, 1)
    if corruption.degrees or corruption.scale:
        angle = draws[:, 0] * (corruption.degrees * np.pi / 180)
        size = 1 + draws[:, 1] * corruption.scale
        cos, sin, zero = torch.cos(angle) / size, torch.sin(angle) / size, torch.zeros_like(angle)
        matrix = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
        grid = _affine_grid(matrix, images.shape[-1])
        images = F.grid_sample(images + 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False) - 1
    if corruption.shift:
        images = _shifted(
            images,
            torch.round(draws[:, 2:] * (corruption.shift + 0.5)).clamp_(-corruption.shift, corruption.shift).long(),
        )
    if corruption.noise:
        pixels = images[0].numel()
        noise = ndtri(uniforms(seed, "noise", keys, pixels)).astype(np.float32)
        images = images + corruption.noise * torch.from_numpy(noise).view(images.shape)
    return images


def _affine_grid(matrix: Tensor, size: int) -> Tensor:
    """Sampling points [S, size, size, 2]. Not torch's `affine_grid`: it uses a matrix product whose rounding depends on
    the number of images."""
    ticks = (torch.arange(size, dtype=torch.float32) * 2 + 1) / size - 1
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    m = matrix[:, :, :, None, None]
    return torch.stack([m[:, row, 0] * x + m[:, row, 1] * y + m[:, row, 2] for row in (0, 1)], dim=-1)


def _shifted(images: Tensor, shift: Tensor) -> Tensor:
    """Each image moved by whole pixels [S, 2] (right, down), filled with background."""
    size, reach = images.shape[-1], int(shift.abs().max())
    padded = F.pad(images, (reach, reach, reach, reach), value=-1.0)
    ticks = torch.arange(size)
    columns = reach - shift[:, 0, None] + ticks  # [S, size]
    rows = reach - shift[:, 1, None] + ticks
    samples = torch.arange(len(images))[:, None, None]
    return padded[samples, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


class DigitsTraining(Dataset):
    """Training images by `SampleKey`, a whole micro-batch at a time."""

    def __init__(self, images: Tensor, labels: Tensor, seed: int, corruption: Corruption) -> None:
        self.images, self.labels, self.corruption = images, labels, corruption
        self.seed = derive_seed(seed, "augment")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[ImageSample]:
        samples = torch.tensor([key.sample for key in keys])
        images = corrupt(self.images[samples], keys, self.seed, self.corruption)
        return list(map(ImageSample, images, self.labels[samples].tolist(), samples.tolist()))

    def __getitem__(self, key: SampleKey) -> ImageSample:
        return self.__getitems__([key])[0]


class DigitsEvaluation(Dataset):
    """Evaluation images: clean, or `copies` fixed corruptions of each."""

    def __init__(self, images: Tensor, labels: Tensor, first: int, copies: int, corruption: Corruption) -> None:
        if corruption.noise == 0.0:
            self.images, self.labels = images, labels
            return
        keys = [SampleKey(copy, first + i) for copy in range(copies) for i in range(len(labels))]
        self.images = corrupt(images.repeat(copies, 1, 1, 1), keys, _EVALUATION_SEED, corruption)
        self.labels = labels.repeat(copies)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> ImageSample:
        return ImageSample(self.images[index], int(self.labels[index]), index)


class Digits:
    """The digits, split as the config says. The test images do not depend on the other sizes.

    Raises DataError for the name of a data set that is not built in.
    """

    classes = 10

    def __init__(self, config: ImageDataConfig) -> None:
        if config.name not in CORRUPTIONS:
            raise DataError(
                f"data.name '{config.name}' is not a built-in image set. Built in: {', '.join(CORRUPTIONS)}."
            )
        self.corruption, self.copies = CORRUPTIONS[config.name], config.test_copies
        self.search_size, self.limit = config.search_size, config.limit
        self.images, self.labels = _corpus()
        self.fingerprint = f"{config.name}:{_SHA256[:16]}"
        self.available = len(self.labels) - _TEST_SIZE
        """Training images, the search share included."""
        self.test_size = _TEST_SIZE * (self.copies if self.corruption.noise else 1)

    def training(self, seed: int) -> DigitsTraining:
        start = _TEST_SIZE + self.search_size
        stop = None if self.limit is None else start + self.limit
        return DigitsTraining(self.images[start:stop], self.labels[start:stop], seed, self.corruption)

    def probe(self, size: int) -> DigitsEvaluation:
        """The first training images, changed as test images are."""
        start = _TEST_SIZE + self.search_size
        return self._evaluation(start, start + size)

    def search(self) -> DigitsEvaluation:
        return self._evaluation(_TEST_SIZE, _TEST_SIZE + self.search_size)

    def test(self) -> DigitsEvaluation:
        return self._evaluation(0, _TEST_SIZE)

    def _evaluation(self, start: int, stop: int) -> DigitsEvaluation:
        return DigitsEvaluation(self.images[start:stop], self.labels[start:stop], start, self.copies, self.corruption)
