"""What a task measures of a user's own data: the config values that fit them, and facts about them. Imports no torch.

A task offers `measure(draft: Draft) -> Inspection` in `novobench.tasks.<task>.measure`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from novobench.config import BatchConfig

_PROGRESS_ABOVE = 5_000
"""Items that take long enough for a progress bar."""
HELD_OUT_SHARE = 0.1
"""Share of the training items that is held out for a set that the data lack."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Draft:
    """A task's config at a scale with the keys that the user gave, before the data are measured."""

    data: Any
    """The task's `DATA`."""
    model: Any
    """The task's `MODEL`."""
    batch: BatchConfig
    scale: str
    data_root: Path
    given: frozenset[str]
    """Dotted keys that the user set, which no measured value replaces."""

    @property
    def folder(self) -> Path:
        """The folder of the data; it may not exist, if they are on the hub."""
        return self.data_root / (self.data.path or self.data.name)


@dataclass(frozen=True)
class BadItems:
    """Items of the data that cannot be used, for one reason."""

    reason: str
    count: int
    example: str
    """A file, a row or a line."""


@dataclass(frozen=True)
class Inspection:
    """The result of `measure`."""

    settings: dict[str, Any]
    """Dotted config keys with the values that these data need. They are set in this order."""
    facts: list[tuple[str, str]] = field(default_factory=list)
    """What the data are, for a reader: heading and text."""
    bad: list[BadItems] = field(default_factory=list)
    """Items that cannot be used, the most frequent reason first."""
    notes: list[str] = field(default_factory=list)
    """What was decided for the user: sentences."""


def grouped(bad: Iterable[tuple[str, str]]) -> list[BadItems]:
    """Bad items (reason, example) by their reason, the most frequent one first."""
    examples: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reason, example in bad:
        counts[reason] += 1
        examples.setdefault(reason, example)
    return [BadItems(reason, count, examples[reason]) for reason, count in counts.most_common()]


def fitting_batch(batch: BatchConfig, largest: int, items: str) -> tuple[dict[str, Any], list[str]]:
    """Settings for a batch of at most `largest` samples, and the note that says so; both empty if the batch fits.

    The new batch is one micro-batch, the largest power of two that fits.
    """
    if batch.size <= largest:
        return {}, []
    size = 1 << (max(largest, 1).bit_length() - 1)
    note = f"batch.size is {size} instead of {batch.size}, because there are only {largest} {items}."
    return {"batch.size": size, "batch.micro": min(batch.micro, size)}, [note]


def held_out_size(items: int) -> int:
    """How many of `items` training items to hold out for a set that the data lack."""
    return max(1, round(items * HELD_OUT_SHARE))


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 … count − 1, evenly spread."""
    return list(range(count)) if count <= most else [index * count // most for index in range(most)]


def tracked(items: Iterable[_Item], total: int, what: str) -> Iterator[_Item]:
    """The items, with a progress bar on standard error if there are many and it is a terminal."""
    if total <= _PROGRESS_ABOVE or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, what, total=total, console=Console(stderr=True), transient=True)


def numbers(values: Mapping[str, int], most: int = 8) -> str:
    """`name 3, other 2`, the largest first; the rest of a long list is counted."""
    ordered = sorted(values.items(), key=lambda entry: -entry[1])
    shown = ", ".join(f"{name} {count:,}" for name, count in ordered[:most])
    return shown + (f", … ({len(ordered)} in all)" if len(ordered) > most else "")
