"""Images from three interchangeable sources, cropped and normalised as the paper's code does.

Training items are asked for by `SampleKey` and depend on (seed, key) alone; evaluation items by plain index.
Items are (image float32 [C, H, W], label).
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as TF

from novobench.errors import DataError, suggestion
from novobench.tasks.hub import open_hub
from novobench.tasks.image.config import ImageDataConfig
from novobench.tasks.sampling import SampleKey, derive_seed, uniforms

log = logging.getLogger(__name__)

UNREADABLE = (OSError, UnidentifiedImageError, SyntaxError, ValueError)
"""What Pillow raises for a file that holds no whole picture."""
LEFT_OUT = -1
"""Label of an image that cannot be decoded, where `data.on_bad_image` is `skip`; its pixels are `GREY`."""
GREY = 127
_CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class ImageSplits:
    """All a cell trains on and is judged by."""

    train: Dataset
    search: Dataset
    test: Dataset
    fingerprint: str
    counts: dict[str, int]


class Images(Protocol):
    """A split as it lies on disk: pictures, labels, and the name of a picture for error messages."""

    labels: np.ndarray
    classes: list[str]
    fingerprint: str
    cache_key: str
    """Another one when a picture may have changed: decoded pictures are kept under it."""

    def read(self, index: int) -> Image.Image: ...

    def name(self, index: int) -> str: ...


def open_images(config: ImageDataConfig, data_root: Path, seed: int) -> ImageSplits:
    """Open the configured source. Raises DataError, naming the folder or file, if it is not as the config says."""
    if config.source == "digits":
        from novobench.tasks.image.builtin import open_digits

        train, search, test, fingerprint = open_digits(config, seed)
    else:
        opener = FolderImages if config.source == "folder" else HubImages
        pool = opener(config, data_root, config.train_split)
        held_out = opener(config, data_root, config.test_split)
        if pool.classes != held_out.classes:
            odd = sorted(set(pool.classes) ^ set(held_out.classes))[:3]
            raise DataError(
                f"{held_out.name(0)} and {pool.name(0)}: classes of '{config.train_split}' and '{config.test_split}' "
                f"differ, e.g. {', '.join(odd)}. Both splits need the same class folders."
            )
        _check_classes(config, pool)
        order = np.argsort(uniforms(0, "search-split", [SampleKey(0, i) for i in range(len(pool.labels))], 1)[:, 0])
        held, kept = np.sort(order[: config.search_size]), np.sort(order[config.search_size :])
        training: Any = TrainingImages
        evaluation: Any = EvaluationImages
        if config.images_on == "accelerator":
            from novobench.tasks.image.resident import ResidentEvaluation, ResidentTraining

            training, evaluation = ResidentTraining, ResidentEvaluation
        train = training(pool, kept, config, seed)
        search = evaluation(pool, held, config)
        test = evaluation(held_out, np.arange(len(held_out.labels)), config)
        fingerprint = f"{config.name}:{pool.fingerprint}:{held_out.fingerprint}"
    counts = {"train": len(train), "search": len(search), "test": len(test)}  # type: ignore[arg-type]
    expected = {"train": config.train_size, "search": config.search_size, "test": config.test_size}
    if config.source == "digits" and config.name != "digits-plain":
        expected["search"] *= config.test_copies
    for split, count in counts.items():
        if count != expected[split]:
            raise DataError(
                f"data '{config.name}' ({config.source} {config.path or 'built in'}) has {count} {split} images, but "
                f"data.{split}_size is {expected[split]}. Complete the data, or set data.{split}_size."
            )
    return ImageSplits(train, search, test, fingerprint, counts)


def _check_classes(config: ImageDataConfig, pool: Images) -> None:
    for label, name in enumerate(pool.classes):
        if not np.any(pool.labels == label):
            raise DataError(f"data '{config.name}': class '{name}' of split '{config.train_split}' has no image.")


# ---------------------------------------------------------------------------------------------- sources


class FolderImages:
    """An ImageFolder tree `<root>/<split>/<class>/<image>`; classes and images in sorted order."""

    _ENDINGS = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm")

    def __init__(self, config: ImageDataConfig, data_root: Path, split: str) -> None:
        root = data_root / (config.path or config.name)
        if not root.is_dir():
            raise DataError(
                f"No data folder {root} for '{config.name}' (data.path under the data root). Put an ImageFolder tree "
                "there, set NOVOBENCH_DATA or data_root to where it is, or use data.source=hub."
            )
        folder = root / split
        if not folder.is_dir():
            there = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
            raise DataError(
                f"{root} has no split '{split}'.{suggestion(split, there)} It holds: {', '.join(there)}. "
                "Set data.train_split or data.test_split."
            )
        self.classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        if not self.classes:
            raise DataError(f"{folder} holds no class folders; an ImageFolder tree is <split>/<class>/<image>.")
        self.files: list[str] = []
        labels: list[int] = []
        digest, times = hashlib.sha256(), hashlib.sha256(str(folder).encode())
        for label, name in enumerate(self.classes):
            found = sorted(
                (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
                for entry in os.scandir(folder / name)
                if entry.name.lower().endswith(self._ENDINGS)
            )
            if not found:
                raise DataError(f"{folder / name} is an empty class: no image in it. Remove the folder or fill it.")
            for file, size, changed in found:
                digest.update(f"{name}/{file} {size}\n".encode())
                times.update(f"{changed}\n".encode())
                self.files.append(f"{name}/{file}")
                labels.append(label)
        self.folder = folder
        self.labels = np.array(labels)
        self.fingerprint = digest.hexdigest()[:16]
        self.cache_key = f"{self.fingerprint}-{times.hexdigest()[:16]}"

    def read(self, index: int) -> Image.Image:
        return Image.open(self.folder / self.files[index])

    def name(self, index: int) -> str:
        return str(self.folder / self.files[index])


class HubImages:
    """A Hugging Face data set: a hub id, or a local folder of parquet files with the same columns."""

    def __init__(self, config: ImageDataConfig, data_root: Path, split: str) -> None:
        import datasets

        self.where = f"{config.path}[{split}]"
        columns = {config.image_column: "data.image_column", config.label_column: "data.label_column"}
        found = open_hub(config.path, "", data_root, split, columns, "data.train_split, data.test_split")
        self.table = found.cast_column(config.image_column, datasets.Image(decode=False))
        self.column = config.image_column
        self.labels = np.asarray(found.with_format(None)[config.label_column])
        feature = found.features[config.label_column]
        names = getattr(feature, "names", None)
        self.classes = list(names) if names else [str(label) for label in sorted(set(self.labels.tolist()))]
        self.fingerprint = hashlib.sha256(f"{len(self.labels)}".encode() + self.labels.tobytes()).hexdigest()[:16]
        tables = [(name, os.stat(name).st_mtime_ns) for name in (each["filename"] for each in found.cache_files)]
        self.cache_key = hashlib.sha256(f"{tables} {split} {self.fingerprint}".encode()).hexdigest()[:16]

    def read(self, index: int) -> Image.Image:
        return Image.open(io.BytesIO(self.table[int(index)][self.column]["bytes"]))

    def name(self, index: int) -> str:
        return f"{self.where} row {index}"


# ---------------------------------------------------------------------------------------------- samples


class _Prepared(Dataset):
    def __init__(self, images: Images, chosen: np.ndarray, config: ImageDataConfig) -> None:
        self.images, self.chosen, self.config = images, chosen, config
        self.mean = torch.tensor(config.mean).view(-1, 1, 1)
        self.std = torch.tensor(config.std).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.chosen)

    def pixels(self, sample: int) -> tuple[Tensor, int]:
        """The decoded picture, uint8 [3, H, W], and its label; `LEFT_OUT` if it is bad and may be skipped."""
        index = int(self.chosen[sample])
        try:
            return TF.pil_to_tensor(self.images.read(index).convert("RGB")), int(self.images.labels[index])
        except UNREADABLE as error:
            tell_bad(self.images, index, str(error), self.config)
            size = self.config.resize_size
            return torch.full((3, size, size), GREY, dtype=torch.uint8), LEFT_OUT

    def normalised(self, picture: Tensor) -> Tensor:
        return normalised(picture, self.mean, self.std)

    def resized(self, picture: Tensor, size: list[int]) -> Tensor:
        """Bilinear, in float, so that no rounding to 8 bits comes between resize and normalisation."""
        return TF.resize(picture.float(), size, antialias=self.config.antialias)


def tell_bad(images: Images, index: int, reason: str, config: ImageDataConfig) -> None:
    """Raise DataError for a picture that cannot be decoded, or warn of it where `on_bad_image` is `skip`."""
    if config.on_bad_image == "error":
        raise DataError(
            f"{images.name(index)} cannot be decoded: {reason}. Replace the file, or set "
            "data.on_bad_image=skip to go on without it."
        )
    log.warning("Skipped %s, which cannot be decoded: %s", images.name(index), reason)


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
        draws = crop_draws(self.seed, [key])[0]
        if config.crop == "random_resized":
            top, left, height, width = crop_box(
                picture.shape[1], picture.shape[2], draws, config.crop_scale, config.crop_ratio
            )
            picture = self.resized(picture[:, top : top + height, left : left + width], [size, size])
        elif config.crop == "pad_shift":
            picture = TF.pad(picture, [config.crop_padding] * 4)
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
        if min(picture.shape[1:]) != self.config.resize_size:
            picture = self.resized(picture, [self.config.resize_size])
        return self.normalised(TF.center_crop(picture, [self.config.image_size])), label


def crop_draws(seed: int, keys: Sequence[SampleKey]) -> np.ndarray:
    """The uniform numbers that crop and flip each of the pictures, [len(keys), 23]; the last decides the flip."""
    return uniforms(seed, "crop", keys, 2 * _CROP_ATTEMPTS + 3)


def crop_box(
    height: int, width: int, draws: Sequence[float] | np.ndarray, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop: area uniform in `scale` of the whole, shape log-uniform in `ratio`.

    The first of ten tries that fits; if none does, the largest centred box of an allowed shape (torchvision's rule).
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(_CROP_ATTEMPTS):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[2 * attempt])
        shape = math.exp(low + (high - low) * draws[2 * attempt + 1])
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(draws[-3] * (height - h + 1)), int(draws[-2] * (width - w + 1)), h, w
    shape = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * shape)), min(height, round(width / shape))
    return (height - h) // 2, (width - w) // 2, h, w
