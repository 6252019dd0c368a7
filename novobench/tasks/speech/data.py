"""Micro-batches of utterances and the sets a cell is judged on.

All micro-batches of an epoch are cut at once: utterances are shuffled, each draws its speed, those that became too long
are left out, and the rest, filled up from the start of the same order, makes whole optimizer batches. With
`data.bucket_window` utterances are sorted by length inside windows of so many micro-batches first. All of it depends on
(seed, epoch) alone; which micro-batches make an update, on (seed, update).

B utterances, F Mel bands, T frames, L letters; M micro-batches an epoch.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from novobench.config import CellConfig
from novobench.errors import DataError, one_line
from novobench.files import derived_folder
from novobench.tasks.sampling import SampleKey, derive_seed, epoch_order, uniforms
from novobench.tasks.sources import Count, check_counts
from novobench.tasks.speech.config import SpeechDataConfig, stride
from novobench.tasks.speech.corpus import Utterances, open_source
from novobench.tasks.speech.features import (
    LogMel,
    conditioned,
    frame_count,
    mask_draws,
    masked,
    samples_at_speed,
    shortest,
)
from novobench.tasks.speech.sources import Source

log = logging.getLogger(__name__)

_FEATURES_VERSION = 2
"""Raised when `features.py` computes something else, so that kept features are made anew."""


@dataclass(frozen=True)
class SpeechSplits:
    """All a cell trains on and is judged by."""

    train: PackedUtterances
    sets: dict[str, EvaluationUtterances]
    """The searched one first."""
    fingerprint: str
    counts: dict[str, int]


def open_utterances(config: CellConfig, data_root: Path) -> SpeechSplits:
    """Open the configured source. Raises DataError, naming the file, if it is not as the config says."""
    data, sources = config.data, _open_sources(config.data, data_root)
    training, *others = (Utterances(found, data, name) for name, found in sources.items())
    judged = dict(zip(data.sets, others, strict=True))
    found = {
        "data.train_size": Count(training.found, data.train_size, "utterances in train"),
        **{
            f"data.set_sizes.{name}": Count(utterances.found, data.set_sizes[name], f"utterances in {name}")
            for name, utterances in judged.items()
        },
    }
    fit = training.found - int((training.lengths > data.max_seconds * data.features.sample_rate).sum())
    if data.epoch_size is not None:
        found["data.epoch_size"] = Count(fit, data.epoch_size, f"in train not longer than {data.max_seconds:g} s")
    check_counts(f"data '{data.name}' ({data.source} {data.path or 'built in'})", found)
    counts: dict[str, int] = {}
    for name, utterances in {"train": training, **judged}.items():
        counts[name] = utterances.found
        if len(utterances) != utterances.found:
            counts[f"{name}_bad"] = utterances.found - len(utterances)
    kept = _kept if data.keep_features else None
    train = PackedUtterances(training, config, FeatureMaker(training, config, data.speeds, kept))
    counts |= train.left_out
    sets = {
        name: EvaluationUtterances(utterances, config, FeatureMaker(utterances, config, [1.0], kept))
        for name, utterances in judged.items()
    }
    return SpeechSplits(train, sets, _identity(data, sources), counts)


def identify(config: CellConfig, data_root: Path) -> str:
    """The fingerprint alone, without lengths or features: of the built-in corpus and of files that have not changed it
    is in the cache."""
    return _identity(config.data, _open_sources(config.data, data_root))


def _open_sources(data: SpeechDataConfig, data_root: Path) -> dict[str, list[Source]]:
    """`train` and each evaluation set."""
    splits = {"train": data.train_splits} | {name: [data.split_names.get(name, name)] for name in data.sets}
    return {name: [open_source(data, data_root, split) for split in found] for name, found in splits.items()}


def _identity(data: SpeechDataConfig, sources: dict[str, list[Source]]) -> str:
    return ":".join([data.name, *("-".join(source.fingerprint for source in found) for found in sources.values())])


# ---------------------------------------------------------------------------------------------- features


class FeatureMaker:
    """What the loader hands out for an utterance at a speed: its features [F, T], or with `data.features_on:
    accelerator` its conditioned samples [S]. `kept` finds features that were computed before."""

    def __init__(
        self,
        utterances: Utterances,
        config: CellConfig,
        speeds: list[float],
        kept: Callable[[FeatureMaker, float], list[np.ndarray]] | None = None,
    ) -> None:
        self.utterances, self.data, self.bands = utterances, config.data, config.model.features
        self.on_device = self.data.features_on == "accelerator"
        self.log_mel = LogMel(self.data.features, self.bands)
        self.known: dict[float, list[np.ndarray]] = {}
        if kept and not self.on_device:
            self.known = {speed: kept(self, speed) for speed in speeds}

    def __call__(self, index: int, speed: float) -> Tensor | None:
        """None for a recording that is bad and may be skipped."""
        if speed in self.known and self.known[speed][index].shape[1]:
            return torch.from_numpy(self.known[speed][index].copy())
        samples = self.utterances.read(index)
        if samples is None:
            return None
        with _one_thread():
            samples = conditioned(samples, self.data, speed, self.utterances.listing(index).id)
            return samples if self.on_device else self.log_mel(samples)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a loader's worker: more threads sum in another order, and neither `runtime.workers` nor who has filled the
    cache shall change a bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _kept(maker: FeatureMaker, speed: float) -> list[np.ndarray]:
    """The features of all utterances at a speed, float32 [F, T] each, from the cache; computed there once a machine.
    Without frames are those that this speed makes too short, which are never asked for, and recordings that could not
    be read, which are tried again."""
    ids = [maker.utterances.listing(index).id for index in range(len(maker.utterances))]
    settings = (_FEATURES_VERSION, speed, maker.data.sox_speed, maker.bands, maker.data.features)
    key = repr((settings, maker.utterances.cache_key, ids))
    name = hashlib.sha256(key.encode()).hexdigest()[:16]

    def build(folder: Path) -> None:
        log.info("Computing the features of %s utterances at speed %g.", len(ids), speed)
        enough = samples_at_speed(maker.utterances.lengths, speed, maker.data) >= shortest(maker.data.features)
        found = [maker(index, speed) if enough[index] else None for index in range(len(ids))]
        made = [np.empty((maker.bands, 0), np.float32) if each is None else each.numpy() for each in found]
        np.save(folder / "lengths.npy", np.array([features.shape[1] for features in made]))
        np.save(folder / "features.npy", np.concatenate(made, axis=1))

    folder = derived_folder(f"speech/features-{name}", build)
    ends = np.cumsum(np.load(folder / "lengths.npy"))
    return np.split(np.load(folder / "features.npy", mmap_mode="r"), ends[:-1], axis=1)


# ---------------------------------------------------------------------------------------------- training


class PackedUtterances(Dataset):
    """Whole micro-batches by `SampleKey`: sample j of an epoch is its j-th micro-batch."""

    def __init__(self, utterances: Utterances, config: CellConfig, maker: FeatureMaker) -> None:
        self.utterances, self.maker, self.data = utterances, maker, config.data
        self.seed, self.micro = derive_seed(config.seed, "speech"), config.batch.micro
        self.length = config.epoch_updates * (config.batch.size // config.batch.micro)
        self.letters = [encoded(text, self.data.alphabet) for text in utterances.texts]
        self.needed = np.array([least_outputs(letters) for letters in self.letters])
        self.stride = stride(config.model)
        self.speeds = np.array(self.data.speeds)
        left_out = {"train_too_long": 0, "train_too_short": 0}
        ever_short = np.zeros(len(utterances), dtype=bool)
        for speed in self.speeds:
            short, long = self._unfit(np.full(len(utterances), speed))
            left_out["train_too_long"] += int(long.sum())
            left_out["train_too_short"] += int(short.sum())
            ever_short |= short
        if ever_short.any():
            names = ", ".join(utterances.listing(int(index)).id for index in np.flatnonzero(ever_short)[:10])
            log.warning(
                "Left out: %s utterances that are, at some speed, shorter than their transcripts need, e.g. %s.",
                ever_short.sum(),
                one_line(names),
            )
        self.left_out = {name: n for name, n in left_out.items() if n}
        """Of all utterances at all speeds."""

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        chosen = packed_epoch(self, key.epoch)[key.sample]
        keys = [SampleKey(key.epoch, int(index)) for index in chosen]
        draws = uniforms(self.seed, "mask", keys, max(1, mask_draws(self.data)))[:, : mask_draws(self.data)]
        speeds = self.drawn_speeds(keys)
        items: list[dict[str, Any] | None] = []
        for index, speed, draw in zip(chosen.tolist(), speeds.tolist(), draws, strict=True):
            heard = self.maker(index, speed)
            items.append(None if heard is None else {"heard": heard, "letters": self.letters[index], "draws": draw})
        if not any(items):
            names = ", ".join(self.utterances.listing(index).name for index in chosen.tolist()[:3])
            raise DataError(f"No recording of a micro-batch can be read: {names}. Mend them, or raise batch.micro.")
        return collate(items, self.data)

    def drawn_speeds(self, keys: list[SampleKey]) -> np.ndarray:
        """The speed of each utterance in its epoch."""
        return self.speeds[(uniforms(self.seed, "speed", keys, 1)[:, 0] * len(self.speeds)).astype(int)]

    def _unfit(self, speeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which utterances at these speeds are shorter than their letters or a frame need, and which are too long."""
        samples = self._samples(speeds)
        outputs = -(-frame_count(samples, self.data.features) // self.stride)
        limited = self.utterances.lengths if self.data.limit_before_speed else samples
        short = (outputs < self.needed) | (samples < shortest(self.data.features))
        return short, limited > self.data.max_seconds * self.data.features.sample_rate

    def _samples(self, speeds: np.ndarray) -> np.ndarray:
        """Length of each utterance at its speed."""
        samples = self.utterances.lengths.copy()
        for speed in self.data.speeds:
            chosen = speeds == speed
            samples[chosen] = samples_at_speed(samples[chosen], speed, self.data)
        return samples

    def packed(self, epoch: int) -> np.ndarray:
        """The utterances of each micro-batch of an epoch, [M, B]."""
        count = len(self.utterances)
        speeds = self.drawn_speeds([SampleKey(epoch, index) for index in range(count)])
        short, long = self._unfit(speeds)
        order = epoch_order(count, self.seed, epoch)
        order = order[~(short | long)[order]]
        if not len(order):
            raise DataError(
                f"No utterance of '{self.data.name}' is shorter than data.max_seconds {self.data.max_seconds:g} and "
                "long enough for its transcript."
            )
        filled = np.resize(order, self.length * self.micro)
        samples = self._samples(speeds)[filled]
        window = max(1, self.data.bucket_window) * self.micro
        for start in range(0, len(filled), window) if self.data.bucket_window else ():
            part = slice(start, start + window)
            filled[part] = filled[part][np.argsort(samples[part], kind="stable")]
        return filled.reshape(-1, self.micro)


@lru_cache(maxsize=2)
def packed_epoch(packed: PackedUtterances, epoch: int) -> np.ndarray:
    return packed.packed(epoch)


def encoded(text: str, alphabet: str) -> np.ndarray:
    """Letters as places in the alphabet, int64 [L]."""
    return np.array([alphabet.index(letter) for letter in text], dtype=np.int64)


def least_outputs(letters: np.ndarray) -> int:
    """Outputs that CTC needs for these letters: one each, and a blank between two equal ones."""
    return len(letters) + int((letters[1:] == letters[:-1]).sum())


# ---------------------------------------------------------------------------------------------- evaluation


class EvaluationUtterances(Dataset):
    """Utterances with their references, shortest first, so that a batch holds like lengths; `index` is the place."""

    def __init__(self, utterances: Utterances, config: CellConfig, maker: FeatureMaker) -> None:
        self.utterances, self.maker, self.data = utterances, maker, config.data
        self.order = np.argsort(utterances.lengths, kind="stable").tolist()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> dict[str, Any] | None:
        index = self.order[position]
        heard = self.maker(index, 1.0)
        if heard is None:
            return None
        text = self.utterances.texts[index]
        return {
            "heard": heard,
            "letters": encoded(text, self.data.alphabet),
            "index": index,
            "input": self.utterances.listing(index).id,
            "reference": text,
        }


def collate(items: list[dict[str, Any] | None], data: SpeechDataConfig) -> dict[str, Any]:
    """Letters padded with 0 [B, L] and their counts [B]; features padded [B, F, T] and their lengths [B], or samples in
    the list `heard`, of which the task makes features; lists of what else the items hold; and how many are `left_out`,
    the items that are None. A training's micro-batch is whole already."""
    if len(items) == 1 and items[0] is not None and "left_out" in items[0]:
        return items[0]
    good = [item for item in items if item is not None]
    batch: dict[str, Any] = {"left_out": len(items) - len(good)}
    if not good:
        return batch
    batch |= {key: [item[key] for item in good] for key in good[0]}
    letters = [torch.from_numpy(known) for known in batch["letters"]]
    batch["letters"] = torch.nn.utils.rnn.pad_sequence(letters, batch_first=True)
    batch["letter_counts"] = torch.tensor([len(known) for known in letters])
    if data.features_on == "accelerator":
        return batch
    return batch | padded(batch.pop("heard"), data, batch.get("draws"))


def padded(features: list[Tensor], data: SpeechDataConfig, draws: list[np.ndarray] | None = None) -> dict[str, Tensor]:
    """Features [F, T] of each utterance as one batch [B, F, T], T a multiple of `data.pad_frames`, and their lengths
    [B]; masked where there are `draws`."""
    lengths = [each.shape[1] for each in features]
    longest = -(-max(lengths) // data.pad_frames) * data.pad_frames
    if draws is not None:
        frames = longest if data.masks_over_padding else None
        features = [masked(each, data, draw, frames) for each, draw in zip(features, draws, strict=True)]
    batch = features[0].new_zeros(len(features), features[0].shape[0], longest)
    for row, each in zip(batch, features, strict=True):
        row[:, : each.shape[1]] = each
    return {"features": batch, "lengths": torch.tensor(lengths, device=batch.device)}
