"""Pictures that lie decoded on the training's device, which crops, flips and normalises them there.

The loader hands over numbers alone: which pictures, and where each is cut and turned, from the same random numbers as
`data.TrainingImages`. Batches have the same bits as its: whole steps of uint8, then one subtraction and one division,
which round alike on every device.

N pictures of H × W pixels, B in a batch, S a side of what the network sees.
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
from novobench.tasks.image.config import ImageDataConfig
from novobench.tasks.image.data import GREY, LEFT_OUT, Images, crop_draws, decoded, normalised, read
from novobench.tasks.image.pictures import DECODER_VERSION, BadPicture
from novobench.tasks.sampling import SampleKey, derive_seed

log = logging.getLogger(__name__)


class Picked:
    """A batch that is made on the device it is sent to: `to` gives (images float32 [B, 3, S, S], labels int64 [B]), and
    in evaluation the pictures' places int64 [B] too."""

    def __init__(self, store: _Resident, numbers: Tensor, places: tuple[Tensor, ...] = ()) -> None:
        self.store, self.numbers, self.places = store, numbers, places

    def pin_memory(self) -> Picked:
        return Picked(self.store, self.numbers.pin_memory(), self.places)

    def to(self, device: torch.device) -> tuple[Tensor, ...]:
        return *self.store.batch(self.numbers.to(device, non_blocking=True)), *self.places


class _Resident(Dataset):
    """Pictures uint8 [N, 3, H, W] with labels; they move to the device of the first batch and stay."""

    def __init__(self, images: Images, chosen: np.ndarray, config: ImageDataConfig) -> None:
        kept, bad = _kept(images, config)
        pixels, self.labels = kept[chosen], images.labels[chosen]
        for place in np.flatnonzero(np.isin(chosen, bad)):  # tried again: what failed once may be good now
            picture = decoded(images, int(chosen[place]), config)
            if picture is None:
                self.labels[place] = LEFT_OUT
            else:
                pixels[place] = picture.transpose(2, 0, 1)
        self.config, self.size = config, config.image_size
        self.pixels = torch.from_numpy(pixels)
        self.mean = torch.tensor(config.mean).view(-1, 1, 1)
        self.std = torch.tensor(config.std).view(-1, 1, 1)
        self.channels = torch.arange(3).view(1, 3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def numbers(self, samples: np.ndarray, top: np.ndarray, left: np.ndarray, flip: np.ndarray) -> Tensor:
        """All that `batch` needs, int64 [B, 2 + 2 S] so that it crosses in one copy: picture, label, the rows and the
        columns of its pixels that are seen. `top` and `left` [B] count pixels; `flip` [B] is boolean."""
        ticks = np.arange(self.size)
        columns = np.where(flip[:, None], self.size - 1 - ticks, ticks) + left[:, None]
        parts = (samples[:, None], self.labels[samples][:, None], top[:, None] + ticks, columns)
        return torch.from_numpy(np.concatenate(parts, axis=1))

    def batch(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels on the device of `numbers`."""
        if self.pixels.device != numbers.device:
            self.pixels, self.mean, self.std, self.channels = (
                tensor.to(numbers.device) for tensor in (self.pixels, self.mean, self.std, self.channels)
            )
        samples, labels, rows, columns = numbers.split([1, 1, self.size, self.size], dim=1)
        seen = self.pixels[samples[:, :, None, None], self.channels, rows[:, None, :, None], columns[:, None, None]]
        return normalised(seen, self.mean, self.std), labels.flatten()


class ResidentTraining(_Resident):
    """`data.TrainingImages`, a whole micro-batch at a time."""

    def __init__(self, images: Images, chosen: np.ndarray, config: ImageDataConfig, seed: int) -> None:
        super().__init__(images, chosen, config)
        self.seed = derive_seed(seed, "augment")
        if config.crop == "none":
            self.size = self.pixels.shape[-1]
        else:
            self.pixels = TF.pad(self.pixels, [cast(int, config.crop_padding)] * 4)

    def __getitem__(self, keys: Sequence[SampleKey]) -> Picked:
        draws = crop_draws(self.seed, keys)
        room = self.pixels.shape[-1] - self.size + 1
        top, left = (draws[:, :2] * room).astype(np.int64).T
        flip = (draws[:, -1] < 0.5) & self.config.flip
        return Picked(self, self.numbers(np.array([key.sample for key in keys]), top, left, flip))


class ResidentEvaluation(_Resident):
    """`data.EvaluationImages`, a whole batch at a time."""

    def __init__(self, images: Images, chosen: np.ndarray, config: ImageDataConfig) -> None:
        super().__init__(images, chosen, config)
        self.pixels = TF.center_crop(self.pixels, [self.size])

    def __getitem__(self, indices: Sequence[int]) -> Picked:
        places = np.array(indices)
        unmoved = np.zeros(len(places), dtype=np.int64)
        return Picked(self, self.numbers(places, unmoved, unmoved, unmoved > 0), (torch.from_numpy(places),))


def _kept(images: Images, config: ImageDataConfig) -> tuple[np.ndarray, np.ndarray]:
    """All pictures of a split, uint8 [N, 3, H, W], from the cache, decoded there once a machine; and the indices of
    those that could not be decoded then."""
    size = cast(int, config.resize_size)
    key = repr((DECODER_VERSION, PIL.__version__, size, images.fingerprint))

    def build(folder: Path) -> None:
        log.info("Decoding %s pictures.", len(images.labels))
        pixels = np.full((len(images.labels), 3, size, size), GREY, dtype=np.uint8)
        bad = []
        for index in range(len(pixels)):
            try:
                pixels[index] = read(images, index, config).transpose(2, 0, 1)
            except BadPicture:
                bad.append(index)
        np.save(folder / "pixels.npy", pixels)
        np.save(folder / "bad.npy", np.array(bad, dtype=np.int64))

    folder = derived_folder(f"image/pixels-{hashlib.sha256(key.encode()).hexdigest()[:16]}", build)
    return np.load(folder / "pixels.npy", mmap_mode="r"), np.load(folder / "bad.npy")
