"""Batches of images: the splits that a cell (one training run) sees, cropped and normalized as in the paper's code.

Training samples are requested by `SampleKey` and depend only on (seed, key); evaluation samples by plain index.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as TF

from novobench.config import data_root
from novobench.errors import DataError
from novobench.files import derived_folder
from novobench.tasks.base import EvaluationSet, TaskData
from novobench.tasks.image.batches import GRAY, SKIPPED_LABEL, ImageSample, collate
from novobench.tasks.image.builtin import Digits
from novobench.tasks.image.config import BUILT_IN, ImageDataConfig, ImageModelConfig
from novobench.tasks.image.decoding import DECODER_VERSION
from novobench.tasks.image.image_folder import unused_splits
from novobench.tasks.image.resident import ResidentEvaluation, ResidentTraining
from novobench.tasks.image.sources import ImageSource, read_or_skip
from novobench.tasks.image.splits import Splits
from novobench.tasks.image.transforms import crop_box, crop_draws, normalize, tensorflow_crop_box
from novobench.tasks.sampling import SampleKey, derive_seed
from novobench.tasks.sources import Count, check_counts, describe

log = logging.getLogger(__name__)


class ImageData(TaskData):
    """The built-in digits, a folder tree or a hub data set; see `open_images`.

    The data loader makes the batches, or the training's device does; see `resident`.
    """

    collate = staticmethod(collate)

    def identify(self) -> str:
        """The fingerprint that `setup` would set. Decodes nothing and reads unchanged files only once."""
        return identify(self.config.data, data_root(self.config))

    def setup(self, stage: str) -> None:
        config = self.config
        splits = open_images(config.data, data_root(config), config.seed, config.model)
        self.train, self.fingerprint, self.counts = splits.train, splits.fingerprint, splits.counts
        self.evaluation_sets = [EvaluationSet("test", "test", splits.test)]
        if splits.counts["search"]:
            self.evaluation_sets.insert(0, EvaluationSet("search", "search", splits.search))
        if splits.probe is not None:
            self.evaluation_sets.insert(0, EvaluationSet("probe", "train", splits.probe))

    def _batch_loader(self, dataset: Any, batches: Any) -> DataLoader:
        if self.config.data.images_on == "loader":
            return super()._batch_loader(dataset, batches)
        # A batch is a few numbers per image: workers would take longer to send it than it takes to make.
        return DataLoader(dataset, sampler=batches, batch_size=None, pin_memory=torch.cuda.is_available())


def identify(config: ImageDataConfig, data_root: Path) -> str:
    """The fingerprint that `open_images` would return; decodes nothing and checks only what it needs."""
    return Digits(config).fingerprint if config.source == BUILT_IN else Splits(config, data_root).fingerprint


@dataclass(frozen=True)
class ImageSplits:
    """The data sets that a cell trains on and is evaluated on."""

    train: Dataset
    probe: Dataset | None
    """The training images of `data.probe_size`, to evaluate; None if that is 0."""
    search: Dataset
    test: Dataset
    fingerprint: str
    counts: dict[str, int]
    """Images by split."""


def open_images(
    config: ImageDataConfig, data_root: Path, seed: int, model: ImageModelConfig | None = None
) -> ImageSplits:
    """Open the configured source. Raises DataError, naming the folder, file or key, if it differs from the config.

    `model` is the network to train, whose channels and classes must be those of the data.
    """
    train: Dataset
    probe: Dataset | None
    if config.source == BUILT_IN:
        digits = Digits(config)
        _check_counts(config, model, digits.available, None, digits.test_size, digits.classes)
        train, search, test = digits.training(seed), digits.search(), digits.test()
        probe = digits.probe(config.probe_size) if config.probe_size else None
        fingerprint = digits.fingerprint
    else:
        splits = Splits(config, data_root)
        own_search = None if splits.search is None else len(splits.search.labels)
        own_test = None if splits.test is None else len(splits.test.labels)
        unused = unused_splits(config, data_root)
        _check_counts(config, model, len(splits.train.labels), own_search, own_test, len(splits.train.classes), unused)
        if unused:
            log.info("Not used: %s of %s; data.test_split and data.search_split choose splits.", unused, config.name)
        for source in splits.sources:
            _check_sizes(source, config)
        on_accelerator = config.images_on == "accelerator"
        training: Any = ResidentTraining if on_accelerator else TrainingImages
        evaluation: Any = ResidentEvaluation if on_accelerator else EvaluationImages
        shares = splits.shares()
        train = training(splits.train, shares.train, config, seed)
        spread = np.arange(config.probe_size) * len(shares.train) // max(config.probe_size, 1)  # over all classes
        probe = evaluation(splits.train, shares.train[spread], config) if config.probe_size else None
        search = evaluation(splits.search or splits.train, shares.search, config)
        test = evaluation(splits.test or splits.train, shares.test, config)
        fingerprint = splits.fingerprint
    counts = {"train": len(train), "search": len(search), "test": len(test)}  # type: ignore[arg-type]
    return ImageSplits(train, probe, search, test, fingerprint, counts)


def _check_counts(
    config: ImageDataConfig,
    model: ImageModelConfig | None,
    available: int,
    own_search: int | None,
    own_test: int | None,
    classes: int,
    unused: Sequence[str] = (),
) -> None:
    """Raise DataError if a count differs from the config. `available` images are in the training split, `own_search` in
    a search split and `own_test` in a test split; None: these images are a share of the training split."""
    declared = config.search_size
    shared_test = config.test_size if own_test is None else 0
    search = Count(min(declared, available) if own_search is None else own_search, declared, "search images")
    shared_search = search.actual if own_search is None else 0
    train = Count(available - shared_search - shared_test, config.train_size, "train images")
    if own_test is None and train.actual < 1:
        raise DataError(
            f"{describe(config, BUILT_IN)} has {available} images in split '{config.train_split}', but "
            f"data.search_size {shared_search} and data.test_size {shared_test} are held out of it. Lower one of them."
        )
    if own_search is None and declared >= available:  # nothing is left to train on: propose the config's share instead
        share = min(round(available * declared / (declared + config.train_size)), available - 1)
        search = Count(available, declared, f"images in split '{config.train_split}' in all", share)
        train = train._replace(proposed=available - share)
    counts = {
        "data.train_size": train,
        "data.search_size": search,
        "data.test_size": Count(config.test_size if own_test is None else own_test, config.test_size, "test images"),
    }
    if model is not None:
        counts["model.classes"] = Count(classes, model.classes, "classes")
        counts["model.in_channels"] = Count(config.channels, model.in_channels, "channels per image")
    why = f"It also holds {', '.join(unused)}; data.test_split and data.search_split choose splits." if unused else ""
    check_counts(describe(config, BUILT_IN), counts, why)


def _check_sizes(source: ImageSource, config: ImageDataConfig) -> None:
    """Raise DataError if images are not `resize_size` squared and the crop does not resize: training would see parts of
    them, and evaluation all of them, shrunk. Reads headers, once per machine."""
    if config.crop == "random_resized":
        return
    side, count = config.resize_size, len(source.labels)

    def build(folder: Path) -> None:
        np.save(folder / "sizes.npy", source.sizes(range(count)))

    key = hashlib.sha256(repr((source.fingerprint, DECODER_VERSION, PIL.__version__)).encode()).hexdigest()[:16]
    sizes = np.load(derived_folder(f"image/sizes-{key}", build) / "sizes.npy")
    if len(bad := np.flatnonzero(~sizes.any(axis=1))):  # they may be readable now
        sizes[bad] = source.sizes(bad)
    others = np.flatnonzero((sizes != side).any(axis=1) & (sizes > 0).any(axis=1))
    if not len(others):
        return
    first = others[0]
    (width, height), different = sizes[first], others[(sizes[others] != sizes[first]).any(axis=1)]
    second = (
        f", {source.name(different[0])} {sizes[different[0]][0]} × {sizes[different[0]][1]}" if len(different) else ""
    )
    one_square_size = len(others) == count and not len(different) and width == height
    resize = "data.crop=random_resized data.images_on=loader"
    remedy = f"data.image_size={width} data.resize_size=null" if one_square_size else resize
    raise DataError(
        f"{source.name(first)} has {width} × {height} pixels{second}: data.crop {config.crop} needs all images "
        f"{side} × {side} (data.resize_size; {len(others)} of {count} are not), or training would see other parts of "
        f"them than evaluation. Set {remedy}."
    )


# ---------------------------------------------------------------------------------------------- samples


class _Decoded(Dataset):
    """The images `indices` of a source, decoded one at a time."""

    def __init__(self, source: ImageSource, indices: np.ndarray, config: ImageDataConfig) -> None:
        self.source, self.indices, self.config = source, indices, config
        self.mean = torch.tensor(config.mean).view(-1, 1, 1)
        self.std = torch.tensor(config.std).view(-1, 1, 1)
        self.side = cast(int, config.resize_size)

    def __len__(self) -> int:
        return len(self.indices)

    def pixels(self, sample: int) -> tuple[Tensor, int]:
        """Pixels uint8 [3, H, W] and label of a sample; gray and `SKIPPED_LABEL` for a bad image that may be
        skipped."""
        index = int(self.indices[sample])
        pixels = read_or_skip(self.source, index, self.config)
        if pixels is None:
            return torch.full((3, self.side, self.side), GRAY, dtype=torch.uint8), SKIPPED_LABEL
        return torch.from_numpy(pixels).permute(2, 0, 1), int(self.source.labels[index])

    def normalize(self, pixels: Tensor) -> Tensor:
        return normalize(pixels, self.mean, self.std)

    def resize(self, pixels: Tensor, size: list[int]) -> Tensor:
        """Bilinear, in float, so that resized pixels are not rounded to 8 bits before normalization."""
        return TF.resize(pixels.float(), size, antialias=self.config.antialias)


class TrainingImages(_Decoded):
    """Random crop and flip, from random numbers that depend on (seed, epoch, sample)."""

    def __init__(self, source: ImageSource, indices: np.ndarray, config: ImageDataConfig, seed: int) -> None:
        super().__init__(source, indices, config)
        self.seed = derive_seed(seed, "augment")

    def __getitem__(self, key: SampleKey) -> ImageSample:
        config, size = self.config, self.config.image_size
        pixels, label = self.pixels(key.sample)
        draws = crop_draws(self.seed, [key], config.crop_sampler)[0]
        if config.crop == "random_resized":
            box = crop_box if config.crop_sampler == "torchvision" else tensorflow_crop_box
            top, left, height, width = box(
                pixels.shape[1], pixels.shape[2], draws, config.crop_scale, config.crop_ratio
            )
            pixels = self.resize(pixels[:, top : top + height, left : left + width], [size, size])
        elif config.crop == "pad_shift":
            pixels = TF.pad(pixels, [cast(int, config.crop_padding)] * 4)
            top, left = (int(draw * (extent - size + 1)) for draw, extent in zip(draws, pixels.shape[1:], strict=False))
            pixels = pixels[:, top : top + size, left : left + size]
        if config.flip and draws[-1] < 0.5:
            pixels = pixels.flip(-1)
        return ImageSample(self.normalize(pixels), label, key.sample)


class EvaluationImages(_Decoded):
    """Short side resized to `resize_size`, then the center crop of `image_size`."""

    def __getitem__(self, index: int) -> ImageSample:
        pixels, label = self.pixels(index)
        if min(pixels.shape[1:]) != self.side:
            pixels = self.resize(pixels, [self.side])
        return ImageSample(self.normalize(TF.center_crop(pixels, [self.config.image_size])), label, index)
