"""A cell (one training run) as the files of `results/<scale>/` hold it: the columns, the entries and their digests."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from novobench.files import number
from novobench.suite.checked_files import SCHEMA, Decimal, Flag, Integer, Name, Number, OptionalNumber, Text

CELL_SCHEMA = 2
"""Version of the entries of `cells.json`. Entries of version 1 have no digests."""
ENTRY_KEYS = {"config": dict, "environment": dict, "fingerprint": str}
"""Keys that readers need in an entry of `cells.json`."""
_LAST_METRIC = "parameters"
"""The metric on the last of a cell's lines in `records.csv`."""


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
    update: Integer
    code: Name
    dirty: Flag
    hardware: Name


class CurveLine(NamedTuple):
    """A line of `curves.csv`: a point of a cell's series."""

    schema: Integer
    cell: Name
    series: Name
    update: Integer
    epoch: Decimal
    seconds: OptionalNumber
    value: Number


@dataclass
class StoredCell:
    """A cell's part of the four files, as text."""

    records: list[RecordLine] = field(default_factory=list)
    curves: list[CurveLine] = field(default_factory=list)
    examples: dict[str, Any] | None = None
    entry: dict[str, Any] | None = None

    @property
    def has_digests(self) -> bool:
        return self.entry is not None and "digests" in self.entry

    def add_digests(self) -> None:
        assert self.entry is not None
        self.entry = {**self.entry, "schema": CELL_SCHEMA, "digests": self.digests()}

    def digests(self) -> dict[str, str]:
        """File -> digest of this cell's part of it."""
        assert self.entry is not None
        return {
            "records.csv": _digest([line[1:] for line in self.records]),
            "curves.csv": _digest([line[1:] for line in self.curves]),
            "examples.json": _digest(self.examples),
            "cells.json": _digest({key: self.entry[key] for key in self.entry if key not in ("schema", "digests")}),
        }

    def is_whole(self) -> bool:
        """Whether the four parts match the digests. Without digests: whether no part is obviously missing."""
        if self.entry is None:
            return False
        if self.has_digests:
            # The digests leave the column `schema` out.
            schemas = {line.schema for line in self.records} | {line.schema for line in self.curves}
            return schemas <= {str(SCHEMA)} and self.entry["digests"] == self.digests()
        has_all_records = bool(self.records) and self.records[-1].metric == _LAST_METRIC
        return has_all_records and bool(self.curves) and self.examples is not None

    @cached_property
    def values(self) -> dict[tuple[str, str], float]:
        return {(line.split, line.metric): number(line.value) for line in self.records}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
