"""The features of utterances, computed when they are needed or read from the cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from novobench.config import CellConfig
from novobench.files import derived_folder
from novobench.tasks.speech.features import LogMel, conditioned, min_samples, samples_at_speed
from novobench.tasks.speech.utterances import Utterances

log = logging.getLogger(__name__)

_FEATURES_VERSION = 2
"""Raised when `features.py` computes something else, so that cached features are computed again."""


class FeatureExtractor:
    """The network's input for an utterance at a speed: its features, float32 [F, T], or with `data.features_on:
    accelerator` its conditioned samples, float32 [S].

    With `data.keep_features` the features of all utterances at all `speeds` come from the cache.
    """

    def __init__(self, utterances: Utterances, config: CellConfig, speeds: list[float]) -> None:
        self.utterances, self.data, self.bands = utterances, config.data, config.model.features
        self.on_accelerator = self.data.features_on == "accelerator"
        self.log_mel = LogMel(self.data.features, self.bands)
        self._cached: dict[float, list[np.ndarray]] = {}
        if self.data.keep_features and not self.on_accelerator:
            self._cached = {speed: cached_features(self, speed) for speed in speeds}

    def __call__(self, index: int, speed: float) -> Tensor | None:
        """None for a bad recording, if bad recordings are skipped."""
        if speed in self._cached and self._cached[speed][index].shape[1]:
            return torch.from_numpy(self._cached[speed][index].copy())
        samples = self.utterances.read(index)
        if samples is None:
            return None
        with _one_thread():
            samples = conditioned(samples, self.data, speed, self.utterances.listing(index).id)
            return samples if self.on_accelerator else self.log_mel(samples)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread, as in a loader's worker. More threads sum in another order, and the bits must not depend on
    `runtime.workers` or on which process filled the cache."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cached_features(extractor: FeatureExtractor, speed: float) -> list[np.ndarray]:
    """The features of all utterances at a speed, float32 [F, T] each, computed once per machine.

    An entry has no frames where the speed makes the utterance too short, which training never uses, and where the
    recording could not be read, which is tried again.
    """
    utterances, data = extractor.utterances, extractor.data
    ids = [utterances.listing(index).id for index in range(len(utterances))]
    settings = (_FEATURES_VERSION, speed, data.sox_speed, extractor.bands, data.features)
    key = repr((settings, utterances.cache_key, ids))
    name = hashlib.sha256(key.encode()).hexdigest()[:16]

    def build(folder: Path) -> None:
        log.info("Computing the features of %s utterances at speed %g.", len(ids), speed)
        long_enough = samples_at_speed(utterances.lengths, speed, data) >= min_samples(data.features)
        tensors = [extractor(index, speed) if long_enough[index] else None for index in range(len(ids))]
        empty = np.empty((extractor.bands, 0), np.float32)
        arrays = [empty if tensor is None else tensor.numpy() for tensor in tensors]
        np.save(folder / "lengths.npy", np.array([features.shape[1] for features in arrays]))
        np.save(folder / "features.npy", np.concatenate(arrays, axis=1))

    folder = derived_folder(f"speech/features-{name}", build)
    ends = np.cumsum(np.load(folder / "lengths.npy"))
    return np.split(np.load(folder / "features.npy", mmap_mode="r"), ends[:-1], axis=1)
