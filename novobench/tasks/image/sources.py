"""Raw images with labels, from an ImageFolder tree or a Hugging Face data set. The built-in digits are in `builtin`.

N images of a split; they stay encoded until they are read.
"""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from novobench.errors import DataError
from novobench.hardware import cores
from novobench.tasks.hub import open_hub, read_rows, row_digests, row_source, split_label
from novobench.tasks.image.config import ImageDataConfig
from novobench.tasks.image.decoding import BadImage, MissingImage, image_size, quiet, rgb_pixels
from novobench.tasks.image.image_folder import IMAGE_SUFFIXES, class_folders, image_files, subfolders, unused_splits
from novobench.tasks.sources import (
    content_digests,
    data_folder,
    listed,
    listing_key,
    missing_split,
    printable,
    split_key,
)

log = logging.getLogger(__name__)


class ImageSource(ABC):
    """One split of a data set."""

    labels: np.ndarray
    """int64 [N], each in 0 … len(classes) − 1."""
    classes: list[str]
    where: str
    """The split, for messages."""

    @abstractmethod
    def encoded(self, index: int) -> Path | bytes:
        """The file or the bytes of an image. Raises BadImage if it has neither."""

    @abstractmethod
    def name(self, index: int) -> str:
        """An image, for messages; any file name becomes printable."""

    @abstractmethod
    def digests(self) -> np.ndarray:
        """Digests of the encoded images, uint8 [N, 16]; zeros for an image without content."""

    def read(self, index: int) -> np.ndarray:
        """RGB pixels, uint8 [H, W, 3]. Raises BadImage."""
        return rgb_pixels(self.encoded(index))

    def sizes(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Width and height of images, from their headers, int64 [n, 2]; zeros for a bad image."""

        def size(index: int) -> tuple[int, int]:
            try:
                return image_size(self.encoded(int(index)))
            except BadImage:
                return 0, 0  # decoding it will say why

        with quiet(), ThreadPoolExecutor(cores()) as pool:
            return np.array(list(pool.map(size, indices)), dtype=np.int64).reshape(-1, 2)

    @property
    @abstractmethod
    def cache_key(self) -> str:
        """Changes when an image may have changed. What is derived from the images is cached under it."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits of class names, labels and encoded images, in order; it does not depend on file names."""
        return self._identity[0]

    @property
    def readable(self) -> np.ndarray:
        """Whether each image had content when the fingerprint was taken, bool [N]."""
        return self._identity[1]

    @cached_property
    def _identity(self) -> tuple[str, np.ndarray]:
        digests = self.digests()
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        digest.update(digests.tobytes())
        return digest.hexdigest()[:16], np.asarray(digests.any(axis=1))

    def number_classes_as(self, training: ImageSource, key: str) -> None:
        """Give each class its number in the training split. `key` is the config key of this split.

        Classes of the training split may be absent here. Raises DataError for a class that the training split lacks.
        """
        numbers = {name: number for number, name in enumerate(training.classes)}
        new = [name for label, name in enumerate(self.classes) if name not in numbers and np.any(self.labels == label)]
        if new:
            same_but_case = any(name.casefold() == new[0].casefold() for name in numbers)
            case = " They differ only in upper and lower case." if same_but_case else ""
            raise DataError(
                f"{self.where} has classes that {training.where} lacks: {listed(new)}; its classes are "
                f"{listed(numbers)}.{case} Complete the training split, remove those images, or set {key}."
            )
        self.labels = np.array([numbers.get(name, -1) for name in self.classes])[self.labels]
        self.classes = training.classes


class FolderSource(ImageSource):
    """An ImageFolder tree `<root>/<split>/<class>/…/<image>`; classes and images in sorted order.

    As in torchvision, images may also lie in folders below a class. Hidden entries are ignored.
    """

    def __init__(self, config: ImageDataConfig, data_root: Path, split: str) -> None:
        root = data_folder(data_root, config.path, config.name, "an ImageFolder tree")
        self.folder = root / split
        self.where = printable(self.folder)
        key = split_key(config, split, "data.train_split")
        if not self.folder.is_dir():
            unused = [] if key == "data.train_split" else unused_splits(config, data_root)
            remedy = f"Set {f'{key}={unused[0]}' if unused else key}."
            raise missing_split(printable(root), split, subfolders(root), remedy)
        folders = class_folders(self.folder)
        self.classes = sorted(folders)
        if not self.classes:
            raise DataError(
                f"{self.where} holds no class folders; an ImageFolder tree is <split>/<class>/<image>. Sort the images "
                f"into a folder per class, or set {key}."
            )
        self.files: list[str] = []
        labels: list[int] = []
        skipped: list[str] = []
        for label, name in enumerate(self.classes):
            folder = folders[name]
            images, others = image_files(self.folder / folder)
            skipped += (f"{folder}/{other}" for other in others)
            if not images:
                suffix = f" with suffix {', '.join(IMAGE_SUFFIXES)}, but e.g. {printable(others[0])}" if others else ""
                raise DataError(
                    f"{printable(self.folder / folder)} is an empty class: no image in it{suffix}. Remove the folder "
                    "or fill it."
                )
            self.files += (f"{folder}/{file}" for file in images)
            labels += [label] * len(images)
        if skipped:
            log.warning(
                "Skipped %d files of %s that have no image suffix, e.g. %s. Suffixes of images: %s.",
                len(skipped), self.where, printable(skipped[0]), ", ".join(IMAGE_SUFFIXES),
            )  # fmt: skip
        self.labels = np.array(labels)

    def encoded(self, index: int) -> Path:
        return self.folder / self.files[index]

    def name(self, index: int) -> str:
        return printable(self.folder / self.files[index])

    def digests(self) -> np.ndarray:
        return content_digests([self.folder / file for file in self.files])

    @property
    def cache_key(self) -> str:
        return listing_key([self.folder / file for file in self.files])


class HubSource(ImageSource):
    """A Hugging Face data set: a hub id, or a local folder of parquet files with the same columns.

    The classes are those of a ClassLabel column, or the values of a column of numbers or texts, in sorted order.
    """

    def __init__(self, config: ImageDataConfig, data_root: Path, split: str) -> None:
        import datasets

        self.where, self.split = split_label(config.path, split), split
        self.folder = data_root / config.path
        self.column = config.image_column
        key = split_key(config, split, "data.train_split")
        columns = {self.column: "data.image_column", config.label_column: "data.label_column"}
        table = open_hub(config.path, "", data_root, split, columns, key)
        if not len(table):
            raise DataError(f"{self.where} has no rows. Set {key}.")
        feature = table.features[self.column]
        try:
            if isinstance(feature, dict) and not feature.keys() & {"bytes", "path"}:
                raise TypeError("neither bytes nor path")
            self.table = table.select_columns([self.column]).cast_column(self.column, datasets.Image(decode=False))
        except Exception as error:  # pyarrow and datasets raise many types for a column that holds something else
            raise DataError(
                f"{self.where}: column '{self.column}' holds {feature}, not images ({type(error).__name__}). Set "
                "data.image_column."
            ) from None
        self.labels, self.classes = _labels(table, config.label_column, self.where, key)

    def encoded(self, index: int) -> Path | bytes:
        source = row_source(read_rows(self.table, [int(index)], self.column, self.where)[0], self.folder)
        if source is None:
            raise BadImage("its row holds neither bytes nor a path")
        return source

    def read(self, index: int) -> np.ndarray:
        try:
            return super().read(index)
        except MissingImage as error:
            path = str(self.encoded(index))
            raise MissingImage(f"its row holds no bytes but the path of a file, {path}: {error}") from None

    def name(self, index: int) -> str:
        return f"{self.where} row {index}"

    def digests(self) -> np.ndarray:
        return row_digests(self.table, self.column, self.folder, self.split, self.where)

    @property
    def cache_key(self) -> str:
        return self.fingerprint


def _labels(table: Any, column: str, where: str, key: str) -> tuple[np.ndarray, list[str]]:
    """Labels int64 [N] of a table's rows, and the names of their classes. `key` is the config key of the split."""
    feature = table.features[column]
    names = getattr(feature, "names", None)
    dtype = str(getattr(feature, "dtype", "list"))
    if not dtype.startswith(("int", "uint", "bool", "string", "large_string")):
        raise DataError(f"{where}: column '{column}' holds {feature}, not classes. Set data.label_column.")
    values = table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    numeric = not isinstance(next((value for value in values if value is not None), 0), str)
    limit = len(names) if names else float("inf")
    bad_rows = [
        row
        for row, value in enumerate(values)
        if value is None or (not 0 <= value < limit if numeric else not value.strip())
    ]
    if bad_rows:
        value = values[bad_rows[0]]
        has_number = value is not None and numeric
        label = f"label {value}" if has_number else "no label"
        outside = f", which is not one of the classes 0 to {len(names) - 1}" if names and has_number else ""
        unpublished = " Data sets of the hub use -1 for labels that are not published." if value == -1 else ""
        raise DataError(
            f"{where} row {bad_rows[0]} has {label} in column '{column}'{outside} ({len(bad_rows)} of {len(values)} "
            f"rows).{unpublished} Set data.label_column, or {key} to a split with labels."
        )
    if names:
        return np.array(values, dtype=np.int64), list(names)
    numbers = {value: number for number, value in enumerate(sorted(set(values)))}
    return np.array([numbers[value] for value in values], dtype=np.int64), [str(value) for value in numbers]


def read_usable(source: ImageSource, index: int, config: ImageDataConfig) -> np.ndarray:
    """The pixels of an image that the config's crops can use, uint8 [H, W, 3]. Raises BadImage with the reason."""
    pixels = source.read(index)
    (height, width), side = pixels.shape[:2], cast(int, config.resize_size)
    if config.images_on == "accelerator" and (height, width) != (side, side):  # changed since the sizes were checked
        raise BadImage(f"it has {width} × {height} pixels instead of data.resize_size {side} squared")
    if max(height, width) * side**2 > min(height, width) * cast(int, Image.MAX_IMAGE_PIXELS):
        raise BadImage(f"its {width} × {height} pixels cannot be resized to a short side of {side}: it is too narrow")
    return pixels


def read_or_skip(source: ImageSource, index: int, config: ImageDataConfig) -> np.ndarray | None:
    """The pixels of an image, uint8 [H, W, 3]; None, with a warning, for a bad one if `on_bad_image` is `skip`.

    Raises DataError for a bad image otherwise, and for one that could be read when the data were opened: which images
    are skipped must not depend on when a disk is unavailable.
    """
    try:
        return read_usable(source, index, config)
    except BadImage as error:
        if isinstance(error, MissingImage) and source.readable[index]:
            raise DataError(
                f"{source.name(index)} can no longer be read: {error}. It could be read when the data were opened: "
                "restore it, then run the same command again."
            ) from None
        if config.on_bad_image == "error":
            raise DataError(
                f"{source.name(index)} cannot be decoded: {error}. Replace it, or set data.on_bad_image=skip to train "
                "without it."
            ) from None
        log.warning("Skipped %s, which cannot be decoded: %s", source.name(index), error)
        return None
