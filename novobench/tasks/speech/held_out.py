"""Evaluation sets that are shares of the training splits, by a fixed shuffle of their utterances."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from novobench.errors import DataError
from novobench.tasks.sampling import SampleKey, uniforms
from novobench.tasks.speech.config import SpeechDataConfig
from novobench.tasks.speech.listings import Headers, Source


class Part:
    """Some utterances of a source, as a source."""

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self.source, self.indices = source, indices
        self.listings = [source.listings[index] for index in indices.tolist()]

    @cached_property
    def fingerprint(self) -> str:
        return self._key(self.source.fingerprint)

    @cached_property
    def cache_key(self) -> str:
        return self._key(self.source.cache_key)

    def _key(self, whole: str) -> str:
        return hashlib.sha256(whole.encode() + self.indices.astype("<i8").tobytes()).hexdigest()[:16]

    def headers(self) -> Headers:
        whole = self.source.headers()
        places = {int(index): place for place, index in enumerate(self.indices)}
        faults = {places[index]: fault for index, fault in whole.faults.items() if index in places}
        return Headers(whole.values[self.indices], faults)

    def samples(self, index: int) -> tuple[np.ndarray, int]:
        return self.source.samples(int(self.indices[index]))


def shares(sources: Sequence[Source], config: SpeechDataConfig) -> dict[str, list[Source]]:
    """`train` and each set of `data.held_out_sets` as parts of the training sources. Raises DataError if nothing is
    left to train on."""
    if not config.held_out_sets:
        return {"train": list(sources)}
    ends = np.cumsum([0, *(len(source.listings) for source in sources)])
    order = np.argsort(uniforms(0, "held-out", [SampleKey(0, index) for index in range(int(ends[-1]))], 1)[:, 0])
    chosen: dict[str, np.ndarray] = {}
    start = 0
    for name in config.held_out_sets:
        chosen[name] = order[start : start + config.set_sizes[name]]
        start += config.set_sizes[name]
    if start >= len(order):
        raise DataError(
            f"data '{config.name}' has {len(order)} training utterances, but data.held_out_sets are {start} of them. "
            "Lower data.set_sizes."
        )
    chosen["train"] = order[start:]
    return {
        name: [
            Part(source, np.sort(indices[(indices >= low) & (indices < high)]) - low)
            for source, low, high in zip(sources, ends[:-1], ends[1:], strict=True)
            if np.any((indices >= low) & (indices < high))
        ]
        for name, indices in chosen.items()
    }
