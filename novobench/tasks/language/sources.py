"""Raw text of the three splits: built in, from files, or from a Hugging Face data set. All give lines of words that are
separated by spaces."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import NamedTuple

from novobench.errors import DataError, suggestion
from novobench.tasks.hub import check_text, column_values, open_hub, split_label
from novobench.tasks.language.builtin import glosses, glosses_as_characters
from novobench.tasks.language.config import BUILT_IN, LanguageDataConfig
from novobench.tasks.sources import VALIDATION_NAMES, data_folder, list_folder, listed, text_lines

SPLITS = ("train", "valid", "test")
_SPLIT_NAMES = {"train": ("train",), "valid": VALIDATION_NAMES, "test": ("test",)}
"""Names of each split in file names."""
_BUILT_IN_TEXTS = {"glosses": glosses, "glosses-characters": glosses_as_characters}
_SHARE_BLOCK = 50
"""Lines that `train_share` keeps or drops together."""


class Text(NamedTuple):
    """A split before it is encoded."""

    name: str
    """For messages: the file, or the data set and its split."""
    lines: list[str]


def open_texts(config: LanguageDataConfig, data_root: Path) -> dict[str, Text]:
    """The text of each split, `train` cut to `train_share`. Raises DataError, naming the file."""
    texts = _read(config, data_root)
    for text in texts.values():
        if not any(line.split() for line in text.lines):
            raise DataError(f"{text.name} holds no word. Fetch it again.")
    if config.train_share < 1:
        texts["train"] = _share(texts["train"], config.train_share)
    return texts


def _read(config: LanguageDataConfig, data_root: Path) -> dict[str, Text]:
    if config.source == BUILT_IN:
        if config.name not in _BUILT_IN_TEXTS:
            names = ", ".join(_BUILT_IN_TEXTS)
            raise DataError(f"data.name '{config.name}' is not a built-in text. Built in: {names}.")
        texts = _BUILT_IN_TEXTS[config.name]()
        return {split: Text(split_label(config.name, split), lines) for split, lines in texts.items()}
    if config.source == "files":
        return {split: Text(str(path), text_lines(path)) for split, path in text_files(config, data_root).items()}
    return {split: _hub_text(config, data_root, split) for split in SPLITS}


# ---------------------------------------------------------------------------------------------- files


def text_files(config: LanguageDataConfig, data_root: Path) -> dict[str, Path]:
    """The file of each split in the data folder.

    They are `wiki.<split>.tokens` if all three exist, else `<split>.txt`, else `<split>`. Else it is for each split the
    first of these, or the only file whose name ends with the split's, as `ptb.train.txt` and `my_train`. `valid` may
    be called `validation`, `val` or `dev`, and the case of letters does not matter. Raises DataError if a split has no
    file, or several that fit.
    """
    contents = "train.txt, valid.txt and test.txt (or wiki.train.tokens and so on)"
    folder = data_folder(data_root, config.path, config.name, contents)
    names = [f"{name}/" if os.path.isdir(folder / name) else name for name in list_folder(folder)]
    matches = {split: _matching(names, split) for split in SPLITS}
    for pattern in range(_PATTERNS):
        if all(len(matches[split][pattern]) == 1 for split in SPLITS):
            return {split: folder / matches[split][pattern][0] for split in SPLITS}
    return {split: folder / _only_match(folder, split, names, matches[split]) for split in SPLITS}


_PATTERNS = 4


def _matching(names: list[str], split: str) -> list[list[str]]:
    """The file names that contain a split's name, for each of the patterns in order of preference."""
    aliases = "|".join(_SPLIT_NAMES[split])
    patterns = (
        rf"wiki\.({aliases})\.tokens",
        rf"({aliases})\.txt",
        rf"({aliases})",
        rf"(.*[._-])?({aliases})(\.(tokens|txt|raw|text|tok))?",
    )
    return [[name for name in names if re.fullmatch(pattern, name, re.IGNORECASE)] for pattern in patterns]


def _only_match(folder: Path, split: str, names: list[str], matches: list[list[str]]) -> str:
    candidates = next(filter(None, matches), [])
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise DataError(
            f"{folder} has {len(candidates)} texts that may be '{split}': {', '.join(candidates)}. Leave one, or set "
            "data.path to a folder with one."
        )
    aliases = "|".join(_SPLIT_NAMES[split])
    compressed = [name for name in names if re.fullmatch(rf"(.*\.)?({aliases})\.(tokens|txt|raw)\.\w+", name)]
    if compressed:
        hint = f" Unpack {compressed[0]}."
    else:
        unmatched = [name for name in names if not any(any(_matching([name], other)) for other in SPLITS)]
        hint = f"{suggestion(f'wiki.{split}.tokens', unmatched)} The folder holds: {listed(names)}."
    raise DataError(
        f"No file {folder / f'wiki.{split}.tokens'}.{hint} Name the text {split}.txt or wiki.{split}.tokens, words "
        "separated by spaces, set NOVOBENCH_DATA or data.path, or use data.source=hub."
    )


# ---------------------------------------------------------------------------------------------- hub


def _hub_text(config: LanguageDataConfig, data_root: Path, split: str) -> Text:
    """The rows of a Hugging Face data set, or of a local folder of its parquet files, a line each. An empty row is an
    empty line."""
    hub_split = "validation" if split == "valid" else split
    path, column = config.path or config.name, config.text_column
    table = open_hub(path, config.hub_config, data_root, hub_split, {column: "data.text_column"}, "data.hub_config")
    name = split_label(path, hub_split)
    check_text(table.features[column], f"column '{column}'", name, "Set data.text_column.")
    lines: list[str] = []
    for row in column_values(table, column, name):
        lines += (row or "").removesuffix("\n").split("\n")
    if lines:
        lines[0] = lines[0].removeprefix("\ufeff")  # a byte-order mark, as in files
    return Text(name, lines)


def _share(text: Text, share: float) -> Text:
    """That share of the blocks of neighboring lines, spread evenly over the text."""
    lines = [
        line
        for number, line in enumerate(text.lines)
        if math.floor((number // _SHARE_BLOCK + 1) * share) > math.floor(number // _SHARE_BLOCK * share)
    ]
    if not any(line.split() for line in lines):
        raise DataError(
            f"data.train_share {share:g} leaves no word of the {len(text.lines):,} lines of {text.name}, because it "
            f"keeps blocks of {_SHARE_BLOCK} lines. Raise it, or set it to 1."
        )
    return Text(text.name, lines)
