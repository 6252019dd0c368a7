"""Measures a user's own text: tokens, vocabulary and new words, and the config that trains on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from novobench.errors import DataError
from novobench.tasks.inspection import Draft, Inspection
from novobench.tasks.language.config import BUILT_IN, LanguageDataConfig
from novobench.tasks.language.sources import SPLITS, Text, open_texts
from novobench.tasks.language.vocabulary import UNKNOWN, build_vocabulary, check_line_ends

_MOST_UNKNOWN = 0.1
"""Share of the training words that may become `<unk>`; above, rarer words are kept."""
_SMALLEST_TAIL = 0.2
"""A cluster of the adaptive softmax that would begin after this last share of the vocabulary is left out."""


def measure(draft: Draft) -> Inspection:
    """Raises DataError if the folder has no text of each split."""
    source = draft.data.source
    if source == BUILT_IN or "data.source" not in draft.given:
        source = _source(draft.folder)
    data: LanguageDataConfig = replace(draft.data, source=source)
    texts = open_texts(data, draft.data_root)
    for text in texts.values():
        check_line_ends(text)
    words = {split: _words(text) for split, text in texts.items()}
    minimum_count = data.minimum_count
    if "data.minimum_count" not in draft.given:
        minimum_count = _minimum_count(words, minimum_count)
    vocabulary = build_vocabulary(words["train"], minimum_count)
    known = set(vocabulary)
    tokens = {split: sum(words[split].values()) + len(texts[split].lines) for split in SPLITS}
    settings: dict[str, Any] = {"data.source": source, "data.minimum_count": minimum_count}
    settings |= {f"data.{split}_tokens": tokens[split] for split in SPLITS}
    settings["model.vocabulary_size"] = len(vocabulary)
    settings["model.cutoffs"] = [
        cutoff for cutoff in draft.model.cutoffs if cutoff < (1 - _SMALLEST_TAIL) * len(vocabulary)
    ]
    used = replace(data, train_tokens=tokens["train"])
    limits = {"probe_tokens": used.used_tokens, "evaluation_streams": min(tokens["valid"], tokens["test"])}
    settings |= {f"data.{key}": limit for key, limit in limits.items() if getattr(data, key) > limit}
    batch, notes = _batch(draft, used)
    facts = [(text.name, _describe(split, texts[split], tokens[split], words, known)) for split, text in texts.items()]
    rare = f" (words that occur {minimum_count} times or more, <eos> and <unk>)" if minimum_count > 1 else ""
    facts.append(("vocabulary", f"{len(vocabulary):,} word types{rare} of {len(words['train']) + 1:,} in training"))
    return Inspection(settings | batch, facts, [], notes)


def _source(folder: Path) -> str:
    if folder.is_dir() and next(folder.rglob("*.parquet"), None) is None:
        return "files"
    return "hub"


def _words(text: Text) -> Counter[str]:
    counts: Counter[str] = Counter()
    for line in text.lines:
        counts.update(line.split())
    return counts


def _minimum_count(words: dict[str, Counter[str]], configured: int) -> int:
    """The configured count, lowered while it would make too many training words unknown.

    1 closes the vocabulary, so it is only taken if no other split has a new word. Otherwise training must have an
    `<unk>`: its own, or the rarest words.
    """
    train = words["train"]
    total, lowest = sum(train.values()), 1
    if any(word not in train for split in ("valid", "test") for word in words[split]):
        lowest = 2 if UNKNOWN in train else min(train.values()) + 1
    count = max(configured, lowest)
    while count > lowest and sum(n for n in train.values() if n < count) > _MOST_UNKNOWN * total:
        count -= 1
    return count


def _batch(draft: Draft, data: LanguageDataConfig) -> tuple[dict[str, Any], list[str]]:
    """Fewer streams, and then shorter segments, if the text is too short for one update of the config's."""
    streams, length = draft.batch.size, data.segment_length
    while data.updates_per_epoch(streams) < 1 and streams > 1:
        streams //= 2
    while data.updates_per_epoch(streams) < 1 and data.segment_length > 1:
        data = replace(data, segment_length=data.segment_length // 2)
    if data.updates_per_epoch(streams) < 1:
        raise DataError(f"{data.used_tokens} training tokens are not enough for one update. Use a longer text.")
    settings: dict[str, Any] = {}
    if streams < draft.batch.size:
        settings |= {"batch.size": streams, "batch.micro": min(draft.batch.micro, streams)}
    if data.segment_length < length:
        settings["data.segment_length"] = data.segment_length
    changes = ", ".join(f"{key} is {value}" for key, value in settings.items() if key != "batch.micro")
    note = f"{changes}, because there are only {data.used_tokens:,} training tokens."
    return settings, [note] if settings else []


def _describe(split: str, text: Text, tokens: int, words: dict[str, Counter[str]], known: set[str]) -> str:
    described = f"{split}: {len(text.lines):,} lines, {tokens:,} tokens with <eos>"
    unknown = sum(count for word, count in words[split].items() if word not in known or word == UNKNOWN)
    return described + (f", {100 * unknown / tokens:.2g} % of them <unk>" if unknown else "")
