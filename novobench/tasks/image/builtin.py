"""The built-in corpus: scikit-learn's digits, 1,797 real 8×8 images of 0-16 grey levels, nothing to download.

`digits-plain` shifts training images by up to a pixel and tests on clean ones; every optimizer reaches 98 %, so
it shows that a recipe trains and ranks nothing. `digits-mild` also turns, scales and adds noise, in training and
in frozen test images, where the optimizers reach about 92 %.

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
from novobench.tasks.image.config import ImageDataConfig
from novobench.tasks.sampling import SampleKey, derive_seed, uniforms

_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
_TEST = 597
_FROZEN_SEED = 1905_11286
"""Seed of the test images' corruption, the same for every cell."""


@dataclass(frozen=True)
class Corruption:
    """How far an image is moved; each image draws its own amounts."""

    shift: float = 1.0
    """Pixels, either way; whole ones."""
    degrees: float = 0.0
    scale: float = 0.0
    """0.1: from 10 % smaller to 10 % larger."""
    noise: float = 0.0
    """Standard deviation, of values in [-1, 1]."""


CORRUPTIONS = {
    "digits-plain": Corruption(),
    "digits-mild": Corruption(degrees=10.0, scale=0.1, noise=0.25),
}


@cache
def _corpus() -> tuple[Tensor, Tensor]:
    """All images and labels in a fixed random order; the bytes are checked."""
    from sklearn.datasets import load_digits

    found = load_digits()
    digest = hashlib.sha256(found.images.astype("u1").tobytes() + found.target.astype("u1").tobytes()).hexdigest()
    if digest != _SHA256:
        raise DataError(
            f"scikit-learn's digits are not the expected images (sha256 {digest}); use another version of it."
        )
    order = np.argsort(uniforms(0, "digits", [SampleKey(0, i) for i in range(len(found.target))], 1)[:, 0])
    images = torch.from_numpy(found.images[order]).float().div_(8).sub_(1).unsqueeze(1)
    return images, torch.from_numpy(found.target[order]).long()


def corrupt(images: Tensor, keys: Sequence[SampleKey], seed: int, how: Corruption) -> Tensor:
    """Each image moved and made noisy by its own random numbers, which depend on (seed, key) alone."""
    draws = torch.from_numpy(2 * uniforms(seed, "move", keys, 4) - 1).float()  # [S, 4] in (-1, 1)
    if how.degrees or how.scale:
        angle = draws[:, 0] * (how.degrees * np.pi / 180)
        size = 1 + draws[:, 1] * how.scale
        cos, sin, zero = torch.cos(angle) / size, torch.sin(angle) / size, torch.zeros_like(angle)
        matrix = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
        grid = _affine_grid(matrix, images.shape[-1])
        images = F.grid_sample(images + 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False) - 1
    if how.shift:
        images = _shifted(images, torch.round(draws[:, 2:] * (how.shift + 0.5)).clamp_(-how.shift, how.shift).long())
    if how.noise:
        pixels = images[0].numel()
        noise = ndtri(uniforms(seed, "noise", keys, pixels)).astype(np.float32)
        images = images + how.noise * torch.from_numpy(noise).view(images.shape)
    return images


def _affine_grid(matrix: Tensor, size: int) -> Tensor:
    """Sampling points [S, size, size, 2]. By hand: torch's goes through a matrix product whose rounding depends on
    how many images there are."""
    ticks = (torch.arange(size, dtype=torch.float32) * 2 + 1) / size - 1
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    m = matrix[:, :, :, None, None]
    return torch.stack([m[:, row, 0] * x + m[:, row, 1] * y + m[:, row, 2] for row in (0, 1)], dim=-1)


def _shifted(images: Tensor, shift: Tensor) -> Tensor:
    """Each image moved by whole pixels [S, 2] (right, down), background coming in."""
    size, reach = images.shape[-1], int(shift.abs().max())
    padded = F.pad(images, (reach, reach, reach, reach), value=-1.0)
    ticks = torch.arange(size)
    columns = reach - shift[:, 0, None] + ticks  # [S, size]
    rows = reach - shift[:, 1, None] + ticks
    samples = torch.arange(len(images))[:, None, None]
    return padded[samples, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


class DigitsTraining(Dataset):
    """Training images by `SampleKey`, a whole micro-batch at a time."""

    def __init__(self, images: Tensor, labels: Tensor, seed: int, how: Corruption) -> None:
        self.images, self.labels, self.how = images, labels, how
        self.seed = derive_seed(seed, "augment")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[tuple[Tensor, int]]:
        samples = torch.tensor([key.sample for key in keys])
        images = corrupt(self.images[samples], keys, self.seed, self.how)
        return list(zip(images, self.labels[samples].tolist(), strict=True))

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, int]:
        return self.__getitems__([key])[0]


class DigitsFrozen(Dataset):
    """Evaluation images: clean, or each in `copies` corruptions that never change."""

    def __init__(self, images: Tensor, labels: Tensor, first: int, copies: int, how: Corruption) -> None:
        if how.noise == 0.0:
            self.images, self.labels = images, labels
            return
        keys = [SampleKey(copy, first + i) for copy in range(copies) for i in range(len(labels))]
        self.images = corrupt(images.repeat(copies, 1, 1, 1), keys, _FROZEN_SEED, how)
        self.labels = labels.repeat(copies)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


class Digits:
    """The digits as a config divides them. The test images are the same for any sizes. Raises DataError for a name that
    is no built-in set."""

    classes = 10

    def __init__(self, config: ImageDataConfig) -> None:
        if config.name not in CORRUPTIONS:
            raise DataError(f"data.name '{config.name}' is no built-in image set. Known: {', '.join(CORRUPTIONS)}.")
        self.how, self.copies, self.held = CORRUPTIONS[config.name], config.test_copies, config.search_size
        self.images, self.labels = _corpus()
        self.fingerprint = f"{config.name}:{_SHA256[:16]}"
        self.available = len(self.labels) - _TEST
        """Images to train on, the searched share included."""
        self.test_size = _TEST * (self.copies if self.how.noise else 1)

    def training(self, seed: int) -> DigitsTraining:
        start = _TEST + self.held
        return DigitsTraining(self.images[start:], self.labels[start:], seed, self.how)

    def search(self) -> DigitsFrozen:
        return self._frozen(_TEST, _TEST + self.held)

    def test(self) -> DigitsFrozen:
        return self._frozen(0, _TEST)

    def _frozen(self, start: int, stop: int) -> DigitsFrozen:
        return DigitsFrozen(self.images[start:stop], self.labels[start:stop], start, self.copies, self.how)
