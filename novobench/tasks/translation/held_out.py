"""Evaluation sets that are shares of the training pairs, by a fixed shuffle."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np

from novobench.errors import DataError
from novobench.tasks.sampling import SampleKey, uniforms
from novobench.tasks.translation.config import TranslationDataConfig
from novobench.tasks.translation.sources import Pairs, Split


class Part:
    """The pairs of a split from place `start` to `stop` of a fixed shuffle, in the order of the split.

    Pairs with an empty side come last, so that no evaluation set has one.
    """

    def __init__(self, split: Split, start: int, stop: int | None, name: str) -> None:
        self.split, self.start, self.stop = split, start, stop
        self.name = f"{split.name} ({name})"

    @cached_property
    def _pairs(self) -> Pairs:
        sources, targets = self.split.read()
        draws = uniforms(0, "held-out", [SampleKey(0, index) for index in range(len(sources))], 1)[:, 0]
        empty = np.array([not (source and target) for source, target in zip(sources, targets, strict=True)], dtype=bool)
        indices = np.sort(np.argsort(draws + empty)[self.start : self.stop]).tolist()
        if not indices:
            raise DataError(
                f"{self.split.name} has {len(sources)} pairs, too few for data.search_size and data.test_size. Lower "
                "them."
            )
        return Pairs([sources[index] for index in indices], [targets[index] for index in indices])

    def read(self) -> Pairs:
        return self._pairs

    def fingerprint(self) -> str:
        identity = f"{self.split.fingerprint()} {self.start} {self.stop}"
        return hashlib.sha256(identity.encode()).hexdigest()[:16]


def with_shares(data: TranslationDataConfig, train: Split) -> tuple[Split, dict[str, Split]]:
    """What is left of the training split, and the sets that have no split of their own as shares of it."""
    shares: dict[str, Split] = {}
    start = 0
    for name, split, size in (
        ("search", data.search_split, data.search_size),
        ("test", data.test_split, data.test_size),
    ):
        if not split:
            shares[name] = Part(train, start, start + size, name)
            start += size
    return (Part(train, start, None, "train") if shares else train), shares
