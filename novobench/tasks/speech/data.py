"""Micro-batches of utterances, and the sets a cell (one training run) is evaluated on.

All micro-batches of an epoch are cut at once: utterances are shuffled, each draws its speed, those that become too long
are left out, and the others, repeated from the start of the same order, fill whole optimizer batches. With
`data.bucket_window` utterances are first sorted by length within windows of that many micro-batches. All of this
depends on (seed, epoch) alone, and which micro-batches make an update on (seed, update).

B utterances, F Mel bands, T frames, S samples, L tokens (letters); M micro-batches per epoch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from novobench.config import CellConfig, data_root
from novobench.errors import DataError, one_line
from novobench.tasks.base import EvaluationSet, TaskData
from novobench.tasks.sampling import SampleKey, derive_seed, epoch_order, uniforms
from novobench.tasks.sources import Count, check_counts, describe
from novobench.tasks.speech.config import BUILT_IN, SpeechDataConfig, stride
from novobench.tasks.speech.feature_cache import FeatureExtractor
from novobench.tasks.speech.features import frame_count, mask_draws, masked, min_samples, samples_at_speed
from novobench.tasks.speech.held_out import shares
from novobench.tasks.speech.listings import Source
from novobench.tasks.speech.sources import open_source
from novobench.tasks.speech.utterances import Utterances

log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Item:
    """One utterance of a micro-batch."""

    input: Tensor
    """Features, float32 [F, T]; with `data.features_on: accelerator` samples, float32 [S]."""
    tokens: np.ndarray
    """Places in the alphabet, int64 [L]."""
    mask_draws: np.ndarray
    """Uniform numbers for SpecAugment, float64 [n]; empty: no masks."""
    index: int
    id: str
    reference: str
    """The transcript in the letters of the alphabet."""


class SpeechBatch(NamedTuple):
    """A micro-batch. Evaluation batches are empty, B = 0, if none of their recordings can be read."""

    features: Tensor
    """float32 [B, F, T], masked in training; zeros past the end of an utterance. T is a multiple of
    `data.pad_frames`."""
    feature_lengths: Tensor
    """Frames, int64 [B]."""
    tokens: Tensor
    """Places in the alphabet, int64 [B, L], padded with 0."""
    token_lengths: Tensor
    """int64 [B]."""
    indices: list[int]
    """Of the utterances in their set, B."""
    ids: list[str]
    references: list[str]
    skipped: int
    """Utterances left out because their recordings could not be read."""


class AudioBatch(NamedTuple):
    """A micro-batch as the loader returns it with `data.features_on: accelerator`: `SpeechTask` computes the features.

    The other fields are those of `SpeechBatch`.
    """

    samples: list[Tensor]
    """Conditioned, float32 [S] each, B."""
    mask_draws: list[np.ndarray]
    """As in `Item`, B."""
    tokens: Tensor
    token_lengths: Tensor
    indices: list[int]
    ids: list[str]
    references: list[str]
    skipped: int


def collate(items: list[Item | None], data: SpeechDataConfig) -> SpeechBatch | AudioBatch:
    """One batch of all `items`; None stands for a recording that could not be read."""
    readable = [item for item in items if item is not None]
    sequences = [torch.from_numpy(item.tokens) for item in readable]
    token_lengths = torch.tensor([len(tokens) for tokens in sequences], dtype=torch.int64)
    tokens = torch.empty(0, 0, dtype=torch.int64)
    if sequences:
        tokens = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    indices, ids = [item.index for item in readable], [item.id for item in readable]
    references, skipped = [item.reference for item in readable], len(items) - len(readable)
    inputs, draws = [item.input for item in readable], [item.mask_draws for item in readable]
    if data.features_on == "accelerator":
        return AudioBatch(inputs, draws, tokens, token_lengths, indices, ids, references, skipped)
    features, lengths = padded(inputs, draws, data)
    return SpeechBatch(features, lengths, tokens, token_lengths, indices, ids, references, skipped)


def padded(features: list[Tensor], draws: list[np.ndarray], data: SpeechDataConfig) -> tuple[Tensor, Tensor]:
    """`features` and `feature_lengths` of a `SpeechBatch`, from the features [F, T] and `draws` of each utterance."""
    if not features:
        return torch.empty(0, 0, 0), torch.empty(0, dtype=torch.int64)
    lengths = [each.shape[1] for each in features]
    longest = -(-max(lengths) // data.pad_frames) * data.pad_frames
    frames = longest if data.masks_over_padding else None
    features = [masked(each, data, draw, frames) for each, draw in zip(features, draws, strict=True)]
    batch = features[0].new_zeros(len(features), features[0].shape[0], longest)
    for row, each in zip(batch, features, strict=True):
        row[:, : each.shape[1]] = each
    return batch, torch.tensor(lengths, device=batch.device)


# ---------------------------------------------------------------------------------------------- training


class PackedUtterances(Dataset):
    """Whole micro-batches by `SampleKey`: sample j of an epoch is its j-th micro-batch."""

    left_out: dict[str, int]
    """`train_too_long` and `train_too_short`, of all utterances at all speeds; without zeros."""

    def __init__(self, utterances: Utterances, config: CellConfig, extractor: FeatureExtractor) -> None:
        self.utterances, self.extractor, self.data = utterances, extractor, config.data
        self.seed, self.micro = derive_seed(config.seed, "speech"), config.batch.micro
        self.length = config.epoch_updates * (config.batch.size // config.batch.micro)
        self.tokens = [encoded(text, self.data.alphabet) for text in utterances.texts]
        self.min_outputs = np.array([min_outputs(tokens) for tokens in self.tokens])
        self.stride = stride(config.model)
        self.speeds = np.array(self.data.speeds)
        self.used = np.ones(len(utterances), dtype=bool)
        if self.data.limit is not None:
            draws = uniforms(0, "limit", [SampleKey(0, index) for index in range(len(utterances))], 1)[:, 0]
            self.used[np.argsort(draws)[self.data.limit :]] = False
        left_out = {"train_too_long": 0, "train_too_short": 0}
        ever_short = np.zeros(len(utterances), dtype=bool)
        for speed in self.speeds:
            short, long = (self.used & each for each in self._too_short_and_too_long(np.full(len(utterances), speed)))
            left_out["train_too_long"] += int(long.sum())
            left_out["train_too_short"] += int(short.sum())
            ever_short |= short
        if ever_short.any():
            names = ", ".join(utterances.listing(int(index)).id for index in np.flatnonzero(ever_short)[:10])
            log.warning(
                "Left out: %s utterances that are, at some speed, too short for their transcripts, e.g. %s.",
                ever_short.sum(),
                one_line(names),
            )
        self.left_out = {name: n for name, n in left_out.items() if n}

    def __len__(self) -> int:
        """Micro-batches per epoch, M."""
        return self.length

    def __getitem__(self, key: SampleKey) -> SpeechBatch | AudioBatch:
        """Raises DataError if none of the micro-batch's recordings can be read."""
        indices = _packed_epoch(self, key.epoch)[key.sample]
        keys = [SampleKey(key.epoch, int(index)) for index in indices]
        draws = uniforms(self.seed, "mask", keys, max(1, mask_draws(self.data)))[:, : mask_draws(self.data)]
        speeds = self.drawn_speeds(keys)
        items: list[Item | None] = []
        for index, speed, draw in zip(indices.tolist(), speeds.tolist(), draws, strict=True):
            network_input = self.extractor(index, speed)
            name, text = self.utterances.listing(index).id, self.utterances.texts[index]
            item = None if network_input is None else Item(network_input, self.tokens[index], draw, index, name, text)
            items.append(item)
        if not any(items):
            names = ", ".join(self.utterances.listing(index).name for index in indices.tolist()[:3])
            raise DataError(f"No recording of a micro-batch can be read: {names}. Fix them, or raise batch.micro.")
        return collate(items, self.data)

    def drawn_speeds(self, keys: list[SampleKey]) -> np.ndarray:
        """The speed of each utterance in its epoch, float64 [len(keys)]."""
        return self.speeds[(uniforms(self.seed, "speed", keys, 1)[:, 0] * len(self.speeds)).astype(int)]

    def _too_short_and_too_long(self, speeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which utterances, at these speeds, have too few samples for their tokens or for a frame, and which are longer
        than `data.max_seconds`: two masks, bool [n]."""
        samples = self._samples(speeds)
        outputs = -(-frame_count(samples, self.data.features) // self.stride)
        limited = self.utterances.lengths if self.data.limit_before_speed else samples
        short = (outputs < self.min_outputs) | (samples < min_samples(self.data.features))
        return short, limited > self.data.max_seconds * self.data.features.sample_rate

    def _samples(self, speeds: np.ndarray) -> np.ndarray:
        """Length of each utterance at its speed, int64 [n]."""
        samples = self.utterances.lengths.copy()
        for speed in self.data.speeds:
            mask = speeds == speed
            samples[mask] = samples_at_speed(samples[mask], speed, self.data)
        return samples

    def packed(self, epoch: int) -> np.ndarray:
        """The utterances of each micro-batch of an epoch, int64 [M, B]."""
        count = len(self.utterances)
        speeds = self.drawn_speeds([SampleKey(epoch, index) for index in range(count)])
        short, long = self._too_short_and_too_long(speeds)
        order = epoch_order(count, self.seed, epoch)
        order = order[(self.used & ~(short | long))[order]]
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
def _packed_epoch(packed: PackedUtterances, epoch: int) -> np.ndarray:
    return packed.packed(epoch)


def encoded(text: str, alphabet: str) -> np.ndarray:
    """Letters as places in the alphabet, int64 [L]."""
    return np.array([alphabet.index(letter) for letter in text], dtype=np.int64)


def min_outputs(tokens: np.ndarray) -> int:
    """Outputs that CTC needs for these tokens: one for each, and a blank between two equal ones."""
    return len(tokens) + int((tokens[1:] == tokens[:-1]).sum())


# ---------------------------------------------------------------------------------------------- evaluation


class EvaluationUtterances(Dataset):
    """Utterances sorted by length, shortest first, so that the utterances of a batch have similar lengths.

    None stands for a recording that cannot be read. `Item.index` is the utterance's place before sorting.
    """

    def __init__(self, utterances: Utterances, config: CellConfig, extractor: FeatureExtractor) -> None:
        self.utterances, self.extractor, self.data = utterances, extractor, config.data
        self.order = np.argsort(utterances.lengths, kind="stable").tolist()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Item | None:
        index = self.order[position]
        network_input = self.extractor(index, 1.0)
        if network_input is None:
            return None
        text = self.utterances.texts[index]
        tokens = encoded(text, self.data.alphabet)
        return Item(network_input, tokens, np.empty(0), index, self.utterances.listing(index).id, text)


# ---------------------------------------------------------------------------------------------- opening


class SpeechData(TaskData):
    """The utterances of the configured source."""

    packed = True

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.collate = partial(collate, data=config.data)

    def identify(self) -> str:
        """The fingerprint, without the headers and features that `setup` reads."""
        return identify(self.config, data_root(self.config))

    def setup(self, stage: str) -> None:
        splits, data = open_utterances(self.config, data_root(self.config)), self.config.data
        roles = {
            data.search_set: "search",
            **dict.fromkeys(data.dev_sets, "dev"),
            **dict.fromkeys(data.test_sets, "test"),
        }
        self.train = splits.train
        self.evaluation_sets = [
            EvaluationSet(name, roles[name], utterances)  # type: ignore[arg-type]
            for name, utterances in splits.sets.items()
        ]
        self.fingerprint, self.counts = splits.fingerprint, splits.counts


@dataclass(frozen=True)
class SpeechSplits:
    """The utterances that a cell is trained and evaluated on."""

    train: PackedUtterances
    sets: dict[str, EvaluationUtterances]
    """Name -> evaluation set, the search set first."""
    fingerprint: str
    counts: dict[str, int]
    """Utterances of each set as listed, those of them that are bad (`<set>_bad`), and `PackedUtterances.left_out`."""


def open_utterances(config: CellConfig, data_root: Path) -> SpeechSplits:
    """Open the configured source. Raises DataError, naming the file, if it does not match the config."""
    data, sources = config.data, open_sources(config.data, data_root)
    usable = {name: Utterances(parts, data, name) for name, parts in sources.items()}
    _check_counts(usable, data)
    counts: dict[str, int] = {}
    for name, utterances in usable.items():
        counts[name] = utterances.listed
        if len(utterances) != utterances.listed:
            counts[f"{name}_bad"] = utterances.listed - len(utterances)
    training = usable.pop("train")
    train = PackedUtterances(training, config, FeatureExtractor(training, config, data.speeds))
    counts |= train.left_out
    sets = {
        name: EvaluationUtterances(utterances, config, FeatureExtractor(utterances, config, [1.0]))
        for name, utterances in usable.items()
    }
    return SpeechSplits(train, sets, _fingerprint(data, sources), counts)


def identify(config: CellConfig, data_root: Path) -> str:
    """The fingerprint alone. It is cached for the built-in corpus and until a file of another source changes."""
    return _fingerprint(config.data, open_sources(config.data, data_root))


def open_sources(data: SpeechDataConfig, data_root: Path) -> dict[str, list[Source]]:
    """The sources of `train` and of each evaluation set."""
    parts = shares([open_source(data, data_root, split) for split in data.train_splits], data)
    own = {
        name: [open_source(data, data_root, data.split_names.get(name, name))]
        for name in data.sets
        if name not in parts
    }
    return {name: parts[name] if name in parts else own[name] for name in ("train", *data.sets)}


def _fingerprint(data: SpeechDataConfig, sources: dict[str, list[Source]]) -> str:
    return ":".join([data.name, *("-".join(source.fingerprint for source in parts) for parts in sources.values())])


def _check_counts(usable: dict[str, Utterances], data: SpeechDataConfig) -> None:
    training = usable["train"]
    counts = {"data.train_size": Count(training.listed, data.train_size, "utterances in train")}
    for name in data.sets:
        what = f"utterances in {name}"
        counts[f"data.set_sizes.{name}"] = Count(usable[name].listed, data.set_sizes[name], what)
    if data.epoch_size is not None:
        too_long = int((training.lengths > data.max_seconds * data.features.sample_rate).sum())
        what = f"in train not longer than {data.max_seconds:g} s"
        counts["data.epoch_size"] = Count(training.listed - too_long, data.epoch_size, what)
    check_counts(describe(data, BUILT_IN), counts)
