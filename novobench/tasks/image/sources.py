"""Where images come from: a folder tree or a Hugging Face data set. N pictures with labels, known by their content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from novobench.errors import DataError, kind_and_message, suggestion
from novobench.hardware import cores
from novobench.tasks.hub import open_hub, read_rows, row_digests, row_source
from novobench.tasks.image.config import ImageDataConfig
from novobench.tasks.image.pictures import BadPicture, MissingPicture, picture_size, quiet, rgb_pixels
from novobench.tasks.sources import content_digests

log = logging.getLogger(__name__)

_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jp2",
    ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
_STRAY_FOLDERS = ("__MACOSX", "@eaDir", "lost+found", "__pycache__")
"""What archives, network drives, file systems and interpreters leave in a tree, besides hidden entries."""
_HELD_OUT = ("test", "val", "valid", "validation", "dev", "eval")
"""Usual names of splits that are not trained on."""


class Images(ABC):
    """A split as it lies on disk."""

    labels: np.ndarray
    """int64 [N], each in 0 … len(classes) − 1."""
    classes: list[str]
    where: str
    """The split, for messages."""

    @abstractmethod
    def encoded(self, index: int) -> Path | bytes:
        """The file or the bytes of a picture. Raises BadPicture where there is neither."""

    @abstractmethod
    def name(self, index: int) -> str:
        """A picture, for messages; any file name can be printed."""

    @abstractmethod
    def digests(self) -> np.ndarray:
        """Of the encoded pictures, uint8 [N, 16]."""

    def read(self, index: int) -> np.ndarray:
        """RGB pixels, uint8 [H, W, 3]. Raises BadPicture."""
        return rgb_pixels(self.encoded(index))

    def sizes(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Width and height of pictures, from their headers, int64 [n, 2]; zeros for one that is bad."""

        def size(index: int) -> tuple[int, int]:
            try:
                return picture_size(self.encoded(int(index)))
            except BadPicture:
                return 0, 0  # decoding it will say why

        with quiet(), ThreadPoolExecutor(cores()) as pool:
            return np.array(list(pool.map(size, indices)), dtype=np.int64).reshape(-1, 2)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of class names, labels and encoded pictures, in order; other file names are the same data."""
        return self._identity[0]

    @property
    def readable(self) -> np.ndarray:
        """Whether each picture had content when the fingerprint was taken, bool [N]."""
        return self._identity[1]

    @cached_property
    def _identity(self) -> tuple[str, np.ndarray]:
        digests = self.digests()
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        digest.update(digests.tobytes())
        return digest.hexdigest()[:16], np.asarray(digests.any(axis=1))

    def number_as(self, training: Images, key: str) -> None:
        """Give each class the number that it has in the training split; `key` chose this split. A class may be absent,
        but none may be new."""
        known = {name: number for number, name in enumerate(training.classes)}
        new = [name for label, name in enumerate(self.classes) if name not in known and np.any(self.labels == label)]
        if new:
            alike = any(name.casefold() == new[0].casefold() for name in known)
            case = " They differ in upper and lower case alone." if alike else ""
            raise DataError(
                f"{self.where} has classes that {training.where} lacks: {_listed(new)}; there are "
                f"{_listed(known)}.{case} Complete the training split, take those images out, or set {key}."
            )
        self.labels = np.array([known.get(name, -1) for name in self.classes])[self.labels]
        self.classes = training.classes


class FolderImages(Images):
    """An ImageFolder tree `<root>/<split>/<class>/…/<image>`; classes and images in sorted order.

    As torchvision's, which takes pictures in folders below a class, too. Hidden entries are neither classes nor images.
    """

    def __init__(self, config: ImageDataConfig, data_root: Path, split: str) -> None:
        root = data_root / (config.path or config.name)
        if not root.is_dir():
            raise DataError(
                f"No data folder {root} for '{config.name}' (data.path under the data root). Put an ImageFolder tree "
                "there, set NOVOBENCH_DATA or data_root to where it is, or use data.source=hub."
            )
        self.folder = root / split
        self.where = _printable(self.folder)
        key = split_key(config, split)
        if not self.folder.is_dir():
            there = _folders(root)
            spare = [] if key == "data.train_split" else spare_splits(config, data_root)
            raise DataError(
                f"{_printable(root)} has no split '{split}'.{suggestion(split, there)} It holds: {_listed(there)}. "
                f"Set {f'{key}={spare[0]}' if spare else key}."
            )
        folders = _class_folders(self.folder)
        self.classes = sorted(folders)
        if not self.classes:
            raise DataError(
                f"{self.where} holds no class folders; an ImageFolder tree is <split>/<class>/<image>. Sort the images "
                f"into a folder for each class, or set {key}."
            )
        self.files: list[str] = []
        labels: list[int] = []
        left_out: list[str] = []
        for label, name in enumerate(self.classes):
            folder = folders[name]
            found, others = _pictures(self.folder / folder)
            left_out += (f"{folder}/{other}" for other in others)
            if not found:
                such = f" that ends in {', '.join(_ENDINGS)}, but e.g. {_printable(others[0])}" if others else ""
                raise DataError(
                    f"{_printable(self.folder / folder)} is an empty class: no image in it{such}. Remove the folder or "
                    "fill it."
                )
            self.files += (f"{folder}/{file}" for file in found)
            labels += [label] * len(found)
        if left_out:
            log.warning(
                "Left out %d files of %s that are not named as images, e.g. %s. Images end in %s.",
                len(left_out), self.where, _printable(left_out[0]), ", ".join(_ENDINGS),
            )  # fmt: skip
        self.labels = np.array(labels)

    def encoded(self, index: int) -> Path:
        return self.folder / self.files[index]

    def name(self, index: int) -> str:
        return _printable(self.folder / self.files[index])

    def digests(self) -> np.ndarray:
        return content_digests([self.folder / file for file in self.files])


class HubImages(Images):
    """A Hugging Face data set: a hub id, or a local folder of parquet files with the same columns.

    Classes are those of a ClassLabel column; or, where a column holds numbers or texts, its values in sorted order.
    """

    def __init__(self, config: ImageDataConfig, data_root: Path, split: str) -> None:
        import datasets

        self.where, self.split = f"{config.path}[{split}]", split
        self.folder = data_root / config.path
        columns = {config.image_column: "data.image_column", config.label_column: "data.label_column"}
        found = open_hub(config.path, "", data_root, split, columns, split_key(config, split))
        if not len(found):
            raise DataError(f"{self.where} has no rows. Set {split_key(config, split)}.")
        self.column = config.image_column
        feature = found.features[self.column]
        try:
            if isinstance(feature, dict) and not feature.keys() & {"bytes", "path"}:
                raise TypeError("neither bytes nor path")
            self.table = found.select_columns([self.column]).cast_column(self.column, datasets.Image(decode=False))
        except Exception as error:  # pyarrow and datasets have many ways to say that a column holds something else
            raise DataError(
                f"{self.where}: column '{self.column}' holds {feature}, which are no pictures "
                f"({type(error).__name__}). Set data.image_column."
            ) from None
        self.labels, self.classes = _labels(found, config, self.where, split_key(config, split))

    def encoded(self, index: int) -> Path | bytes:
        source = row_source(read_rows(self.table, [int(index)], self.column, self.where)[0], self.folder)
        if source is None:
            raise BadPicture("its row holds neither bytes nor a path")
        return source

    def read(self, index: int) -> np.ndarray:
        try:
            return super().read(index)
        except MissingPicture as error:
            path = str(self.encoded(index))
            raise MissingPicture(f"its row holds no bytes but the path of a file, {path}: {error}") from None

    def name(self, index: int) -> str:
        return f"{self.where} row {index}"

    def digests(self) -> np.ndarray:
        return row_digests(self.table, self.column, self.folder, self.split, self.where)


def open_source(config: ImageDataConfig, data_root: Path, split: str) -> Images:
    """A split of the configured source. Raises DataError."""
    kind = FolderImages if config.source == "folder" else HubImages
    return kind(config, data_root, split)


def split_key(config: ImageDataConfig, split: str) -> str:
    """The config key that chose a split."""
    keys = ("train_split", "search_split", "test_split")
    return next((f"data.{key}" for key in keys if getattr(config, key) == split), "data.train_split")


def spare_splits(config: ImageDataConfig, data_root: Path) -> list[str]:
    """Folders of a tree that are named as held-out splits and not used."""
    if config.source != "folder":
        return []
    there = _folders(data_root / (config.path or config.name))
    used = (config.train_split, config.test_split, config.search_split)
    return [name for name in _HELD_OUT if name in there and name not in used]


def _labels(table: Any, config: ImageDataConfig, where: str, key: str) -> tuple[np.ndarray, list[str]]:
    """Labels int64 [N] of a table's rows, and the names of the classes that they number. `key` chose the split."""
    column = config.label_column
    feature = table.features[column]
    names = getattr(feature, "names", None)
    dtype = str(getattr(feature, "dtype", "list"))
    if not dtype.startswith(("int", "uint", "bool", "string", "large_string")):
        raise DataError(f"{where}: column '{column}' holds {feature}, which are no classes. Set data.label_column.")
    values = table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    number = not isinstance(next((value for value in values if value is not None), 0), str)
    top = len(names) if names else float("inf")
    bad = [
        row
        for row, value in enumerate(values)
        if value is None or (not 0 <= value < top if number else not value.strip())
    ]
    if bad:
        value = values[bad[0]]
        told = "no label" if value is None or not number else f"label {value}"
        among = f", which is none of the classes 0 to {len(names) - 1}" if names and told != "no label" else ""
        hidden = " A hub's data sets say -1 where a label is not published." if value == -1 else ""
        raise DataError(
            f"{where} row {bad[0]} has {told} in column '{column}'{among} ({len(bad)} of {len(values)} rows).{hidden} "
            f"Set data.label_column, or {key} to a split with labels."
        )
    if names:
        return np.array(values, dtype=np.int64), list(names)
    order = {value: place for place, value in enumerate(sorted(set(values)))}
    return np.array([order[value] for value in values], dtype=np.int64), [str(value) for value in order]


@contextmanager
def _listing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = _printable(error.filename or folder)
        raise DataError(
            f"Cannot list {place}: {error.strerror or kind_and_message(error)}. Make it readable, then run the same "
            "command again."
        ) from None


def _folders(folder: Path) -> list[str]:
    with _listing(folder), os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if _is_folder(entry) and not entry.name.startswith(".") and entry.name not in _STRAY_FOLDERS
        )


def _class_folders(split: Path) -> dict[str, str]:
    """Name of a class -> its folder. Names are composed (NFC), so that a class is the same whether its folder's name
    was written on macOS or elsewhere. Raises DataError for two folders of one name, and for a link to nowhere."""
    with _listing(split), os.scandir(split) as entries:
        for entry in entries:
            if entry.is_symlink() and not os.path.exists(entry.path) and not entry.name.startswith("."):
                raise DataError(
                    f"{_printable(entry.path)} is a link to {_printable(os.readlink(entry.path))}, which leads "
                    "nowhere: a class may be missing. Bring back what it leads to, or remove the link."
                )
    found: dict[str, str] = {}
    alike: dict[str, str] = {}
    for folder in _folders(split):
        name = unicodedata.normalize("NFC", folder)
        if name in found:
            raise DataError(
                f"{_printable(split)} has two folders whose names look the same and differ in their Unicode form: "
                f"{found[name]!a} and {folder!a}. Put their images into one."
            )
        found[name] = folder
        if other := alike.get(name.casefold()):
            log.warning(
                "%s has classes that differ in upper and lower case alone: %s and %s. If they are one, put their "
                "images into one folder.", _printable(split), _printable(other), _printable(name),
            )  # fmt: skip
        alike[name.casefold()] = name
    return found


def _pictures(folder: Path) -> tuple[list[str], list[str]]:
    """Files under `folder` that are named as images, and those that are not, relative and sorted.

    Links are followed, but for those that lead back to a folder above them.
    """
    found: list[str] = []
    others: list[str] = []
    with _listing(folder):
        above = [_identity(parent) for parent in folder.absolute().parents]
    waiting = [("", above)]
    while waiting:
        below, above = waiting.pop()
        place = folder / below
        with _listing(place):
            here = _identity(place)
            with os.scandir(place) as listed:
                entries = list(listed)
        if here in above:
            log.warning("Left out %s: it leads back to a folder above it.", _printable(place))
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _STRAY_FOLDERS:
                continue
            name = f"{below}/{entry.name}" if below else entry.name
            if _is_folder(entry):
                waiting.append((name, [*above, here]))
            else:
                (found if entry.name.lower().endswith(_ENDINGS) else others).append(name)
    return sorted(found), sorted(others)


def _identity(folder: Path) -> tuple[int, int]:
    about = os.stat(folder)
    return about.st_dev, about.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, or where nobody may look
        return False


def _listed(names: Iterable[str]) -> str:
    names = [_printable(name) for name in names]
    return ", ".join(names[:10]) + (f", … ({len(names)} in all)" if len(names) > 10 else "")


def _printable(name: str | Path) -> str:
    """A name whose bytes are not UTF-8 cannot be printed or logged as it is."""
    return os.fsencode(name).decode(errors="backslashreplace")
