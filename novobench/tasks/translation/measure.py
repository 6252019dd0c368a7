"""Measures a user's own sentence pairs: their number, the vocabulary that they allow, and the tokens of an epoch."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from novobench.errors import DataError
from novobench.tasks.inspection import Draft, Inspection, grouped, held_out_size
from novobench.tasks.sources import list_folder, listed, splits_by_role
from novobench.tasks.tables import read_rows, table_file, table_splits
from novobench.tasks.translation import training_pairs
from novobench.tasks.translation.config import BUILT_IN, TranslationDataConfig
from novobench.tasks.translation.data import EvaluationPairs, PackedPairs, open_splits
from novobench.tasks.translation.sources import open_split, read_evaluation
from novobench.tasks.translation.tokenizer import VocabularyError

_MORE_THAN_CHARACTERS = 200
"""Tokens of a vocabulary in addition to the characters, if the configured vocabulary does not hold the characters."""
_REASONS = {
    "empty": "a side is empty",
    "short": "fewer tokens than data.min_length",
    "long": "more tokens than data.max_length",
    "unequal": "sides of unequal length (data.max_difference, data.max_ratio)",
    "same": "both sides are the same text",
}


def measure(draft: Draft) -> Inspection:
    """Raises DataError if the folder has no sentence pairs of each split."""
    layout, layout_notes = _layout(draft)
    data: TranslationDataConfig = replace(
        draft.data, **{key: value for key, value in layout.items() if f"data.{key}" not in draft.given}
    )
    settings: dict[str, Any] = {f"data.{key}": getattr(data, key) for key in layout}
    data = _with_shares(data, draft)
    train, splits = open_splits(replace(data, more_tests=[]), draft.data_root)
    texts = {name: read_evaluation(split) for name, split in splits.items()}
    prepared, vocabulary = _prepared(train, data, draft)
    sides = prepared.source, prepared.target
    tokens, used = (
        len(PackedPairs(*sides, draft.batch.micro, data.batch_multiple, 0, limit)) * draft.batch.micro
        for limit in (None, data.limit)
    )
    counts = prepared.counts
    settings |= {"data.train_size": counts["found"], "data.train_tokens": tokens}
    settings |= {f"data.{name}_size": len(text.sources) for name, text in texts.items()}
    settings["model.vocabulary"] = vocabulary
    longest = max(EvaluationPairs(text, prepared.model, beams=1).longest for text in texts.values())
    if longest > draft.model.positions:
        settings["model.positions"] = longest
    batch, notes = _batch(draft, replace(data, train_size=counts["found"], train_tokens=tokens), used)
    words = {name: sum(len(line.split()) for line in getattr(texts["test"], name)) for name in ("sources", "targets")}
    facts = [
        (train.name, f"{counts['found']:,} training pairs, {counts['source_pieces'] + counts['target_pieces']:,} ")
    ]
    facts[0] = (train.name, facts[0][1] + f"tokens of a joint vocabulary of {vocabulary:,}")
    facts += [(name, f"{len(text.sources):,} pairs") for name, text in texts.items()]
    facts.append(("words of the test", f"{words['sources']:,} source, {words['targets']:,} target"))
    bad = [
        (f"left out of training, {_REASONS[reason]}", train.name)
        for reason in _REASONS
        for _ in range(counts.get(f"left_out_{reason}", 0))
    ]
    return Inspection(settings | batch, facts, grouped(bad), layout_notes + notes)


def _layout(draft: Draft) -> tuple[dict[str, Any], list[str]]:
    """The source, its languages and its splits, as fields of the data config, and notes."""
    data: TranslationDataConfig = draft.data
    source = data.source if "data.source" in draft.given and data.source != BUILT_IN else _source(draft.folder)
    layout: dict[str, Any] = {"source": source}
    if source == "hub":
        from novobench.tasks.hub import split_names

        names = split_names(data.path or data.name, data.hub_config, draft.data_root)
    else:
        languages = _languages(draft)
        layout |= {"source_language": languages[0], "target_language": languages[1]}
        names = pair_names(draft.folder, *languages) or table_splits(draft.folder)
    roles = splits_by_role(names)
    for role, key in (("train", "train_split"), ("valid", "search_split"), ("test", "test_split")):
        if f"data.{key}" in draft.given:
            continue
        layout[key] = next(iter(roles[role]), "")
    if not layout.get("train_split", data.train_split):
        if len(names) != 1:
            raise DataError(
                f"{draft.folder} has no training split among {listed(names)}. Name it train, or add: --data "
                "train_split=NAME"
            )
        layout["train_split"] = names[0]
    notes = [
        f"There is no {name} split: a tenth of the training pairs, drawn once with a fixed seed, is for it."
        for name, key in (("validation", "search_split"), ("test", "test_split"))
        if layout.get(key) == ""
    ]
    return layout, notes


def _with_shares(data: TranslationDataConfig, draft: Draft) -> TranslationDataConfig:
    """The config with a tenth of the training pairs for each set without a split, unless the user gave its size."""
    missing = [name for name in ("search", "test") if not getattr(data, f"{name}_split")]
    if not missing:
        return data
    share = held_out_size(len(open_split(data, draft.data_root, data.train_split).read().sources))
    sizes: dict[str, Any] = {f"{name}_size": share for name in missing if f"data.{name}_size" not in draft.given}
    return replace(data, **sizes)


def _source(folder: Path) -> str:
    if folder.is_dir() and next(folder.rglob("*.parquet"), None) is None:
        return "files"
    return "hub"


def pair_names(folder: Path, source: str, target: str) -> list[str]:
    """The names of a folder's splits: those of files that both languages have."""
    names = list_folder(folder)
    stems = {name.removesuffix(f".{source}") for name in names if name.endswith(f".{source}")}
    return sorted(stem for stem in stems if f"{stem}.{target}" in names)


def _languages(draft: Draft) -> tuple[str, str]:
    """The config's languages if files have them, else the only two suffixes that the names of files share."""
    data = draft.data
    wanted = data.source_language, data.target_language
    given = {"data.source_language", "data.target_language"} & draft.given
    if given or pair_names(draft.folder, *wanted):
        return wanted
    suffixes: dict[str, set[str]] = {}
    for name in list_folder(draft.folder):
        stem, dot, suffix = name.rpartition(".")
        if dot:
            suffixes.setdefault(suffix, set()).add(stem)
    pairs = [
        (one, other) for one in sorted(suffixes) for other in sorted(suffixes) if one < other
        and splits_by_role(suffixes[one] & suffixes[other])["train"]
    ]  # fmt: skip
    if not pairs and (tables := table_splits(draft.folder)):
        return _header_languages(table_file(draft.folder, tables[0])) or wanted
    if len(pairs) != 1:
        found = listed(list_folder(draft.folder))
        raise DataError(
            f"{draft.folder} has no training text in two languages, train.{wanted[0]} and train.{wanted[1]}: it holds "
            f"{found}. Name the files so, or add: --data source_language=XX target_language=YY"
        )
    (one, other) = pairs[0]
    return (other, one) if wanted[0] == other or wanted[1] == one else (one, other)


def _header_languages(path: Path | None) -> tuple[str, str] | None:
    """The language codes in the header of a table of two columns, if it has them."""
    cells = read_rows(path)[0].cells if path is not None else []
    if len(cells) == 2 and all(re.fullmatch(r"[a-z]{2,3}([-_][A-Za-z]+)?", cell) for cell in cells):
        return cells[0], cells[1]
    return None


def _prepared(train: Any, data: TranslationDataConfig, draft: Draft) -> tuple[training_pairs.TrainingPairs, int]:
    """The training pairs in tokens, with the configured vocabulary or the nearest that the text allows."""
    vocabulary = draft.model.vocabulary
    for _ in range(3):
        try:
            return training_pairs.prepare(train, data, vocabulary, draft.data_root), vocabulary
        except VocabularyError as error:
            if "model.vocabulary" in draft.given:
                raise
            vocabulary = error.limit + (_MORE_THAN_CHARACTERS if error.too_small else 0)
    raise DataError(f"No vocabulary fits {train.name}. Set it: --data model.vocabulary=N.")


def _batch(draft: Draft, data: TranslationDataConfig, tokens: int) -> tuple[dict[str, Any], list[str]]:
    """A smaller batch if an epoch, which has `tokens`, is less than one batch of the config's."""
    size, micro = draft.batch.size, draft.batch.micro
    while size > 1 and (size > tokens or data.updates_per_epoch(size) < 1):
        size //= 2
        micro = min(micro, size)
    if size == draft.batch.size:
        return {}, []
    size = size // micro * micro
    note = f"batch.size is {size} tokens instead of {draft.batch.size}, because an epoch has only {tokens}."
    return {"batch.size": size, "batch.micro": micro}, [note]
