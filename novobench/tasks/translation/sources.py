"""Sentence pairs from three interchangeable sources (built in, files, hub), and sacreBLEU's test sets.

A training split may hold empty lines, which are counted and left out later; an evaluation split may not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from novobench.errors import DataError, kind_and_message, suggestion
from novobench.tasks.hub import check_text, column_values, missing_column, open_hub, split_label
from novobench.tasks.sources import (
    VALIDATION_NAMES,
    cached_value,
    data_folder,
    list_folder,
    listed,
    missing_split,
    split_key,
    text_lines,
    unreadable_reason,
)
from novobench.tasks.tables import read_rows, table_file
from novobench.tasks.translation.config import TranslationDataConfig


class Pairs(NamedTuple):
    """Sentences and their translations: `targets[i]` translates `sources[i]`."""

    sources: list[str]
    targets: list[str]


class Split(Protocol):
    """A split whose pairs are read when they are needed."""

    name: str
    """For messages."""

    def fingerprint(self) -> str:
        """16 hex digits of the text."""

    def read(self) -> Pairs: ...


def open_split(config: TranslationDataConfig, data_root: Path, split: str) -> Split:
    """A split of the configured source, or the test set `sacrebleu:<name>`."""
    if split.startswith("sacrebleu:"):
        return SacreBleuSplit(config, split.removeprefix("sacrebleu:"))
    kinds: dict[str, Callable[[TranslationDataConfig, Path, str], Split]] = {
        "numbers": NumbersSplit,
        "files": _open_files,
        "hub": HubSplit,
    }
    return kinds[config.source](config, data_root, split)


def _open_files(config: TranslationDataConfig, data_root: Path, split: str) -> Split:
    """A text file per language, or a table if there is one and no file of the source language."""
    folder = data_root / (config.path or config.name)
    is_text = os.path.exists(folder / f"{split}.{config.source_language}")
    table = None if is_text or not os.path.isdir(folder) else table_file(folder, split)
    return FilesSplit(config, data_root, split) if table is None else TableSplit(config, table)


def read_evaluation(split: Split) -> Pairs:
    """All pairs of an evaluation split.

    Raises DataError if it is empty, and for an empty line: with fewer lines it would be another test.
    """
    pairs = split.read()
    if not pairs.sources:
        raise DataError(f"{split.name} has no sentences to evaluate. Complete it, or name another split.")
    for number, (source, target) in enumerate(zip(*pairs, strict=True), 1):
        if not (source and target):
            side = "source" if not source else "reference"
            raise DataError(f"{split.name} line {number}: the {side} is empty. Complete it, or remove both lines.")
    return pairs


# ---------------------------------------------------------------------------------------------- built in


class NumbersSplit:
    """The built-in corpus: its first sentences are `test`, the next `validation`, the next `train`."""

    def __init__(self, config: TranslationDataConfig, data_root: Path, split: str) -> None:
        sizes = {config.test_split: config.test_size, config.search_split: config.search_size}
        sizes[config.train_split] = config.train_size
        if split not in sizes:
            raise missing_split("The built-in corpus", split, list(sizes))
        start = 0
        for name, size in sizes.items():
            if name == split:
                self.part = slice(start, start + size)
            start += size
        self.languages = [("en", "de").index(x) for x in (config.source_language, config.target_language)]
        self.name = f"built-in corpus [{split}]"

    def read(self) -> Pairs:
        from novobench.tasks.translation.builtin import corpus

        pairs = corpus()[self.part]
        return Pairs(*([pair[language] for pair in pairs] for language in self.languages))

    def fingerprint(self) -> str:
        return _text_digest(zip(*self.read(), strict=True))


# ---------------------------------------------------------------------------------------------- files


class FilesSplit:
    """Two text files `<folder>/<split>.<language>`, UTF-8, one sentence per line."""

    def __init__(self, config: TranslationDataConfig, data_root: Path, split: str) -> None:
        names = [f"{split}.{language}" for language in (config.source_language, config.target_language)]
        folder = data_folder(data_root, config.path, config.name, f"files {names[0]} and {names[1]}")
        self.paths = [folder / name for name in names]
        for path in self.paths:
            if reason := unreadable_reason(path):
                details = "" if reason == "it is missing" else f": {reason}"
                raise DataError(f"No file {path}{details}. {_missing_file_remedy(folder, config, split)}")
        self.name = str(self.paths[0])

    def read(self) -> Pairs:
        return _read_pairs(self.paths)

    def fingerprint(self) -> str:
        return cached_value("translation/files", self.paths, lambda: _text_digest(zip(*self.read(), strict=True)))


def _missing_file_remedy(folder: Path, config: TranslationDataConfig, split: str) -> str:
    """What to do about a split whose files are missing: which key to set, or how to name the files."""
    files = [name for name in list_folder(folder) if os.path.isfile(folder / name)]
    source, target = f".{config.source_language}", f".{config.target_language}"
    compressed = [name for name in files if name.startswith((f"{split}{source}.", f"{split}{target}."))]
    if compressed:
        return f"Unpack {' and '.join(compressed)}."
    splits = [name.removesuffix(source) for name in files if name.endswith(source)]
    splits = [name for name in splits if name + target in files]
    key = split_key(config, split, "data.more_tests")
    validation = [name for name in splits if name in VALIDATION_NAMES] if split in VALIDATION_NAMES else []
    if len(validation) == 1:
        return f"Set {key}={validation[0]}."
    contents = f"Both languages have: {listed(splits)}" if splits else f"The folder holds: {listed(files)}"
    return (
        f"{contents}.{suggestion(split, splits)} Name the files {split}{source} and {split}{target}, or set {key} or "
        "the languages."
    )


class TableSplit:
    """A CSV or TSV file of two columns, source and target; or of more, with a header that has the language codes, or
    `source` and `target`."""

    def __init__(self, config: TranslationDataConfig, path: Path) -> None:
        self.path, self.name = path, str(path)
        self.languages = config.source_language, config.target_language

    def read(self) -> Pairs:
        rows = read_rows(self.path)
        places = self._places(rows[0].cells)
        rows = rows[1:] if places else rows
        if not places and len(rows[0].cells) != 2:
            raise DataError(
                f"{self.path} has {len(rows[0].cells)} columns, and its first line does not name "
                f"{' and '.join(self.languages)}. Leave two columns, or give it a header with the language codes."
            )
        source, target = places or (0, 1)
        sides = ([" ".join(row.cells[place].split("\n")) for row in rows] for place in (source, target))
        return Pairs(*sides)

    def _places(self, header: list[str]) -> tuple[int, int] | None:
        """The columns of source and target, if the first line is a header."""
        names = [name.lower() for name in header]
        for pair in (self.languages, ("source", "target"), ("src", "tgt"), ("src", "trg")):
            if all(name.lower() in names for name in pair):
                return names.index(pair[0].lower()), names.index(pair[1].lower())
        return None

    def fingerprint(self) -> str:
        key = hashlib.sha256("\0".join(self.languages).encode()).hexdigest()[:8]
        return cached_value(
            f"translation/table-{key}", [self.path], lambda: _text_digest(zip(*self.read(), strict=True))
        )


def read_lines(path: Path | str) -> list[str]:
    """The sentences of a UTF-8 file, one per line, stripped of surrounding white space."""
    return [line.strip() for line in text_lines(Path(path))]


def _read_pairs(paths: Sequence[Path | str]) -> Pairs:
    """The pairs of a source file and a target file. Raises DataError if they have different numbers of lines."""
    pairs = Pairs(*(read_lines(path) for path in paths))
    if len(pairs.sources) != len(pairs.targets):
        raise DataError(
            f"{paths[0]} has {len(pairs.sources):,} lines, but {paths[1]} has {len(pairs.targets):,}: each line must "
            "be the translation of the other file's line. Find where they diverge, or download both again."
        )
    return pairs


# ---------------------------------------------------------------------------------------------- hub


class HubSplit:
    """A Hugging Face data set with a column `translation` of {language: sentence}: a hub id, or a folder of parquet
    files."""

    def __init__(self, config: TranslationDataConfig, data_root: Path, split: str) -> None:
        path = config.path or config.name
        self.name, self.split = split_label(path, split), split
        self.languages = (config.source_language, config.target_language)
        self.table = open_hub(path, config.hub_config, data_root, split, {}, "data.hub_config or the splits")
        fields = _fields(self.table.features.get("translation"))
        for language in self.languages:
            if language not in fields:
                contents = {"translation": f"translation of {', '.join(fields)}"} if fields else {}
                columns = [contents.get(column, column) for column in self.table.column_names]
                remedy = "Set data.path, data.hub_config or the languages."
                raise missing_column(self.name, f"'translation' with '{language}'", columns, remedy)
        for language in self.languages:
            column = f"'{language}' of column 'translation'"
            check_text(fields[language], column, self.name, "Set data.path or data.hub_config.")

    def _rows(self) -> Iterator[tuple[str, ...]]:
        """Source and target of each row; a missing sentence is empty. A byte-order mark at the start is removed, as in
        a file."""
        mark = "\ufeff"
        for row in column_values(self.table, "translation", self.name):
            row = row or {}
            sentences = (" ".join((row.get(language) or "").split("\n")) for language in self.languages)
            yield tuple(sentence.removeprefix(mark).strip() for sentence in sentences)
            mark = ""

    def read(self) -> Pairs:
        pairs = Pairs([], [])
        for source, target in self._rows():
            pairs.sources.append(source)
            pairs.targets.append(target)
        return pairs

    def fingerprint(self) -> str:
        files = [Path(file["filename"]) for file in self.table.cache_files]
        if not files:  # a table in memory has no files to depend on
            return _text_digest(self._rows())
        key = hashlib.sha256("\0".join([self.split, *self.languages]).encode()).hexdigest()[:16]
        return cached_value(f"translation/hub-{key}", files, lambda: _text_digest(self._rows()))


def _fields(feature: Any) -> dict[str, Any]:
    """Language -> feature type, for a column of {language: sentence}; empty for other columns."""
    import datasets

    if isinstance(feature, datasets.Translation):
        return dict.fromkeys(feature.languages, datasets.Value("string"))
    return feature if isinstance(feature, dict) else {}


# ---------------------------------------------------------------------------------------------- sacreBLEU


class SacreBleuSplit:
    """A test set that sacreBLEU knows, e.g. `wmt14/full`. It is downloaded once into $SACREBLEU (~/.sacrebleu)."""

    def __init__(self, config: TranslationDataConfig, name: str) -> None:
        from sacrebleu.dataset import DATASETS

        direction = f"{config.source_language}-{config.target_language}"
        if name not in DATASETS:
            raise DataError(
                f"'data.more_tests': sacreBLEU has no test set '{name}'.{suggestion(name, list(DATASETS))} List them: "
                "sacrebleu --list."
            )
        if direction not in DATASETS[name].langpairs:
            raise DataError(
                f"'data.more_tests': sacreBLEU's '{name}' has no {direction}. It has: "
                f"{', '.join(DATASETS[name].langpairs)}."
            )
        self.name, self.direction, self._dataset = f"sacrebleu:{name}", direction, DATASETS[name]

    def read(self) -> Pairs:
        try:
            paths = [self._dataset.get_source_file(self.direction), *self._dataset.get_reference_files(self.direction)]
        except (Exception, SystemExit) as error:  # its download and its parsers have many ways to fail, or exit
            reason = "its download is damaged" if isinstance(error, SystemExit) else kind_and_message(error)
            raise DataError(
                f"sacreBLEU cannot read '{self.name}': {reason}. Check the network and remove incomplete downloads "
                f"from {self._dataset._outdir}, or put the test set there yourself."
            ) from None
        return _read_pairs(paths[:2])

    def fingerprint(self) -> str:
        return _text_digest(zip(*self.read(), strict=True))


def _text_digest(rows: Iterable[tuple[str, ...]]) -> str:
    """16 hex digits of the sentences of both sides, however they are stored."""
    sides = [hashlib.sha256(), hashlib.sha256()]
    for row in rows:
        for side, line in zip(sides, row, strict=True):
            side.update(f"{line}\n".encode())
    return hashlib.sha256(b"".join(side.digest() for side in sides)).hexdigest()[:16]
