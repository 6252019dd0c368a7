"""From text of three interchangeable sources to word ids, built once and kept in the cache.

All sources give lines of space-separated words; from there on everything is the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from novobench.errors import DataError, suggestion
from novobench.files import derived_folder, write_json, write_text
from novobench.tasks.hub import open_hub
from novobench.tasks.language.baselines import perplexities
from novobench.tasks.language.builtin import glosses
from novobench.tasks.language.config import LanguageDataConfig, LanguageModelConfig
from novobench.tasks.sources import Count, cached_value, check_counts, data_folder, list_folder, listed, text_lines

END, UNKNOWN = "<eos>", "<unk>"
SPLITS = ("train", "valid", "test")
_SPLIT_NAMES = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}
"""What files call a split."""
_CODE_VERSION = 2
"""Raised when the code below gives other ids for the same text, or refuses one that it took."""
_BASELINES_VERSION = 2
"""Raised when `baselines.py` gives other numbers for the same ids."""
_SHARE_BLOCK = 50
"""Lines that `train_share` keeps or drops together."""
_HUB_ROWS = 10_000
"""Rows read at a time."""


@dataclass(frozen=True)
class Corpus:
    """Text as word ids, int32; word 0 is `<eos>`, the others follow from frequent to rare."""

    words: list[str]
    tokens: dict[str, np.ndarray]
    """`train`, `valid`, `test`."""

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same text, whatever source it came from."""
        digest = hashlib.sha256("\n".join(self.words).encode())
        for split in SPLITS:
            digest.update(self.tokens[split].tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def baselines(self) -> dict[str, dict[str, float]]:
        """`valid`, `test` -> `unigram`, `kneser_ney_2`, `kneser_ney_3` (perplexities) and `unknown` (% of tokens).
        Counted once and kept in the cache."""
        name = f"language/baselines-{_BASELINES_VERSION}-{self.fingerprint}"
        folder = derived_folder(name, lambda folder: write_json(folder / "baselines.json", self._count_baselines()))
        return json.loads((folder / "baselines.json").read_text(encoding="utf-8"))

    def _count_baselines(self) -> dict[str, dict[str, float]]:
        unknown = self.words.index(UNKNOWN) if UNKNOWN in self.words else -1
        train, words = self.tokens["train"], len(self.words)
        return {
            split: {
                **perplexities(train, self.tokens[split], words),
                "unknown": 100 * float((self.tokens[split] == unknown).mean()),
            }
            for split in ("valid", "test")
        }


class Text(NamedTuple):
    """A split before it is encoded."""

    name: str
    """For error messages: the file, or the data set and its split."""
    lines: list[str]


def open_corpus(config: LanguageDataConfig, data_root: Path) -> Corpus:
    """Read and encode the configured text, or take it from the cache. Raises DataError, naming the file."""
    texts = _read(config, data_root)
    for text in texts.values():
        if not any(line.split() for line in text.lines):
            raise DataError(f"{text.name} holds no word, so it is no text. Fetch it again.")
    if config.train_share < 1:
        texts["train"] = _share(texts["train"], config.train_share)
    digest = hashlib.sha256(f"{_CODE_VERSION} {config.minimum_count}".encode())
    for split, (_, lines) in texts.items():
        digest.update("\n".join([f"{split} {len(lines)}", *lines, ""]).encode())
    folder = derived_folder(
        f"language/{digest.hexdigest()[:16]}", lambda folder: _build(folder, texts, config.minimum_count)
    )
    return Corpus(
        words=(folder / "words.txt").read_text(encoding="utf-8").split("\n"),
        tokens={split: np.load(folder / f"{split}.npy") for split in SPLITS},
    )


def identify(config: LanguageDataConfig, data_root: Path) -> str:
    """`Corpus.fingerprint` of the configured text; of files it is kept until one of them changes."""
    if config.source != "files":
        return open_corpus(config, data_root).fingerprint
    settings = hashlib.sha256(f"{_CODE_VERSION} {config.minimum_count} {config.train_share}".encode()).hexdigest()[:8]
    paths = list(_text_files(_folder(config, data_root)).values())
    return cached_value(f"language/{settings}", paths, lambda: open_corpus(config, data_root).fingerprint)


# ---------------------------------------------------------------------------------------------- sources


def _read(config: LanguageDataConfig, data_root: Path) -> dict[str, Text]:
    if config.source == "glosses":
        if config.name != "glosses":
            raise DataError(f"data.name '{config.name}' is no built-in text. Known: glosses.")
        return {split: Text(f"glosses[{split}]", lines) for split, lines in glosses().items()}
    if config.source == "files":
        files = _text_files(_folder(config, data_root))
        return {split: Text(str(path), text_lines(path)) for split, path in files.items()}
    return {split: _hub_text(config, data_root, split) for split in SPLITS}


def _folder(config: LanguageDataConfig, data_root: Path) -> Path:
    texts = "train.txt, valid.txt and test.txt, or wiki.train.tokens and so on,"
    return data_folder(data_root, config.path, config.name, texts)


def _text_files(folder: Path) -> dict[str, Path]:
    """The file of each split: `wiki.<split>.tokens` if all three are there, else `<split>.txt` if all three are, else
    for each split its first of these, or the only one whose name has the split's name between dots, as `ptb.train.txt`;
    `valid` may be called `validation`, `val` or `dev`."""
    there = [f"{name}/" if os.path.isdir(folder / name) else name for name in list_folder(folder)]
    named = {split: _named(there, split) for split in SPLITS}
    ways = [way for way in range(_WAYS) if all(len(named[split][way]) == 1 for split in SPLITS)]
    if ways:
        return {split: folder / named[split][ways[0]][0] for split in SPLITS}
    return {split: folder / _only(folder, split, there, named[split]) for split in SPLITS}


_WAYS = 3


def _named(there: list[str], split: str) -> list[list[str]]:
    """The file names that say a split, for each way to say it."""
    names = "|".join(_SPLIT_NAMES[split])
    ways = (rf"wiki\.({names})\.tokens", rf"({names})\.txt", rf"(.*\.)?({names})\.(tokens|txt|raw)")
    return [[name for name in there if re.fullmatch(way, name)] for way in ways]


def _only(folder: Path, split: str, there: list[str], named: list[list[str]]) -> str:
    found = next((found for found in named if found), [])
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{folder} has {len(found)} texts that may be '{split}': {', '.join(found)}. Leave one, or set data.path "
            "to a folder with one."
        )
    names = "|".join(_SPLIT_NAMES[split])
    packed = [name for name in there if re.fullmatch(rf"(.*\.)?({names})\.(tokens|txt|raw)\.\w+", name)]
    others = [name for name in there if not any(any(_named([name], other)) for other in SPLITS)]
    if packed:
        held = f" Unpack {packed[0]}."
    else:
        held = f"{suggestion(f'wiki.{split}.tokens', others)} The folder holds: {listed(there)}."
    raise DataError(
        f"No such text: {folder / f'wiki.{split}.tokens'}.{held} Name the text {split}.txt or "
        f"wiki.{split}.tokens, words with spaces between, set NOVOBENCH_DATA or data.path, or use data.source=hub."
    )


def _hub_text(config: LanguageDataConfig, data_root: Path, split: str) -> Text:
    """The rows of a Hugging Face data set, a line each; or of a local folder of its parquet files. A row of nothing is
    an empty line."""
    split = {"valid": "validation"}.get(split, split)
    path, column = config.path or config.name, config.text_column
    table = open_hub(path, config.hub_config, data_root, split, {column: "data.text_column"}, "data.hub_config")
    name = f"{path}[{split}]"
    kind = getattr(table.features[column], "dtype", "lists or mappings")
    if kind not in ("string", "large_string", "string_view"):
        raise DataError(f"{name}: column '{column}' is no text but {kind}. Set data.text_column.")
    lines: list[str] = []
    try:
        for rows in table.iter(batch_size=_HUB_ROWS):
            for row in rows[column]:
                lines += (row or "").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise DataError(f"{name}: column '{column}' has text that is not UTF-8. Write the data set again.") from None
    if lines:
        lines[0] = lines[0].removeprefix("\ufeff")  # as of a file
    return Text(name, lines)


def _share(text: Text, share: float) -> Text:
    """That share of the blocks of neighbouring lines, spread evenly over the text."""
    lines = [
        line
        for number, line in enumerate(text.lines)
        if math.floor((number // _SHARE_BLOCK + 1) * share) > math.floor(number // _SHARE_BLOCK * share)
    ]
    if not any(line.split() for line in lines):
        raise DataError(
            f"data.train_share {share:g} leaves no word of the {len(text.lines):,} lines of {text.name}, as it takes "
            f"blocks of {_SHARE_BLOCK} lines. Raise it, or leave it 1."
        )
    return Text(text.name, lines)


# ---------------------------------------------------------------------------------------------- words to ids


def _build(folder: Path, texts: dict[str, Text], minimum_count: int) -> None:
    """Encode all splits into `folder`."""
    for text in texts.values():
        _refuse_ends(text)
    counts: Counter[str] = Counter()
    for line in texts["train"].lines:
        counts.update(line.split())
    words = _vocabulary(counts, minimum_count)
    ids = {word: number for number, word in enumerate(words)}
    tokens = {split: _encoded(text, ids, minimum_count, min(counts.values())) for split, text in texts.items()}
    for split, found in tokens.items():
        np.save(folder / f"{split}.npy", found)
    write_text(folder / "words.txt", "\n".join(words))


def _refuse_ends(text: Text) -> None:
    """A text that says where its lines end would have two ends a line, or ends inside one."""
    holding = [number for number, line in enumerate(text.lines, 1) if END in line and END in line.split()]
    if holding:
        raise DataError(
            f"{text.name} has the word {END} in {len(holding):,} of its lines, first in line {holding[0]}. It stands "
            "for the end of a line and is added to each here: remove it from the files."
        )


def _vocabulary(counts: Counter[str], minimum_count: int) -> list[str]:
    """`<eos>`, then the words by frequency, equals in the order of the text: as the published vocabulary code."""
    kept: Counter[str] = Counter()
    for word, count in counts.items():
        kept[word if count >= minimum_count else UNKNOWN] += count
    return [END, *(word for word, _ in kept.most_common())]


def _encoded(text: Text, ids: dict[str, int], minimum_count: int, rarest: int) -> np.ndarray:
    """Word ids. Raises DataError for a word without one; `rarest` is how often the training text's rarest occurs."""
    missing = -1 if minimum_count == 1 else ids.get(UNKNOWN, -1)

    def stream() -> Iterator[int]:
        for line in text.lines:
            for word in line.split():
                yield ids.get(word, missing)
            yield 0

    tokens = np.fromiter(stream(), np.int32)
    if (tokens < 0).any():
        strange = Counter(word for line in text.lines for word in line.split() if word not in ids)
        word, count = strange.most_common(1)[0]
        line_number = next(number for number, line in enumerate(text.lines, 1) if word in line.split())
        # There is an unknown word if the training text has one, or a word that is rarer than the minimum.
        enough = 2 if UNKNOWN in ids else rarest + 1
        raise DataError(
            f"{text.name} holds {len(strange):,} words that the training text lacks, e.g. '{word}' ({count} times, "
            f"first in line {line_number}). Use files of one data set, or set data.minimum_count={enough} to read such "
            f"words as {UNKNOWN}."
        )
    return tokens


def check_length(corpus: Corpus, data: LanguageDataConfig, streams: int) -> None:
    """Raise DataError if the training text is too short for one update of `streams` streams."""
    found = len(corpus.tokens["train"])
    if replace(data, train_tokens=found).updates_per_epoch(streams) < 1:
        raise DataError(
            f"{_described(data)} has {found} train tokens with {END}, but one update takes batch.size {streams} "
            f"streams of data.segment_length {data.segment_length} tokens and one more each. Use a longer text, or "
            "lower one of the two."
        )


def checked_counts(corpus: Corpus, data: LanguageDataConfig, model: LanguageModelConfig) -> dict[str, int]:
    """The counts as measured. Raises DataError if they are not those of the config."""
    counts = {split: len(corpus.tokens[split]) for split in SPLITS} | {"words": len(corpus.words)}
    declared = {
        f"data.{split}_tokens": Count(counts[split], getattr(data, f"{split}_tokens"), f"{split} tokens with {END}")
        for split in SPLITS
    }
    declared["model.vocabulary_size"] = Count(counts["words"], model.vocabulary_size, "word types")
    if model.cutoffs and model.cutoffs[-1] >= counts["words"]:
        what = "word types for the softmax's clusters"
        declared["model.cutoffs"] = Count(counts["words"], model.cutoffs, what, proposed=[])
    if any(count.actual != count.declared for count in declared.values()):
        # What is cut from the texts must not be more than they hold, or what is proposed would be refused.
        shortest = min(counts["valid"], counts["test"])
        for key, most, what in (
            ("probe_tokens", counts["train"], "train tokens to probe"),
            ("evaluation_streams", shortest, "tokens in the shorter text to evaluate"),
        ):
            if getattr(data, key) > most:
                declared[f"data.{key}"] = Count(most, getattr(data, key), what)
    check_counts(_described(data), declared)
    return counts


def _described(data: LanguageDataConfig) -> str:
    origin = "built in" if data.source == "glosses" else f"{data.source} {data.path or data.name}"
    return f"data '{data.name}' ({origin})"
