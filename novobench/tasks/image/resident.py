"""Decoded images that stay on the training's device, which crops, flips and normalizes them.

The loader sends only numbers: which images, and where each is cropped and flipped, from the same random numbers as
`data.TrainingImages`. The batches have the same bits: whole steps of uint8, then one subtraction and one division,
which round alike on every device.

N images of H × W pixels, B in a batch, S the side of the images that the network sees.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import PIL
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as TF

from novobench.files import derived_folder
from novobench.tasks.image.batches import GRAY, SKIPPED_LABEL, ImageBatch
from novobench.tasks.image.config import ImageDataConfig
from novobench.tasks.image.decoding import DECODER_VERSION, BadImage
from novobench.tasks.image.sources import ImageSource, read_or_skip, read_usable
from novobench.tasks.image.transforms import crop_draws, normalize
from novobench.tasks.sampling import SampleKey, derive_seed

log = logging.getLogger(__name__)


class DeferredBatch:
    """A batch that the device makes: `to` moves its numbers there and returns the `ImageBatch`."""

    def __init__(self, store: _Resident, numbers: Tensor) -> None:
        self.store, self.numbers = store, numbers

    def pin_memory(self) -> DeferredBatch:
        return DeferredBatch(self.store, self.numbers.pin_memory())

    def to(self, device: torch.device) -> ImageBatch:
        return self.store.batch(self.numbers.to(device, non_blocking=True))


class _Resident(Dataset):
    """Pixels uint8 [N, 3, H, W] with labels; they move to the device of the first batch and stay there."""

    def __init__(self, source: ImageSource, indices: np.ndarray, config: ImageDataConfig) -> None:
        cached, bad = _cached_pixels(source, config)
        pixels, self.labels = cached[indices], source.labels[indices]
        for place in np.flatnonzero(np.isin(indices, bad)):  # it may be readable now
            image = read_or_skip(source, int(indices[place]), config)
            if image is None:
                self.labels[place] = SKIPPED_LABEL
            else:
                pixels[place] = image.transpose(2, 0, 1)
        self.config, self.size = config, config.image_size
        self.pixels = torch.from_numpy(pixels)
        self.mean = torch.tensor(config.mean).view(-1, 1, 1)
        self.std = torch.tensor(config.std).view(-1, 1, 1)
        self.channels = torch.arange(3).view(1, 3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def numbers(self, samples: np.ndarray, top: np.ndarray, left: np.ndarray, flip: np.ndarray) -> Tensor:
        """All that `batch` needs, int64 [B, 2 + 2 S], so that one copy moves it: image, label, and the rows and columns
        of the pixels to take. `top` and `left` [B] count pixels; `flip` [B] is boolean."""
        ticks = np.arange(self.size)
        columns = np.where(flip[:, None], self.size - 1 - ticks, ticks) + left[:, None]
        parts = (samples[:, None], self.labels[samples][:, None], top[:, None] + ticks, columns)
        return torch.from_numpy(np.concatenate(parts, axis=1))

    def batch(self, numbers: Tensor) -> ImageBatch:
        """The batch on the device of `numbers`."""
        if self.pixels.device != numbers.device:
            self.pixels, self.mean, self.std, self.channels = (
                tensor.to(numbers.device) for tensor in (self.pixels, self.mean, self.std, self.channels)
            )
        samples, labels, rows, columns = numbers.split([1, 1, self.size, self.size], dim=1)
        pixels = self.pixels[samples[:, :, None, None], self.channels, rows[:, None, :, None], columns[:, None, None]]
        return ImageBatch(normalize(pixels, self.mean, self.std), labels.flatten(), samples.flatten())


class ResidentTraining(_Resident):
    """As `data.TrainingImages`, a whole micro-batch at a time."""

    def __init__(self, source: ImageSource, indices: np.ndarray, config: ImageDataConfig, seed: int) -> None:
        super().__init__(source, indices, config)
        self.seed = derive_seed(seed, "augment")
        if config.crop == "none":
            self.size = self.pixels.shape[-1]
        else:
            self.pixels = TF.pad(self.pixels, [cast(int, config.crop_padding)] * 4)

    def __getitem__(self, keys: Sequence[SampleKey]) -> DeferredBatch:
        draws = crop_draws(self.seed, keys)
        positions = self.pixels.shape[-1] - self.size + 1
        top, left = (draws[:, :2] * positions).astype(np.int64).T
        flip = (draws[:, -1] < 0.5) & self.config.flip
        return DeferredBatch(self, self.numbers(np.array([key.sample for key in keys]), top, left, flip))


class ResidentEvaluation(_Resident):
    """As `data.EvaluationImages`, a whole batch at a time."""

    def __init__(self, source: ImageSource, indices: np.ndarray, config: ImageDataConfig) -> None:
        super().__init__(source, indices, config)
        self.pixels = TF.center_crop(self.pixels, [self.size])

    def __getitem__(self, indices: Sequence[int]) -> DeferredBatch:
        zeros = np.zeros(len(indices), dtype=np.int64)
        return DeferredBatch(self, self.numbers(np.array(indices), zeros, zeros, zeros > 0))


def _cached_pixels(source: ImageSource, config: ImageDataConfig) -> tuple[np.ndarray, np.ndarray]:
    """All pixels of a split, uint8 [N, 3, H, W], decoded once per machine and then read from the cache; and the indices
    of the images that could not be decoded then."""
    size = cast(int, config.resize_size)
    key = repr((DECODER_VERSION, PIL.__version__, size, source.fingerprint))

    def build(folder: Path) -> None:
        log.info("Decoding %s images.", len(source.labels))
        pixels = np.full((len(source.labels), 3, size, size), GRAY, dtype=np.uint8)
        bad = []
        for index in range(len(pixels)):
            try:
                pixels[index] = read_usable(source, index, config).transpose(2, 0, 1)
            except BadImage:
                bad.append(index)
        np.save(folder / "pixels.npy", pixels)
        np.save(folder / "bad.npy", np.array(bad, dtype=np.int64))

    folder = derived_folder(f"image/pixels-{hashlib.sha256(key.encode()).hexdigest()[:16]}", build)
    return np.load(folder / "pixels.npy", mmap_mode="r"), np.load(folder / "bad.npy")
