"""The splits of an image data set, and the seeded shares of the training split that stand for splits it lacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from novobench.errors import DataError
from novobench.tasks.image.config import ImageDataConfig
from novobench.tasks.image.manifests import ManifestSource
from novobench.tasks.image.sources import FolderSource, HubSource, ImageSource
from novobench.tasks.sampling import SampleKey, uniforms

_SOURCES: dict[str, Callable[[ImageDataConfig, Path, str], ImageSource]] = {
    "folder": FolderSource,
    "manifest": ManifestSource,
    "hub": HubSource,
}


class Shares(NamedTuple):
    """Indices of the images of each set in their split, int64, sorted."""

    train: np.ndarray
    search: np.ndarray
    test: np.ndarray


class Splits:
    """The splits of a data set that is not built in. A class has the same number in each."""

    def __init__(self, config: ImageDataConfig, data_root: Path) -> None:
        self.config = config
        source = _SOURCES[config.source]
        self.train = source(config, data_root, config.train_split)
        self.test = source(config, data_root, config.test_split) if config.test_split else None
        """None if the test images are a share of the training split."""
        self.search = source(config, data_root, config.search_split) if config.search_split else None
        """None if the search images are a share of the training split."""
        for label, name in enumerate(self.train.classes):
            if not np.any(self.train.labels == label):
                raise DataError(f"data '{config.name}': class '{name}' of split '{config.train_split}' has no image.")
        if self.test is not None:
            self.test.number_classes_as(self.train, "data.test_split")
        if self.search is not None:
            self.search.number_classes_as(self.train, "data.search_split")

    @property
    def sources(self) -> list[ImageSource]:
        """Each split of the source that is used: train, test, search."""
        return [source for source in (self.train, self.test, self.search) if source is not None]

    @property
    def fingerprint(self) -> str:
        return ":".join([self.config.name, *(source.fingerprint for source in self.sources)])

    def shares(self) -> Shares:
        """The images of each set. A fixed shuffle of the training split gives the shares: first search, then test
        images; `limit` of the others, by another fixed shuffle, are trained on."""
        config, images = self.config, len(self.train.labels)
        order = np.argsort(uniforms(0, "search-split", [SampleKey(0, i) for i in range(images)], 1)[:, 0])
        start = config.search_size if self.search is None else 0
        stop = start + (config.test_size if self.test is None else 0)
        train = np.sort(order[stop:])
        if config.limit is not None:
            draws = uniforms(0, "limit", [SampleKey(0, int(index)) for index in train], 1)[:, 0]
            train = np.sort(train[np.argsort(draws)[: config.limit]])
        return Shares(
            train,
            np.sort(order[:start]) if self.search is None else np.arange(len(self.search.labels)),
            np.sort(order[start:stop]) if self.test is None else np.arange(len(self.test.labels)),
        )
