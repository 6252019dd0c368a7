"""Images listed in a table: CSV or TSV files with columns of file names and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from novobench.errors import DataError
from novobench.tasks.image.config import ImageDataConfig
from novobench.tasks.image.sources import ImageSource
from novobench.tasks.sources import content_digests, data_folder, listing_key, missing_split, printable, split_key
from novobench.tasks.tables import Table, item_folder, table_file, table_splits

FILE_COLUMNS = ("path", "file", "image", "filename", "file_name", "image_path", "filepath", "img")
LABEL_COLUMNS = ("label", "class", "category", "target", "labels", "class_name", "y")
_FOLDERS = ("images", "imgs", "img", "data")


class ManifestSource(ImageSource):
    """`<split>.csv` or `<split>.tsv` with a header; a row has the file of an image and its label.

    Files are relative to the table's folder, or to a folder `images` or `<split>` in it. The classes are the labels, in
    the order of numbers if all are whole numbers, else of text.
    """

    def __init__(self, config: ImageDataConfig, data_root: Path, split: str) -> None:
        root = data_folder(data_root, config.path, config.name, "tables of images and labels (<split>.csv)")
        file = table_file(root, split)
        key = split_key(config, split, "data.train_split")
        if file is None:
            raise missing_split(f"{root} (tables <split>.csv or .tsv)", split, table_splits(root), f"Set {key}.")
        self.where = printable(file)
        table = Table(file)
        files = [name for _, name in table.values((config.image_column.lower(), *FILE_COLUMNS), "image files")]
        values = []
        for line, label in table.values((config.label_column.lower(), *LABEL_COLUMNS), "labels"):
            if not label:
                raise DataError(f"{self.where} line {line} has no label. Complete it, or remove the line.")
            values.append(label)
        folder = item_folder(root, split, files, _FOLDERS)
        self.paths = [folder / name if name else folder / "(no file name)" for name in files]
        is_number = all(value.isascii() and value.isdecimal() for value in set(values))
        self.classes = sorted(set(values), key=lambda value: (int(value), value) if is_number else (0, value))
        numbers = {value: number for number, value in enumerate(self.classes)}
        self.labels = np.array([numbers[value] for value in values], dtype=np.int64)

    def encoded(self, index: int) -> Path:
        return self.paths[index]

    def name(self, index: int) -> str:
        return printable(self.paths[index])

    def digests(self) -> np.ndarray:
        return content_digests(self.paths)

    @property
    def cache_key(self) -> str:
        return listing_key(self.paths)
