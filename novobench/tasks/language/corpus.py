"""From text of three interchangeable sources to word ids, built once and kept in the cache.

All sources give lines of space-separated words; from there on everything is the same.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from novobench.errors import DataError, suggestion
from novobench.files import derived_folder, write_json, write_text
from novobench.tasks.hub import open_hub
from novobench.tasks.language.baselines import perplexities
from novobench.tasks.language.builtin import glosses
from novobench.tasks.language.config import LanguageDataConfig

END, UNKNOWN = "<eos>", "<unk>"
SPLITS = ("train", "valid", "test")
_CODE_VERSION = 1
"""Raised when the code below gives other ids or baselines for the same text."""
_SHARE_BLOCK = 50
"""Lines that `train_share` keeps or drops together."""


@dataclass(frozen=True)
class Corpus:
    """Text as word ids, int32; word 0 is `<eos>`, the others follow from frequent to rare."""

    words: list[str]
    tokens: dict[str, np.ndarray]
    """`train`, `valid`, `test`."""
    baselines: dict[str, dict[str, float]]
    """`valid`, `test` -> `unigram`, `kneser_ney_2`, `kneser_ney_3` (perplexities) and `unknown` (% of tokens)."""

    @property
    def fingerprint(self) -> str:
        """The same for the same text, whatever source it came from."""
        digest = hashlib.sha256("\n".join(self.words).encode())
        for split in SPLITS:
            digest.update(self.tokens[split].tobytes())
        return digest.hexdigest()[:16]


def open_corpus(config: LanguageDataConfig, data_root: Path) -> Corpus:
    """Read, encode and count the configured text, or take it from the cache. Raises DataError, naming the file."""
    lines = _read(config, data_root)
    if config.train_share < 1:
        lines["train"] = _share(lines["train"], config.train_share)
    digest = hashlib.sha256(f"{_CODE_VERSION} {config.minimum_count}".encode())
    for split in SPLITS:
        digest.update("\n".join([split, *lines[split], ""]).encode())
    where = config.path or config.name
    folder = derived_folder(
        f"language/{digest.hexdigest()[:16]}",
        lambda folder: _build(folder, lines, config.minimum_count, where),
    )
    return Corpus(
        words=(folder / "words.txt").read_text(encoding="utf-8").split("\n"),
        tokens={split: np.load(folder / f"{split}.npy") for split in SPLITS},
        baselines=json.loads((folder / "baselines.json").read_text()),
    )


# ---------------------------------------------------------------------------------------------- sources


def _read(config: LanguageDataConfig, data_root: Path) -> dict[str, list[str]]:
    if config.source == "glosses":
        if config.name != "glosses":
            raise DataError(f"data.name '{config.name}' is no built-in text. Known: glosses.")
        return glosses()
    if config.source == "files":
        return {split: _file_lines(data_root / (config.path or config.name), split) for split in SPLITS}
    return {split: _hub_lines(config, data_root, split) for split in SPLITS}


def _file_lines(folder: Path, split: str) -> list[str]:
    """The lines of `wiki.<split>.tokens`: words with spaces between, `<unk>` in place."""
    path = folder / f"wiki.{split}.tokens"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        there = sorted(entry.name for entry in folder.glob("*")) if folder.is_dir() else []
        found = f"The folder holds: {', '.join(there[:8]) or 'nothing'}." if folder.is_dir() else "There is no folder."
        raise DataError(
            f"No such text: {path}.{suggestion(path.name, there)} {found} Put wiki.train.tokens, wiki.valid.tokens and "
            "wiki.test.tokens there, set NOVOBENCH_DATA or data.path, or use data.source=hub."
        ) from None
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from None
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} line {line} is not UTF-8 (byte {content[error.start]:#04x}). Save the file as UTF-8, e.g. with "
            "iconv, or fetch it again."
        ) from None
    lines = text.split("\n")  # splitlines() would also break at characters that stand inside sentences
    return lines[:-1] if lines[-1] == "" else lines


def _hub_lines(config: LanguageDataConfig, data_root: Path, split: str) -> list[str]:
    """The rows of a Hugging Face data set, a line each; or of a local folder of its parquet files."""
    split = {"valid": "validation"}.get(split, split)
    columns = {config.text_column: "data.text_column"}
    table = open_hub(config.path, config.hub_config, data_root, split, columns, "data.hub_config")
    return [row.removesuffix("\n") for row in table[config.text_column]]


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
    unknown = ids.get(UNKNOWN, -1)
    write_json(
        folder / "baselines.json",
        {
            split: {
                **perplexities(tokens["train"], tokens[split], len(words)),
                "unknown": 100 * float((tokens[split] == unknown).mean()),
            }
            for split in ("valid", "test")
        },
    )


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


def check_counts(corpus: Corpus, config: LanguageDataConfig, vocabulary_size: int) -> dict[str, int]:
    """The counts as measured. Raises DataError if they are not those of the config."""
    counts = {split: len(corpus.tokens[split]) for split in SPLITS} | {"words": len(corpus.words)}
    expected = {split: asdict(config)[f"{split}_tokens"] for split in SPLITS} | {"words": vocabulary_size}
    for name, count in counts.items():
        if count != expected[name]:
            key = "model.vocabulary_size" if name == "words" else f"data.{name}_tokens"
            what = "word types" if name == "words" else f"{name} tokens, {END} included"
            raise DataError(
                f"data '{config.name}' ({config.source} {config.path or 'built in'}) has {count} {what}, but {key} is "
                f"{expected[name]}. Complete the data, or set {key}."
            )
    return counts
