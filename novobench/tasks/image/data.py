"""Images of interchangeable sources, cropped and normalised as the paper's code does.

Training items are asked for by `SampleKey` and depend on (seed, key) alone; evaluation items by plain index.
Items are (image float32 [C, H, W], label).
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as TF

from novobench.errors import DataError
from novobench.files import derived_folder
from novobench.tasks.image.builtin import Digits
from novobench.tasks.image.config import ImageDataConfig, ImageModelConfig
from novobench.tasks.image.pictures import DECODER_VERSION, BadPicture, MissingPicture
from novobench.tasks.image.sources import FolderImages, HubImages, Images, open_source, spare_splits
from novobench.tasks.sampling import SampleKey, derive_seed, uniforms
from novobench.tasks.sources import Count, check_counts

log = logging.getLogger(__name__)

__all__ = ["FolderImages", "HubImages", "Images"]  # and all that is defined here

LEFT_OUT = -(2**31)
"""Label of an image that cannot be decoded, where `data.on_bad_image` is `skip`; its pixels are `GREY`. No label of a
data set: those are 0 … classes − 1, checked when the data are opened."""
GREY = 127
_CROP_ATTEMPTS = {"torchvision": 10, "tensorflow": 100}
_COVERED = 0.1
"""Share of the image that TensorFlow's crop must cover; OpenSeq2Seq's min_object_covered, without human boxes."""


@dataclass(frozen=True)
class ImageSplits:
    """All a cell trains on and is judged by."""

    train: Dataset
    search: Dataset
    test: Dataset
    fingerprint: str
    counts: dict[str, int]


def identify(config: ImageDataConfig, data_root: Path) -> str:
    """The fingerprint that `open_images` would give, without decoding or checking more than it needs."""
    return Digits(config).fingerprint if config.source == "digits" else _Splits(config, data_root).fingerprint


def open_images(
    config: ImageDataConfig, data_root: Path, seed: int, model: ImageModelConfig | None = None
) -> ImageSplits:
    """Open the configured source. Raises DataError, naming the folder, file or key, if it is not as the config says.

    `model`: the network that is to be trained, whose channels and classes must be the data's.
    """
    train: Dataset
    if config.source == "digits":
        digits = Digits(config)
        _check_counts(config, model, digits.available, None, digits.test_size, digits.classes)
        train, search, test = digits.training(seed), digits.search(), digits.test()
        fingerprint = digits.fingerprint
    else:
        splits = _Splits(config, data_root)
        own_search = None if splits.search is None else len(splits.search.labels)
        sizes = len(splits.train.labels), own_search, len(splits.test.labels)
        spare = spare_splits(config, data_root)
        _check_counts(config, model, *sizes, len(splits.train.classes), spare)
        if spare:
            log.info("Not used: %s of %s; data.test_split and data.search_split choose splits.", spare, config.name)
        for images in filter(None, (splits.train, splits.search, splits.test)):
            check_sizes(images, config)
        training: Any = TrainingImages
        evaluation: Any = EvaluationImages
        if config.images_on == "accelerator":
            from novobench.tasks.image.resident import ResidentEvaluation, ResidentTraining

            training, evaluation = ResidentTraining, ResidentEvaluation
        kept, held = splits.shares()
        train = training(splits.train, kept, config, seed)
        search = evaluation(splits.search or splits.train, held, config)
        test = evaluation(splits.test, np.arange(len(splits.test.labels)), config)
        fingerprint = splits.fingerprint
    counts = {"train": len(train), "search": len(search), "test": len(test)}  # type: ignore[arg-type]
    return ImageSplits(train, search, test, fingerprint, counts)


class _Splits:
    """The splits of a folder or hub data set, whose classes have the same numbers."""

    def __init__(self, config: ImageDataConfig, data_root: Path) -> None:
        self.config = config
        self.train = open_source(config, data_root, config.train_split)
        self.test = open_source(config, data_root, config.test_split)
        self.search = open_source(config, data_root, config.search_split) if config.search_split else None
        for label, name in enumerate(self.train.classes):
            if not np.any(self.train.labels == label):
                raise DataError(f"data '{config.name}': class '{name}' of split '{config.train_split}' has no image.")
        self.test.number_as(self.train, "data.test_split")
        if self.search is not None:
            self.search.number_as(self.train, "data.search_split")

    @property
    def fingerprint(self) -> str:
        held_out = [self.test] if self.search is None else [self.test, self.search]
        return ":".join([self.config.name, self.train.fingerprint, *(images.fingerprint for images in held_out)])

    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the images trained on, and of those for search, in their splits."""
        images = len(self.train.labels)
        if self.search is not None:
            return np.arange(images), np.arange(len(self.search.labels))
        order = np.argsort(uniforms(0, "search-split", [SampleKey(0, i) for i in range(images)], 1)[:, 0])
        return np.sort(order[self.config.search_size :]), np.sort(order[: self.config.search_size])


def _check_counts(
    config: ImageDataConfig,
    model: ImageModelConfig | None,
    available: int,
    own_search: int | None,
    test: int,
    classes: int,
    spare: Sequence[str] = (),
) -> None:
    """`available` images in the training split, `own_search` in a split for search alone."""
    wanted = config.search_size
    held = Count(min(wanted, available) if own_search is None else own_search, wanted, "search images")
    trained = Count(available - held.actual if own_search is None else available, config.train_size, "train images")
    if own_search is None and wanted >= available:  # nothing is left to train on: hold out the config's share instead
        share = min(round(available * wanted / (wanted + config.train_size)), available - 1)
        held = Count(available, wanted, f"images in split '{config.train_split}' in all", share)
        trained = trained._replace(proposed=available - share)
    counts = {
        "data.train_size": trained,
        "data.search_size": held,
        "data.test_size": Count(test, config.test_size, "test images"),
    }
    if model is not None:
        counts["model.classes"] = Count(classes, model.classes, "classes")
        counts["model.in_channels"] = Count(config.channels, model.in_channels, "channels per image")
    where = f"data '{config.name}' ({config.source} {config.path or 'built in'})"
    used = f"It also holds {', '.join(spare)}; data.test_split and data.search_split choose splits." if spare else ""
    check_counts(where, counts, used)


def check_sizes(images: Images, config: ImageDataConfig) -> None:
    """Raise DataError if a crop that moves images without resizing them finds some that are not `resize_size` squared:
    training would see pieces of them, and evaluation all of them, shrunken. Reads headers, once a machine."""
    if config.crop == "random_resized":
        return
    side = config.resize_size

    def build(folder: Path) -> None:
        np.save(folder / "sizes.npy", images.sizes(range(count)))

    count = len(images.labels)
    key = hashlib.sha256(repr((images.fingerprint, DECODER_VERSION, PIL.__version__)).encode()).hexdigest()[:16]
    sizes = np.load(derived_folder(f"image/sizes-{key}", build) / "sizes.npy")
    if len(bad := np.flatnonzero(~sizes.any(axis=1))):  # tried again: what failed once may be good now
        sizes[bad] = images.sizes(bad)
    others = np.flatnonzero((sizes != side).any(axis=1) & (sizes > 0).any(axis=1))
    if not len(others):
        return
    first = others[0]
    (width, height), unlike = sizes[first], others[(sizes[others] != sizes[first]).any(axis=1)]
    too = f", {images.name(unlike[0])} {sizes[unlike[0]][0]} × {sizes[unlike[0]][1]}" if len(unlike) else ""
    alike = len(others) == count and not len(unlike) and width == height
    resize = "data.crop=random_resized data.images_on=loader"
    remedy = f"data.image_size={width} data.resize_size=null" if alike else resize
    raise DataError(
        f"{images.name(first)} has {width} × {height} pixels{too}: data.crop {config.crop} needs all images {side} × "
        f"{side} (data.resize_size; {len(others)} of {count} are not), or training would see other pieces of them than "
        f"evaluation. Set {remedy}."
    )


# ---------------------------------------------------------------------------------------------- samples


class _Prepared(Dataset):
    def __init__(self, images: Images, chosen: np.ndarray, config: ImageDataConfig) -> None:
        self.images, self.chosen, self.config = images, chosen, config
        self.mean = torch.tensor(config.mean).view(-1, 1, 1)
        self.std = torch.tensor(config.std).view(-1, 1, 1)
        self.side = cast(int, config.resize_size)

    def __len__(self) -> int:
        return len(self.chosen)

    def pixels(self, sample: int) -> tuple[Tensor, int]:
        """The decoded picture, uint8 [3, H, W], and its label; `LEFT_OUT` if it is bad and may be skipped."""
        index = int(self.chosen[sample])
        picture = decoded(self.images, index, self.config)
        if picture is None:
            return torch.full((3, self.side, self.side), GREY, dtype=torch.uint8), LEFT_OUT
        return torch.from_numpy(picture).permute(2, 0, 1), int(self.images.labels[index])

    def normalised(self, picture: Tensor) -> Tensor:
        return normalised(picture, self.mean, self.std)

    def resized(self, picture: Tensor, size: list[int]) -> Tensor:
        """Bilinear, in float, so that no rounding to 8 bits comes between resize and normalisation."""
        return TF.resize(picture.float(), size, antialias=self.config.antialias)


def read(images: Images, index: int, config: ImageDataConfig) -> np.ndarray:
    """A picture that the config's crops can use, uint8 [H, W, 3]. Raises BadPicture, with the reason."""
    picture = images.read(index)
    (height, width), side = picture.shape[:2], cast(int, config.resize_size)
    if config.images_on == "accelerator" and (height, width) != (side, side):  # changed since `check_sizes`
        raise BadPicture(f"it has {width} × {height} pixels instead of data.resize_size {side} squared")
    if max(height, width) * side**2 > min(height, width) * cast(int, Image.MAX_IMAGE_PIXELS):
        raise BadPicture(f"its {width} × {height} pixels cannot be resized to a short side of {side}: it is too narrow")
    return picture


def decoded(images: Images, index: int, config: ImageDataConfig) -> np.ndarray | None:
    """A picture, uint8 [H, W, 3], or None, with a warning, for a bad one where `on_bad_image` is `skip`.

    Raises DataError for a bad one elsewhere, and for one that was there when the data were opened: what is skipped must
    not depend on when a disk is away.
    """
    try:
        return read(images, index, config)
    except BadPicture as error:
        if isinstance(error, MissingPicture) and images.readable[index]:
            raise DataError(
                f"{images.name(index)} can no longer be read: {error}. It was there when the data were opened: bring "
                "it back, then run the same command again."
            ) from None
        if config.on_bad_image == "error":
            raise DataError(
                f"{images.name(index)} cannot be decoded: {error}. Replace it, or set data.on_bad_image=skip to go "
                "on without it."
            ) from None
        log.warning("Skipped %s, which cannot be decoded: %s", images.name(index), error)
        return None


def normalised(pictures: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """float32 pictures of uint8 ones [..., 3, H, W]; `mean` and `std` are [3, 1, 1], float32."""
    return (pictures.float() - mean) / std


class TrainingImages(_Prepared):
    """Random crop and flip from random numbers of (seed, epoch, sample)."""

    def __init__(self, images: Images, chosen: np.ndarray, config: ImageDataConfig, seed: int) -> None:
        super().__init__(images, chosen, config)
        self.seed = derive_seed(seed, "augment")

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, int]:
        config, size = self.config, self.config.image_size
        picture, label = self.pixels(key.sample)
        draws = crop_draws(self.seed, [key], config.crop_sampler)[0]
        if config.crop == "random_resized":
            box = crop_box if config.crop_sampler == "torchvision" else tensorflow_crop_box
            top, left, height, width = box(
                picture.shape[1], picture.shape[2], draws, config.crop_scale, config.crop_ratio
            )
            picture = self.resized(picture[:, top : top + height, left : left + width], [size, size])
        elif config.crop == "pad_shift":
            picture = TF.pad(picture, [cast(int, config.crop_padding)] * 4)
            top, left = (
                int(draw * (extent - size + 1)) for draw, extent in zip(draws, picture.shape[1:], strict=False)
            )
            picture = picture[:, top : top + size, left : left + size]
        if config.flip and draws[-1] < 0.5:
            picture = picture.flip(-1)
        return self.normalised(picture), label


class EvaluationImages(_Prepared):
    """Short side to `resize_size`, centre crop of `image_size`."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture, label = self.pixels(index)
        if min(picture.shape[1:]) != self.side:
            picture = self.resized(picture, [self.side])
        return self.normalised(TF.center_crop(picture, [self.config.image_size])), label


def crop_draws(seed: int, keys: Sequence[SampleKey], sampler: str = "torchvision") -> np.ndarray:
    """The uniform numbers that crop and flip each of the pictures, two for each attempt and three more, [len(keys), 23]
    or [len(keys), 203]; the last decides the flip."""
    return uniforms(seed, "crop", keys, 2 * _CROP_ATTEMPTS[sampler] + 3)


def crop_box(
    height: int, width: int, draws: Sequence[float] | np.ndarray, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop: area uniform in `scale` of the whole, shape log-uniform in `ratio`.

    The first of ten tries that fits; if none does, the largest centred box of an allowed shape (torchvision's rule).
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(_CROP_ATTEMPTS["torchvision"]):
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
    `scale` of the whole and at least a tenth; the whole image if 100 tries find none (TensorFlow's rule)."""
    smallest, largest = scale[0] * height * width, scale[1] * height * width
    for attempt in range(_CROP_ATTEMPTS["tensorflow"]):
        shape = ratio[0] + (ratio[1] - ratio[0]) * draws[2 * attempt]
        high = round(math.sqrt(largest / shape))
        if round(high * shape) > width:
            high = int((width + 0.5 - 1e-7) / shape)
        high = min(high, height)
        low = min(round(math.sqrt(smallest / shape)), high)
        h = low + int(draws[2 * attempt + 1] * (high - low + 1))
        if round(h * shape) * h < smallest:  # by rounding alone
            h += 1
        if round(h * shape) * h > largest:
            h -= 1
        w = round(h * shape)
        if max(smallest, _COVERED * height * width) <= h * w <= largest and 0 < w <= width and 0 < h <= height:
            return int(draws[-3] * max(height - h, 1)), int(draws[-2] * max(width - w, 1)), h, w
    return 0, 0, height, width
