"""A cell (one training run) as the files of `results/<scale>/` hold it: the columns, the entries and their digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from novobench.files import number
from novobench.suite.checked_files import Decimal, Integer, Name, NamedNumbers, Number, OptionalNumber, Text

LINE_SCHEMA = 2
"""Version of `records.csv` and `curves.csv`; `earlier_layout.py` reads version 1."""


class RecordLine(NamedTuple):
    """A line of `records.csv`: a number that a training ended with."""

    schema: Integer
    cell: Name
    task: Name
    optimizer: Name
    seed: Integer
    split: Name
    metric: Name
    value: Number
    n: Integer
    unit: Text


class CurveLine(NamedTuple):
    """A line of `curves.csv`: what a training logged on a split after an update."""

    schema: Integer
    cell: Name
    split: Name
    update: Integer
    epoch: Decimal
    seconds: OptionalNumber
    values: NamedNumbers


@dataclass
class StoredCell:
    """A cell's part of the four files, as text."""

    records: list[RecordLine] = field(default_factory=list)
    curves: list[CurveLine] = field(default_factory=list)
    examples: dict[str, Any] | None = None
    """None for a cell without predictions, and for all seeds of a training but the lowest."""
    entry: dict[str, Any] | None = None
    """What `cells.json` says about the cell, with the config and the environment in it, without the digest."""
    digest: str = ""
    """Of the four parts when they were collected."""

    def add_digest(self) -> None:
        self.digest = self._digest()

    def is_whole(self) -> bool:
        """Whether the four parts match the digest."""
        # The digest leaves the column `schema` out.
        schemas = {line.schema for line in self.records} | {line.schema for line in self.curves}
        return self.entry is not None and schemas <= {str(LINE_SCHEMA)} and self.digest == self._digest()

    def _digest(self) -> str:
        lines = [line[1:] for line in self.records], [line[1:] for line in self.curves]
        content = json.dumps([*lines, self.examples, self.entry], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @cached_property
    def values(self) -> dict[tuple[str, str], float]:
        return {(line.split, line.metric): number(line.value) for line in self.records}
