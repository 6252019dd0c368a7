"""Micro-batches of sentence pairs, packed by padded tokens, and the sets a cell (one training run) is evaluated on.

All micro-batches of an epoch are packed at once: pairs are shuffled, sorted by length, and cut where the next pair
would exceed `batch.micro` padded tokens. Lengths come in the same order whatever the shuffle, so every epoch has the
same number of micro-batches with the same shapes, and only pairs of equal lengths are exchanged. Which pairs are in a
micro-batch depends on (seed, epoch), and which micro-batches are in an update on (seed, update). NeMo packed only once,
and sorted by length in a different order.

B pairs, S source tokens, T target tokens, both with the two sentence marks; M micro-batches per epoch.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece as spm
import torch
from torch import Tensor
from torch.utils.data import Dataset

from novobench.budget import parse_budget
from novobench.config import CellConfig, data_root
from novobench.errors import DataError
from novobench.files import derived_folder, write_json
from novobench.tasks.base import EvaluationSet, TaskData
from novobench.tasks.metric import Metric
from novobench.tasks.sampling import SampleKey, derive_seed, epoch_order, uniforms, updates_per_epoch
from novobench.tasks.sources import Count, check_counts, describe
from novobench.tasks.translation import training_pairs
from novobench.tasks.translation.config import BUILT_IN, TranslationDataConfig, more_test_name
from novobench.tasks.translation.held_out import with_shares
from novobench.tasks.translation.model import BEGIN, END, PAD
from novobench.tasks.translation.scoring import nearest_neighbours, sacrebleu
from novobench.tasks.translation.sources import Pairs, Split, open_split, read_evaluation
from novobench.tasks.translation.tokenizer import encode
from novobench.tasks.translation.training_pairs import TokenArrays

log = logging.getLogger(__name__)

_NEIGHBOURS_VERSION = 1
"""Raised when `scoring.py` finds other neighbours or scores them differently: cached scores are then recomputed."""


# ---------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Item:
    """One sentence of an evaluation set."""

    source: list[int]
    """Tokens with both sentence marks."""
    target: list[int]
    index: int
    """The line in the set."""
    text: str
    """The source sentence."""
    reference: str
    """The target sentence."""
    beams: int
    """Width of the beam search; 1: greedy decoding only."""


class TranslationBatch(NamedTuple):
    """A micro-batch. The fields after `is_padded` are for evaluation and have their defaults in training."""

    source: Tensor
    """Tokens, int64 [B, S], padded on the right with PAD."""
    target: Tensor
    """Tokens, int64 [B, T], padded on the right with PAD."""
    is_padded: bool
    """False if `source` has no padding, so that the encoder needs no mask. Reading this off `source` on a GPU would
    wait for the device."""
    indices: Sequence[int] = ()
    texts: Sequence[str] = ()
    references: Sequence[str] = ()
    beams: int = 1


def collate(items: list[Item]) -> TranslationBatch:
    """One evaluation batch of all `items`."""
    return TranslationBatch(
        source=padded([np.array(item.source) for item in items]),
        target=padded([np.array(item.target) for item in items]),
        is_padded=True,
        indices=[item.index for item in items],
        texts=[item.text for item in items],
        references=[item.reference for item in items],
        beams=items[0].beams,
    )


def padded(sequences: Sequence[np.ndarray]) -> Tensor:
    """One row per sequence, padded on the right with PAD: int64 [sequences, longest]."""
    rows = np.full((len(sequences), max(map(len, sequences))), PAD, dtype=np.int64)
    for row, sequence in zip(rows, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(rows)


# ---------------------------------------------------------------------------------------------- training


class PackedPairs(Dataset):
    """Whole micro-batches by `SampleKey`: sample i of an epoch is its i-th micro-batch.

    A micro-batch holds at most `tokens` padded tokens, and a multiple of `multiple` pairs if it has that many. With a
    `limit`, an epoch has the first so many pairs of a fixed shuffle.
    """

    padded_tokens: int
    """Of all micro-batches of an epoch."""

    def __init__(
        self,
        source: TokenArrays,
        target: TokenArrays,
        tokens: int,
        multiple: int,
        seed: int,
        limit: int | None = None,
    ) -> None:
        self.source, self.target = source, target
        self.seed = derive_seed(seed, "pack")
        lengths = np.stack([source.lengths, target.lengths]).astype(np.int64)  # [2, pairs]
        self.used: np.ndarray | None = None
        """The pairs that are trained on, int64, sorted; None: all."""
        if limit is not None and limit < len(source):
            draws = uniforms(0, "limit", [SampleKey(0, index) for index in range(len(source))], 1)[:, 0]
            self.used = np.sort(np.argsort(draws)[:limit])
            lengths = lengths[:, self.used]
        # By target length, then by source length, ascending and descending in turn, so that adjacent pairs are alike in
        # both.
        alternating = np.where(lengths[1] % 2 == 0, lengths[0], -lengths[0])
        order = np.lexsort([alternating, lengths[1]])
        self.cuts = pack(lengths[:, order], tokens, multiple)
        changes = np.any(np.diff(lengths[:, order], axis=1, prepend=-1), axis=0)
        self.group = np.empty(len(order), dtype=np.int64)
        self.group[order] = np.cumsum(changes)  # numbers the sets of pairs with equal lengths, in the order of packing
        longest = np.maximum.reduceat(lengths[:, order], self.cuts[:-1], axis=1).sum(axis=0)
        self.padded_tokens = int((longest * np.diff(self.cuts)).sum())

    def __len__(self) -> int:
        """Micro-batches per epoch, M."""
        return len(self.cuts) - 1

    def __getitem__(self, key: SampleKey) -> TranslationBatch:
        indices = self.pairs(key)
        sources = [self.source[i] for i in indices]
        return TranslationBatch(
            source=padded(sources),
            target=padded([self.target[i] for i in indices]),
            is_padded=len(set(map(len, sources))) > 1,
        )

    def pairs(self, key: SampleKey) -> list[int]:
        """The indices of the pairs of one micro-batch, B."""
        pairs = _packed_order(self, key.epoch)[self.cuts[key.sample] : self.cuts[key.sample + 1]]
        return (pairs if self.used is None else self.used[pairs]).tolist()


@lru_cache(maxsize=2)
def _packed_order(packed: PackedPairs, epoch: int) -> np.ndarray:
    shuffled = epoch_order(len(packed.group), packed.seed, epoch)
    return shuffled[np.argsort(packed.group[shuffled], kind="stable")]


def pack(lengths: np.ndarray, tokens: int, multiple: int) -> np.ndarray:
    """Where to cut pairs of these source and target lengths, int64 [2, pairs] in order, into micro-batches: [M + 1].

    Each holds as many pairs as fit into `tokens`, padded, rounded down to a multiple of `multiple` if it has that many.
    Raises DataError if a single pair does not fit.
    """
    sources, targets = lengths.tolist()
    cuts, start = [0], 0
    while start < len(sources):
        stop, longest_source, longest_target = start, 0, 0
        while stop < len(sources):
            longest_source, longest_target = max(longest_source, sources[stop]), max(longest_target, targets[stop])
            if (stop - start + 1) * (longest_source + longest_target) > tokens:
                break
            stop += 1
        if stop == start:
            largest = int(lengths.sum(axis=0).max())
            raise DataError(
                f"A pair of {sources[start]} + {targets[start]} tokens does not fit into a micro-batch of {tokens} "
                f"tokens. Raise batch.micro to {largest} or more, and batch.size with it, or lower data.max_length."
            )
        if stop < len(sources) and stop - start > multiple:
            stop -= (stop - start) % multiple
        cuts.append(stop)
        start = stop
    return np.array(cuts)


# ---------------------------------------------------------------------------------------------- evaluation


class EvaluationPairs(Dataset):
    """Sentences with their references, shortest first, so that the sentences of a batch have similar lengths."""

    longest: int
    """Tokens of the longest source or target."""

    def __init__(self, text: Pairs, model: spm.SentencePieceProcessor, *, beams: int) -> None:
        self.text, self.beams = text, beams
        self.sources, self.targets = encode(model, text.sources), encode(model, text.targets)
        self.order = sorted(range(len(self.sources)), key=lambda i: (len(self.sources[i]), i))
        self.longest = max((len(tokens) for tokens in [*self.sources, *self.targets]), default=0)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Item:
        index = self.order[position]
        text, reference = self.text.sources[index], self.text.targets[index]
        return Item(self.sources[index], self.targets[index], index, text, reference, self.beams)


# ---------------------------------------------------------------------------------------------- opening


class TranslationData(TaskData):
    """The sentence pairs of the configured source, and the tokenizer."""

    collate = staticmethod(collate)
    packed = True

    def setup(self, stage: str) -> None:
        splits = open_pairs(self.config, data_root(self.config))
        self.train = splits.train
        self.evaluation_sets = [EvaluationSet("search", "search", splits.search)]
        self.evaluation_sets += [EvaluationSet(name, "test", pairs) for name, pairs in splits.tests.items()]
        self.fingerprint, self.counts, self.baselines = splits.fingerprint, splits.counts, splits.baselines
        self.model = splits.model

    def identify(self) -> str:
        return identify(self.config, data_root(self.config))

    def text(self, tokens: list[int]) -> str:
        """Tokens as text: up to the first END, without sentence marks."""
        tokens = tokens[: tokens.index(END)] if END in tokens else tokens
        return self.model.decode([token for token in tokens if token not in (PAD, BEGIN)])


@dataclass(frozen=True)
class TranslationSplits:
    """The pairs that a cell is trained and evaluated on."""

    train: PackedPairs
    search: EvaluationPairs
    tests: dict[str, EvaluationPairs]
    model: spm.SentencePieceProcessor
    fingerprint: str
    counts: dict[str, int]
    """Pairs of each set, `TrainingPairs.counts` without `found`, `train_batches` and `padded_tokens` of an epoch."""
    baselines: dict[str, dict[str, Metric]]


def open_pairs(config: CellConfig, data_root: Path) -> TranslationSplits:
    """Open the configured source. Raises DataError, naming the file, if it does not match the config."""
    data = config.data
    source, splits = open_splits(data, data_root)
    prepared = training_pairs.prepare(source, data, config.model.vocabulary, data_root)
    train = PackedPairs(
        prepared.source, prepared.target, config.batch.micro, data.batch_multiple, config.seed, data.limit
    )
    texts = {name: read_evaluation(split) for name, split in splits.items()}
    counts = {"train": prepared.counts["found"], **{name: len(text.sources) for name, text in texts.items()}}
    _check_counts(config, counts, len(train))
    counts |= {name: n for name, n in prepared.counts.items() if name != "found"}
    counts |= {"train_batches": len(train), "padded_tokens": train.padded_tokens}
    sets = {
        name: EvaluationPairs(text, prepared.model, beams=1 if name == "search" else data.beams)
        for name, text in texts.items()
    }
    _check_positions(sets, config.model.positions)
    fingerprint = _fingerprint(data, prepared.fingerprint, splits)
    baselines = _baselines(source, splits, texts, data.tokenize) if data.neighbours else {}
    return TranslationSplits(train, sets.pop("search"), sets, prepared.model, fingerprint, counts, baselines)


def identify(config: CellConfig, data_root: Path) -> str:
    """The fingerprint of `open_pairs`, from the text and the settings of the BPE model alone."""
    source, splits = open_splits(config.data, data_root)
    train = training_pairs.identify(source, config.data, config.model.vocabulary, data_root)
    return _fingerprint(config.data, train, splits)


def open_splits(data: TranslationDataConfig, data_root: Path) -> tuple[Split, dict[str, Split]]:
    """The training split, and the evaluation splits by name."""
    names = {"search": data.search_split, "test": data.test_split}
    names |= {more_test_name(name): name for name in data.more_tests}
    source, shares = with_shares(data, open_split(data, data_root, data.train_split))
    return source, {
        name: shares[name] if name in shares else open_split(data, data_root, split) for name, split in names.items()
    }


def _fingerprint(data: TranslationDataConfig, train: str, splits: dict[str, Split]) -> str:
    return ":".join([data.name, train, *(split.fingerprint() for split in splits.values())])


def _baselines(
    source: Split, splits: dict[str, Split], texts: dict[str, Pairs], tokenize: str
) -> dict[str, dict[str, Metric]]:
    """What memory alone reaches: each sentence gets the translation of its nearest training sentence.

    Computed once per machine, as it takes seconds.
    """
    fingerprints = {name: split.fingerprint() for name, split in splits.items()}
    identity = json.dumps([_NEIGHBOURS_VERSION, version("sacrebleu"), source.fingerprint(), fingerprints, tokenize])
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]

    def build(folder: Path) -> None:
        training_text = source.read()
        scores = {
            name: sacrebleu(outputs, text.targets, tokenize=tokenize)
            for name, text in texts.items()
            if (outputs := nearest_neighbours(text.sources, training_text))
        }
        write_json(folder / "sacrebleu.json", scores)

    folder = derived_folder(f"translation/neighbours-{key}", build)
    scores = json.loads((folder / "sacrebleu.json").read_text(encoding="utf-8"))
    return {
        name: {"neighbour_sacrebleu": Metric(score, len(texts[name].targets), "BLEU")} for name, score in scores.items()
    }


def _check_positions(sets: dict[str, EvaluationPairs], positions: int) -> None:
    name, pairs = max(sets.items(), key=lambda entry: entry[1].longest)
    if pairs.longest > positions:
        raise DataError(
            f"{name} has a sentence of {pairs.longest} tokens, but model.positions is {positions}. Add: --set "
            f"model.positions={pairs.longest}"
        )


def _check_counts(config: CellConfig, counts: dict[str, int], micro_batches: int) -> None:
    """Compare counts with the config; also the tokens of an epoch, if the budget counts epochs."""
    data, tokens = config.data, micro_batches * config.batch.micro
    checks = {
        f"data.{name}_size": Count(counts[name], getattr(data, f"{name}_size"), f"{name} pairs")
        for name in ("train", "search", "test")
    }
    what = f"padded tokens in an epoch's {micro_batches:,} micro-batches of {config.batch.micro}"
    if data.limit is not None:  # the config has the tokens of all pairs
        log.info("data '%s' with data.limit %d has %d %s.", data.name, data.limit, tokens, what)
    elif parse_budget(config.budget)[1] == "ep":
        checks["data.train_tokens"] = Count(tokens, data.train_tokens, what)
    elif tokens != data.train_tokens:
        message = "data '%s' has %d %s, but data.train_tokens is %d, by which curves count epochs."
        log.warning(message, data.name, tokens, what, data.train_tokens)
    if updates_per_epoch(tokens, config.batch.size, data.tail) < 1:
        step = config.batch.size // config.accumulation  # what all devices process at once
        size = tokens // step * step
        declared = "" if data.limit is not None else f" data.train_tokens={tokens}"
        remedy = f"add: --set batch.size={size}{declared}" if size else "lower batch.micro"
        raise DataError(
            f"data '{data.name}' has {tokens} {what}, but one update takes batch.size {config.batch.size}. Use more "
            f"text, or {remedy}"
        )
    check_counts(describe(data, BUILT_IN), checks)
