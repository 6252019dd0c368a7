"""From text of three interchangeable sources to word ids, built once and kept in the cache.

All sources give lines of space-separated words; from there on everything is the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from novobench.errors import DataError, suggestion
from novobench.files import derived_folder, write_json, write_text
from novobench.tasks.hub import open_hub
from novobench.tasks.language.baselines import perplexities
from novobench.tasks.language.builtin import glosses
from novobench.tasks.language.config import LanguageDataConfig, LanguageModelConfig
from novobench.tasks.sources import Count, check_counts, remembered, text_lines

END, UNKNOWN = "<eos>", "<unk>"
SPLITS = ("train", "valid", "test")
_SPLIT_NAMES = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}
"""What files call a split."""
_CODE_VERSION = 1
"""Raised when the code below gives other ids for the same text."""
_BASELINES_VERSION = 1
"""Raised when `baselines.py` gives other numbers for the same ids."""
_SHARE_BLOCK = 50
"""Lines that `train_share` keeps or drops together."""


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


def open_corpus(config: LanguageDataConfig, data_root: Path) -> Corpus:
    """Read and encode the configured text, or take it from the cache. Raises DataError, naming the file."""
    lines = _read(config, data_root)
    if config.train_share < 1:
        lines["train"] = _share(lines["train"], config.train_share)
    digest = hashlib.sha256(f"{_CODE_VERSION} {config.minimum_count}".encode())
    for split in SPLITS:
        digest.update("\n".join([f"{split} {len(lines[split])}", *lines[split], ""]).encode())
    where = config.path or config.name
    folder = derived_folder(
        f"language/{digest.hexdigest()[:16]}",
        lambda folder: _build(folder, lines, config.minimum_count, where),
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
    paths = [_text_file(data_root / (config.path or config.name), split) for split in SPLITS]
    return remembered(f"language/{settings}", paths, lambda: open_corpus(config, data_root).fingerprint)


# ---------------------------------------------------------------------------------------------- sources


def _read(config: LanguageDataConfig, data_root: Path) -> dict[str, list[str]]:
    if config.source == "glosses":
        if config.name != "glosses":
            raise DataError(f"data.name '{config.name}' is no built-in text. Known: glosses.")
        return glosses()
    if config.source == "files":
        return {split: text_lines(_text_file(data_root / (config.path or config.name), split)) for split in SPLITS}
    return {split: _hub_lines(config, data_root, split) for split in SPLITS}


def _text_file(folder: Path, split: str) -> Path:
    """The file of a split: `wiki.<split>.tokens`, else `<split>.txt`, else the only one whose name has the split's name
    between dots, as `ptb.train.txt`; `valid` may be called `validation`, `val` or `dev`."""
    there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    names = "|".join(_SPLIT_NAMES[split])
    for pattern in (rf"wiki\.({names})\.tokens", rf"({names})\.txt", rf"(.*\.)?({names})\.(tokens|txt|raw)"):
        found = [name for name in there if re.fullmatch(pattern, name)]
        if len(found) == 1:
            return folder / found[0]
        if found:
            raise DataError(
                f"{folder} has {len(found)} texts that may be '{split}': {', '.join(found)}. Leave one, or set "
                "data.path to a folder with one."
            )
    held = f"The folder holds: {', '.join(there[:8]) or 'nothing'}." if folder.is_dir() else "There is no folder."
    raise DataError(
        f"No such text: {folder / f'wiki.{split}.tokens'}.{suggestion(f'wiki.{split}.tokens', there)} {held} Name the "
        f"text {split}.txt or wiki.{split}.tokens, words with spaces between, set NOVOBENCH_DATA or data.path, or use "
        "data.source=hub."
    )


def _hub_lines(config: LanguageDataConfig, data_root: Path, split: str) -> list[str]:
    """The rows of a Hugging Face data set, a line each; or of a local folder of its parquet files."""
    split = {"valid": "validation"}.get(split, split)
    columns = {config.text_column: "data.text_column"}
    table = open_hub(config.path, config.hub_config, data_root, split, columns, "data.hub_config")
    if table.features[config.text_column].dtype not in ("string", "large_string"):
        raise DataError(f"{config.path}[{split}]: column '{config.text_column}' is no text. Set data.text_column.")
    rows = ((row or "").removesuffix("\n") for row in table[config.text_column])
    return [line for row in rows for line in row.split("\n")]


def _share(lines: list[str], share: float) -> list[str]:
    """That share of the blocks of neighbouring lines, spread evenly over the text."""
    return [
        line
        for number, line in enumerate(lines)
        if math.floor((number // _SHARE_BLOCK + 1) * share) > math.floor(number // _SHARE_BLOCK * share)
    ]


# ---------------------------------------------------------------------------------------------- words to ids


def _build(folder: Path, lines: dict[str, list[str]], minimum_count: int, where: str) -> None:
    """Encode all splits into `folder`."""
    for split in SPLITS:
        if not any(line.split() for line in lines[split]):
            raise DataError(f"{where}: the text of split '{split}' is empty. Fetch the file again.")
    words = _vocabulary(lines["train"], minimum_count, where)
    ids = {word: number for number, word in enumerate(words)}
    tokens = {split: _encoded(lines[split], ids, minimum_count, f"{where}: split '{split}'") for split in SPLITS}
    for split, found in tokens.items():
        np.save(folder / f"{split}.npy", found)
    write_text(folder / "words.txt", "\n".join(words))


def _vocabulary(lines: list[str], minimum_count: int, where: str) -> list[str]:
    """`<eos>`, then the words by frequency, equals in the order of the text: as the published vocabulary code."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line.split())
    if END in counts:
        raise DataError(
            f"{where}: the training text already holds the word {END} ({counts[END]} times), which is added to each "
            "line here. Remove it from the files."
        )
    kept: Counter[str] = Counter()
    for word, count in counts.items():
        kept[word if count >= minimum_count else UNKNOWN] += count
    return [END, *(word for word, _ in kept.most_common())]


def _encoded(lines: list[str], ids: dict[str, int], minimum_count: int, where: str) -> np.ndarray:
    missing = -1 if minimum_count == 1 else ids.get(UNKNOWN, -1)

    def stream() -> Iterator[int]:
        for line in lines:
            for word in line.split():
                yield ids.get(word, missing)
            yield 0

    tokens = np.fromiter(stream(), np.int32)
    if (tokens < 0).any():
        strange = Counter(word for line in lines for word in line.split() if word not in ids)
        word, count = strange.most_common(1)[0]
        line_number = next(number for number, line in enumerate(lines, 1) if word in line.split())
        raise DataError(
            f"{where} holds {len(strange)} words that the training text lacks, e.g. '{word}' ({count} times, first in "
            f"line {line_number}). Use files of one data set, or set data.minimum_count=2 to read such words as "
            f"{UNKNOWN}."
        )
    return tokens


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
    origin = "built in" if data.source == "glosses" else f"{data.source} {data.path or data.name}"
    check_counts(f"data '{data.name}' ({origin})", declared)
    return counts
