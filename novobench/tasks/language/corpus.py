"""The three splits as word ids, encoded once and cached, with their counts and baselines."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from novobench.errors import DataError
from novobench.files import derived_folder, write_json, write_text
from novobench.tasks.language.baselines import perplexities
from novobench.tasks.language.config import BUILT_IN, LanguageDataConfig, LanguageModelConfig
from novobench.tasks.language.sources import SPLITS, Text, open_texts, text_files
from novobench.tasks.language.vocabulary import END, UNKNOWN, build_vocabulary, check_line_ends, encode
from novobench.tasks.sampling import SampleKey, uniforms
from novobench.tasks.sources import Count, cached_value, check_counts, describe

_CODE_VERSION = 2
"""Raised when this code returns other ids for the same text, or refuses a text that it accepted."""
_LIMIT_BLOCK = 50
"""Lines that `limit` takes together."""
_BASELINES_VERSION = 2
"""Raised when `baselines.py` returns other numbers for the same ids."""


@dataclass(frozen=True)
class Corpus:
    """Text as word ids. Word 0 is `<eos>`; the others follow from frequent to rare."""

    vocabulary: list[str]
    """Word ids -> words."""
    tokens: dict[str, np.ndarray]
    """`train`, `valid`, `test` -> word ids, int32 [N]; `train` is cut to `limit`."""
    train_tokens: int
    """Tokens of the training text before it was cut."""

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the text, the same for every source."""
        digest = hashlib.sha256("\n".join(self.vocabulary).encode())
        for split in SPLITS:
            digest.update(self.tokens[split].tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def baselines(self) -> dict[str, dict[str, float]]:
        """`valid`, `test` -> `unigram`, `kneser_ney_2`, `kneser_ney_3` (perplexities) and `unknown` (% of tokens).
        Computed once and cached."""
        name = f"language/baselines-{_BASELINES_VERSION}-{self.fingerprint}"
        folder = derived_folder(name, lambda folder: write_json(folder / "baselines.json", self._compute_baselines()))
        return json.loads((folder / "baselines.json").read_text(encoding="utf-8"))

    def _compute_baselines(self) -> dict[str, dict[str, float]]:
        unknown = self.vocabulary.index(UNKNOWN) if UNKNOWN in self.vocabulary else -1
        return {
            split: {
                **perplexities(self.tokens["train"], self.tokens[split], len(self.vocabulary)),
                "unknown": 100 * float((self.tokens[split] == unknown).mean()),
            }
            for split in ("valid", "test")
        }


def open_corpus(config: LanguageDataConfig, data_root: Path) -> Corpus:
    """Read and encode the configured text, or read it from the cache. Raises DataError, naming the file."""
    texts = open_texts(config, data_root)
    digest = hashlib.sha256(f"{_CODE_VERSION} {config.minimum_count}".encode())
    for split, (_, lines) in texts.items():
        digest.update("\n".join([f"{split} {len(lines)}", *lines, ""]).encode())
    folder = derived_folder(
        f"language/{digest.hexdigest()[:16]}", lambda folder: _build(folder, texts, config.minimum_count)
    )
    tokens = {split: np.load(folder / f"{split}.npy") for split in SPLITS}
    whole = len(tokens["train"])
    if config.limit is not None:
        tokens["train"] = limited(tokens["train"], config.limit)
    return Corpus((folder / "words.txt").read_text(encoding="utf-8").split("\n"), tokens, whole)


def limited(tokens: np.ndarray, limit: int) -> np.ndarray:
    """`limit` tokens of a text, int32 [limit]: random blocks of lines, the same for every cell, in the order of the
    text; the last one is cut."""
    line_ends = np.flatnonzero(tokens == 0) + 1
    ends = np.unique(np.append(line_ends[_LIMIT_BLOCK - 1 :: _LIMIT_BLOCK], len(tokens)))
    blocks = np.split(np.arange(len(tokens)), ends[:-1])
    order = np.argsort(uniforms(0, "limit", [SampleKey(0, block) for block in range(len(blocks))], 1)[:, 0])
    enough = int(np.searchsorted(np.cumsum([len(blocks[block]) for block in order]), limit)) + 1
    return tokens[np.concatenate([blocks[block] for block in sorted(order[:enough].tolist())])[:limit]]


def _build(folder: Path, texts: dict[str, Text], minimum_count: int) -> None:
    """Encode all splits into `folder`."""
    for text in texts.values():
        check_line_ends(text)
    counts: Counter[str] = Counter()
    for line in texts["train"].lines:
        counts.update(line.split())
    vocabulary = build_vocabulary(counts, minimum_count)
    ids = {word: number for number, word in enumerate(vocabulary)}
    encoded = {split: encode(text, ids, minimum_count, min(counts.values())) for split, text in texts.items()}
    for split, tokens in encoded.items():
        np.save(folder / f"{split}.npy", tokens)
    write_text(folder / "words.txt", "\n".join(vocabulary))


def identify(config: LanguageDataConfig, data_root: Path) -> str:
    """`Corpus.fingerprint` of the configured text; that of files is cached until one of them changes."""
    if config.source != "files":
        return open_corpus(config, data_root).fingerprint
    limit = "" if config.limit is None else f" {config.limit}"
    settings = f"{_CODE_VERSION} {config.minimum_count} {config.train_share}{limit}"
    settings = hashlib.sha256(settings.encode()).hexdigest()[:8]
    paths = list(text_files(config, data_root).values())
    return cached_value(f"language/{settings}", paths, lambda: open_corpus(config, data_root).fingerprint)


def check_length(corpus: Corpus, data: LanguageDataConfig, streams: int) -> None:
    """Raise DataError if the training text is too short for one update of `streams` streams."""
    tokens = len(corpus.tokens["train"])
    if replace(data, train_tokens=tokens).updates_per_epoch(streams) < 1:
        raise DataError(
            f"{describe(data, BUILT_IN)} has {tokens} train tokens with {END}, but one update takes batch.size "
            f"{streams} streams of data.segment_length {data.segment_length} tokens and one more each. Use a longer "
            "text, or lower one of the two."
        )


def checked_counts(corpus: Corpus, data: LanguageDataConfig, model: LanguageModelConfig) -> dict[str, int]:
    """Tokens of each split and, as `words`, the vocabulary size. Raises DataError if they differ from the config."""
    counts = {split: len(corpus.tokens[split]) for split in SPLITS} | {"words": len(corpus.vocabulary)}
    whole = counts | {"train": corpus.train_tokens}
    declared = {
        f"data.{split}_tokens": Count(whole[split], getattr(data, f"{split}_tokens"), f"{split} tokens with {END}")
        for split in SPLITS
    }
    declared["model.vocabulary_size"] = Count(counts["words"], model.vocabulary_size, "word types")
    if model.cutoffs and model.cutoffs[-1] >= counts["words"]:
        items = "word types for the softmax's clusters"
        declared["model.cutoffs"] = Count(counts["words"], model.cutoffs, items, proposed=[])
    if any(count.actual != count.declared for count in declared.values()):
        # Parts that are cut from the texts must fit too, or the config would refuse the proposed counts.
        shortest = min(counts["valid"], counts["test"])
        for key, limit, items in (
            ("probe_tokens", counts["train"], "train tokens to probe"),
            ("evaluation_streams", shortest, "tokens in the shorter text to evaluate"),
        ):
            if getattr(data, key) > limit:
                declared[f"data.{key}"] = Count(limit, getattr(data, key), items)
    check_counts(describe(data, BUILT_IN), declared)
    return counts
