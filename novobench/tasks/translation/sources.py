"""Sentence pairs from three interchangeable sources and from sacreBLEU's test sets: the same text from each.

A training split may hold empty lines, which `pieces` counts and leaves out; an evaluation split may not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from novobench.errors import DataError, kind_and_message, suggestion
from novobench.tasks.hub import open_hub
from novobench.tasks.sources import names_in, remembered, text_lines, why_no_file
from novobench.tasks.translation.config import TranslationDataConfig


class Pairs(NamedTuple):
    """Sentences and their translations, line by line."""

    sources: list[str]
    targets: list[str]


class Split(Protocol):
    """Pairs that are read when they are needed."""

    name: str
    """For error messages."""

    def fingerprint(self) -> str:
        """16 hex digits of the text."""

    def read(self) -> Pairs: ...


def open_split(config: TranslationDataConfig, data_root: Path, split: str) -> Split:
    """A split of the configured source, or a test set `sacrebleu:<name>`."""
    if split.startswith("sacrebleu:"):
        return SacreBleuSplit(config, split.removeprefix("sacrebleu:"))
    kinds: dict[str, Any] = {"numbers": NumbersSplit, "files": FilesSplit, "hub": HubSplit}
    return kinds[config.source](config, data_root, split)


def read_evaluation(split: Split) -> Pairs:
    """All pairs of an evaluation split. Raises DataError if there is none, and for an empty line: fewer lines would be
    another test."""
    pairs = split.read()
    if not pairs.sources:
        raise DataError(
            f"{split.name} has no sentence, so nothing can be judged on it. Complete it, or name another split."
        )
    for number, both in enumerate(zip(*pairs, strict=True), 1):
        if not all(both):
            side = "source" if not both[0] else "reference"
            raise DataError(f"{split.name} line {number}: the {side} is empty. Complete it, or remove both lines.")
    return pairs


# ---------------------------------------------------------------------------------------------- built in


class NumbersSplit:
    """The built-in corpus: the first sentences are `test`, the next `validation`, the next `train`."""

    def __init__(self, config: TranslationDataConfig, _: Path, split: str) -> None:
        sizes = {config.test_split: config.test_size, config.search_split: config.search_size}
        sizes[config.train_split] = config.train_size
        if split not in sizes:
            raise DataError(f"The built-in corpus has no split '{split}'.{suggestion(split, list(sizes))}")
        start = 0
        for name, size in sizes.items():
            if name == split:
                self.part = slice(start, start + size)
            start += size
        self.languages = [("en", "de").index(x) for x in (config.source_language, config.target_language)]
        self.name = f"built-in corpus [{split}]"

    def read(self) -> Pairs:
        from novobench.tasks.translation.builtin import corpus

        chosen = corpus()[self.part]
        return Pairs(*([pair[language] for pair in chosen] for language in self.languages))

    def fingerprint(self) -> str:
        return _digest(zip(*self.read(), strict=True))


# ---------------------------------------------------------------------------------------------- files


_VALIDATION = ("valid", "validation", "val", "dev")
"""What people call the split that curves are drawn on."""


class FilesSplit:
    """Two text files `<folder>/<split>.<language>`, UTF-8, one sentence a line."""

    def __init__(self, config: TranslationDataConfig, data_root: Path, split: str) -> None:
        folder = data_root / (config.path or config.name)
        if not os.path.isdir(folder):
            raise DataError(
                f"No data folder {folder} for '{config.name}' (data.path under the data root). Put files "
                f"{split}.{config.source_language} and {split}.{config.target_language} there, set NOVOBENCH_DATA or "
                "data_root to where they are, or use data.source=hub."
            )
        self.paths = [folder / f"{split}.{language}" for language in (config.source_language, config.target_language)]
        for path in self.paths:
            if reason := why_no_file(path):
                why = "" if reason == "it is missing" else f": {reason}"
                raise DataError(f"No file {path}{why}. {_what_to_do(folder, config, split)}")
        self.name = str(self.paths[0])

    def read(self) -> Pairs:
        pairs = Pairs(*(read_lines(path) for path in self.paths))
        _check_equal(pairs, *map(str, self.paths))
        return pairs

    def fingerprint(self) -> str:
        return remembered("translation/files", self.paths, lambda: _digest(zip(*self.read(), strict=True)))


def _what_to_do(folder: Path, config: TranslationDataConfig, split: str) -> str:
    """About a split whose files are missing: which key to set, or how to name the files."""
    there = [name for name in names_in(folder) if os.path.isfile(folder / name)]
    source, target = f".{config.source_language}", f".{config.target_language}"
    packed = [name for name in there if name.startswith((f"{split}{source}.", f"{split}{target}."))]
    if packed:
        return f"Unpack {' and '.join(packed)}."
    whole = [name.removesuffix(source) for name in there if name.endswith(source)]
    whole = [name for name in whole if name + target in there]
    keys = ("train_split", "search_split", "test_split")
    key = next((f"data.{key}" for key in keys if getattr(config, key) == split), "data.more_tests")
    same = [name for name in whole if name in _VALIDATION] if split in _VALIDATION else []
    if len(same) == 1:
        return f"Set {key}={same[0]}."
    listed = ", ".join((whole or there)[:12]) or "none"
    held = f"In both languages there are: {listed}" if whole else f"There are: {listed}"
    return (
        f"{held}.{suggestion(split, whole)} Name the files {split}{source} and {split}{target}, or set {key} or the "
        "languages."
    )


def read_lines(path: Path | str) -> list[str]:
    """The sentences of a UTF-8 file, one a line, without white space around them."""
    return [line.strip() for line in text_lines(Path(path))]


def _check_equal(pairs: Pairs, source: str, target: str) -> None:
    if len(pairs.sources) != len(pairs.targets):
        raise DataError(
            f"{source} has {len(pairs.sources):,} lines and {target} has {len(pairs.targets):,}: line by line they "
            "must be translations of each other. Find where they part, or fetch both again."
        )


# ---------------------------------------------------------------------------------------------- hub


class HubSplit:
    """A Hugging Face data set with a column `translation` of {language: sentence}: a hub id, or a folder of parquet
    files."""

    def __init__(self, config: TranslationDataConfig, data_root: Path, split: str) -> None:
        path = config.path or config.name
        self.name, self.split = f"{path}[{split}]", split
        self.languages = (config.source_language, config.target_language)
        self.table = open_hub(path, config.hub_config, data_root, split, {}, "data.hub_config or the splits")
        found = _sentences(self.table.features.get("translation"))
        missing = [language for language in self.languages if language not in found]
        if missing:
            raise DataError(
                f"{self.name} has no column 'translation' with '{missing[0]}'. It holds: "
                f"{', '.join(self.table.column_names) or 'no column'}{' of ' + ', '.join(found) if found else ''}. Set "
                "data.path, data.hub_config or the languages."
            )
        for language in self.languages:
            if found[language] not in _TEXT_KINDS:
                raise DataError(
                    f"{self.name}: '{language}' of column 'translation' is no text but {found[language]}. Set "
                    "data.path or data.hub_config, or write the data set again."
                )

    def _rows(self) -> Iterator[tuple[str, ...]]:
        """Both sentences of each row, empty where there is none. As of a file, a byte-order mark at the start is none
        of the text."""
        mark = "\ufeff"
        try:
            for rows in self.table.iter(batch_size=10_000):
                for row in rows["translation"]:
                    row = row or {}
                    both = (" ".join((row.get(language) or "").split("\n")) for language in self.languages)
                    yield tuple(sentence.removeprefix(mark).strip() for sentence in both)
                    mark = ""
        except UnicodeDecodeError:
            raise DataError(f"{self.name} has text that is not UTF-8. Write the data set again.") from None

    def read(self) -> Pairs:
        pairs = Pairs([], [])
        for source, target in self._rows():
            pairs.sources.append(source)
            pairs.targets.append(target)
        return pairs

    def fingerprint(self) -> str:
        files = [Path(file["filename"]) for file in self.table.cache_files]
        if not files:  # a table in memory is of no file that could be looked up
            return _digest(self._rows())
        about = hashlib.sha256("\0".join([self.split, *self.languages]).encode()).hexdigest()[:16]
        return remembered(f"translation/hub-{about}", files, lambda: _digest(self._rows()))


_TEXT_KINDS = ("string", "large_string", "string_view")


def _sentences(feature: Any) -> dict[str, str]:
    """Language -> type, of a column of {language: sentence}; none of any other column."""
    if isinstance(getattr(feature, "languages", None), list) and type(feature).__name__ == "Translation":
        return dict.fromkeys(feature.languages, "string")
    if not isinstance(feature, dict):
        return {}
    return {language: getattr(kind, "dtype", "lists or mappings") for language, kind in feature.items()}


class SacreBleuSplit:
    """A test set that sacreBLEU knows, e.g. `wmt14/full`; it downloads it once into $SACREBLEU (~/.sacrebleu)."""

    def __init__(self, config: TranslationDataConfig, name: str) -> None:
        from sacrebleu.dataset import DATASETS

        direction = f"{config.source_language}-{config.target_language}"
        if name not in DATASETS:
            raise DataError(
                f"'data.more_tests': sacreBLEU knows no test set '{name}'.{suggestion(name, list(DATASETS))} Known: "
                "see sacrebleu --list."
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
                f"sacreBLEU cannot give '{self.name}': {reason}. Check the network and remove what is left of a "
                f"download in {self._dataset._outdir}, or put the set there yourself."
            ) from None
        pairs = Pairs(*(read_lines(path) for path in paths[:2]))
        _check_equal(pairs, *paths[:2])
        return pairs

    def fingerprint(self) -> str:
        return _digest(zip(*self.read(), strict=True))


def _digest(rows: Any) -> str:
    """16 hex digits of the sentences of both sides, whatever they are kept in."""
    sides = [hashlib.sha256(), hashlib.sha256()]
    for row in rows:
        for side, line in zip(sides, row, strict=True):
            side.update(f"{line}\n".encode())
    return hashlib.sha256(b"".join(side.digest() for side in sides)).hexdigest()[:16]
