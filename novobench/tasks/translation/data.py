"""Micro-batches of sentence pairs, packed by padded tokens, and the sets a cell is judged on.

All micro-batches of an epoch are packed at once: pairs are shuffled, sorted by length, and cut where the next pair
would exceed `batch.micro` padded tokens. The lengths come in the same order whatever the shuffle, so each epoch has the
same number of micro-batches with the same shapes, and only pairs of equal lengths trade places. Which pairs are in a
micro-batch depends on (seed, epoch); which micro-batches are in an update, on (seed, update). NeMo packed once and for
all, and sorted by another path through the lengths.

B pairs, S source pieces, T target pieces, with both sentence marks; M micro-batches an epoch.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece as spm
import torch
from torch import Tensor
from torch.utils.data import Dataset

from novobench.budget import parse_budget
from novobench.config import CellConfig
from novobench.errors import DataError
from novobench.files import derived_folder, write_json
from novobench.tasks.metric import Metric
from novobench.tasks.sampling import SampleKey, derive_seed, epoch_order, updates_per_epoch
from novobench.tasks.sources import Count, check_counts
from novobench.tasks.translation import pieces
from novobench.tasks.translation.config import TranslationDataConfig
from novobench.tasks.translation.model import PAD
from novobench.tasks.translation.pieces import Sequences, encode, prepare
from novobench.tasks.translation.scoring import nearest_neighbours, sacrebleu
from novobench.tasks.translation.text import Pairs, Split, open_split, read_evaluation

log = logging.getLogger(__name__)

_NEIGHBOURS_VERSION = 1
"""Raised when `scoring.py` finds other neighbours or scores them otherwise, so that kept scores are made anew."""


@dataclass(frozen=True)
class TranslationSplits:
    """All a cell trains on and is judged by."""

    train: PackedPairs
    search: EvaluationPairs
    tests: dict[str, EvaluationPairs]
    model: spm.SentencePieceProcessor
    fingerprint: str
    counts: dict[str, int]
    baselines: dict[str, dict[str, Metric]]


def open_pairs(config: CellConfig, data_root: Path) -> TranslationSplits:
    """Open the configured source. Raises DataError, naming the file, if it is not as the config says."""
    data = config.data
    source, splits = _open_splits(data, data_root)
    prepared = prepare(source, data, config.model.vocabulary, data_root)
    train = PackedPairs(prepared.source, prepared.target, config.batch.micro, data.batch_multiple, config.seed)
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
    """The fingerprint that `open_pairs` gives, from the text and the BPE model's settings alone."""
    source, splits = _open_splits(config.data, data_root)
    return _fingerprint(config.data, pieces.identify(source, config.data, config.model.vocabulary, data_root), splits)


def _open_splits(data: TranslationDataConfig, data_root: Path) -> tuple[Split, dict[str, Split]]:
    """The training split, and by name those that a cell is judged on."""
    names = {"search": data.search_split, "test": data.test_split}
    names |= {name.removeprefix("sacrebleu:").replace("/", "-"): name for name in data.more_tests}
    source = open_split(data, data_root, data.train_split)
    return source, {name: open_split(data, data_root, split) for name, split in names.items()}


def _fingerprint(data: TranslationDataConfig, train: str, splits: dict[str, Split]) -> str:
    return ":".join([data.name, train, *(split.fingerprint() for split in splits.values())])


def _baselines(
    source: Split, splits: dict[str, Split], texts: dict[str, Pairs], tokenize: str
) -> dict[str, dict[str, Metric]]:
    """What memory alone reaches: for each sentence the translation of its nearest training sentence. Looked for once a
    machine and kept: it takes seconds."""
    about = {name: split.fingerprint() for name, split in splits.items()}
    identity = json.dumps([_NEIGHBOURS_VERSION, version("sacrebleu"), source.fingerprint(), about, tokenize])
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]

    def build(folder: Path) -> None:
        known = source.read()
        scores = {
            name: sacrebleu(outputs, text.targets, tokenize=tokenize)
            for name, text in texts.items()
            if (outputs := nearest_neighbours(text.sources, known))
        }
        write_json(folder / "sacrebleu.json", scores)

    folder = derived_folder(f"translation/neighbours-{key}", build)
    scores = json.loads((folder / "sacrebleu.json").read_text(encoding="utf-8"))
    return {
        name: {"neighbour_sacrebleu": Metric(score, len(texts[name].targets), "BLEU")} for name, score in scores.items()
    }


def _check_positions(sets: dict[str, EvaluationPairs], positions: int) -> None:
    name, longest = max(((name, pairs.longest) for name, pairs in sets.items()), key=lambda found: found[1])
    if longest > positions:
        raise DataError(
            f"{name} has a sentence of {longest} pieces, but model.positions is {positions}. Add: --set "
            f"model.positions={longest}"
        )


def _check_counts(config: CellConfig, counts: dict[str, int], micro_batches: int) -> None:
    """Compare what is found with what the config says; the tokens of an epoch too, where the budget counts epochs."""
    data, tokens = config.data, micro_batches * config.batch.micro
    declared = {
        f"data.{name}_size": Count(counts[name], getattr(data, f"{name}_size"), f"{name} pairs")
        for name in ("train", "search", "test")
    }
    what = f"padded tokens in an epoch's {micro_batches:,} micro-batches of {config.batch.micro}"
    if parse_budget(config.budget)[1] == "ep":
        declared["data.train_tokens"] = Count(tokens, data.train_tokens, what)
    elif tokens != data.train_tokens:
        told = "data '%s' has %d %s, but data.train_tokens is %d. Epochs in curves are counted by the latter."
        log.warning(told, data.name, tokens, what, data.train_tokens)
    if updates_per_epoch(tokens, config.batch.size, data.tail) < 1:
        step = config.batch.size // config.accumulation  # what the devices take at once
        size = tokens // step * step
        instead = f"add: --set batch.size={size} data.train_tokens={tokens}" if size else "lower batch.micro"
        raise DataError(
            f"data '{data.name}' has {tokens} {what}, but one update takes batch.size {config.batch.size}. Use more "
            f"text, or {instead}"
        )
    origin = "built in" if data.source == "numbers" else f"{data.source} {data.path or data.name}"
    check_counts(f"data '{data.name}' ({origin})", declared)


# ---------------------------------------------------------------------------------------------- training


class PackedPairs(Dataset):
    """Whole micro-batches by `SampleKey`: sample i of an epoch is its i-th micro-batch."""

    def __init__(self, source: Sequences, target: Sequences, tokens: int, multiple: int, seed: int) -> None:
        self.source, self.target = source, target
        self.seed = derive_seed(seed, "pack")
        lengths = np.stack([source.lengths, target.lengths]).astype(np.int64)  # [2, pairs]
        # By target length, then by source length, rising and falling in turn, so that neighbours are alike in both.
        falling = np.where(lengths[1] % 2 == 0, lengths[0], -lengths[0])
        order = np.lexsort([falling, lengths[1]])
        self.cuts = pack(lengths[:, order], tokens, multiple)
        changes = np.any(np.diff(lengths[:, order], axis=1, prepend=-1), axis=0)
        self.group = np.empty(len(order), dtype=np.int64)
        self.group[order] = np.cumsum(changes)  # pairs of equal lengths; in the order of packing
        longest = np.maximum.reduceat(lengths[:, order], self.cuts[:-1], axis=1).sum(axis=0)
        self.padded_tokens = int((longest * np.diff(self.cuts)).sum())

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """`source` [B, S], `target` [B, T], and whether any source is `padded`, which a GPU would be asked for."""
        chosen = self.pairs(key)
        sources = [self.source[i] for i in chosen]
        return {
            "source": padded(sources),
            "target": padded([self.target[i] for i in chosen]),
            "padded": len(set(map(len, sources))) > 1,
        }

    def pairs(self, key: SampleKey) -> list[int]:
        """The pairs of one micro-batch."""
        return _packed_order(self, key.epoch)[self.cuts[key.sample] : self.cuts[key.sample + 1]].tolist()


@lru_cache(maxsize=2)
def _packed_order(packed: PackedPairs, epoch: int) -> np.ndarray:
    shuffled = epoch_order(len(packed.group), packed.seed, epoch)
    return shuffled[np.argsort(packed.group[shuffled], kind="stable")]


def pack(lengths: np.ndarray, tokens: int, multiple: int) -> np.ndarray:
    """Where to cut pairs of these source and target lengths, [2, pairs] in order, into micro-batches: [M + 1].

    As many as fit into `tokens`, padded, and no more than a multiple of `multiple` where there are that many.
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
                f"A pair of {sources[start]} + {targets[start]} pieces does not fit into a micro-batch of {tokens} "
                f"tokens. Raise batch.micro to {largest} or more, and batch.size with it, or lower data.max_length."
            )
        if stop < len(sources) and stop - start > multiple:
            stop -= (stop - start) % multiple
        cuts.append(stop)
        start = stop
    return np.array(cuts)


def padded(sequences: list[np.ndarray]) -> Tensor:
    """One row a sequence, int64, padded on the right."""
    rows = np.full((len(sequences), max(map(len, sequences))), PAD, dtype=np.int64)
    for row, sequence in zip(rows, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(rows)


# ---------------------------------------------------------------------------------------------- evaluation


class EvaluationPairs(Dataset):
    """Sentences with their references, shortest first, so that a batch holds like lengths; `index` is the line."""

    def __init__(
        self,
        text: Pairs,
        model: spm.SentencePieceProcessor,
        *,
        beams: int,
    ) -> None:
        self.text, self.beams = text, beams
        self.sources, self.targets = encode(model, text.sources), encode(model, text.targets)
        self.order = sorted(range(len(self.sources)), key=lambda i: (len(self.sources[i]), i))
        self.longest = max((len(x) for x in [*self.sources, *self.targets]), default=0)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> dict[str, Any]:
        index = self.order[position]
        return {
            "index": index,
            "beams": self.beams,
            "source": self.sources[index],
            "target": self.targets[index],
            "input": self.text.sources[index],
            "reference": self.text.targets[index],
        }


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A packed micro-batch as it is; evaluation items as padded `source` [B, S], `target` [B, T] and lists."""
    if "index" not in items[0]:
        return items[0]
    batch: dict[str, Any] = {key: [item[key] for item in items] for key in items[0]}
    return batch | {key: padded([np.array(x) for x in batch[key]]) for key in ("source", "target")}
