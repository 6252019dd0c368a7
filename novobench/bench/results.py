"""The rows of a benchmark: each is printed when it is measured, and the CSV file is complete after each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from novobench.console import console
from novobench.files import write_csv


class Column(NamedTuple):
    """A printed column; `text` formats a row's value."""

    heading: str
    width: int
    text: Callable[[Any], str]


class Report:
    """Collects the rows of one command: instances of the dataclass `kind`, which has a field `error`.

    `output` is replaced with the first row and written again with each further one, so an interrupted command leaves a
    readable file with all rows measured so far.
    """

    def __init__(self, kind: type, columns: Sequence[Column], output: Path | None) -> None:
        self.rows: list[Any] = []
        self._kind, self._columns, self._output = kind, columns, output

    def add(self, row: Any) -> None:
        """Print `row` and write it to the file."""
        if not self.rows:
            self._print([column.heading for column in self._columns])
        self.rows.append(row)
        self._print([column.text(row) for column in self._columns])
        if row.error:
            self.say(f"  failed: {row.error}")
        if self._output is not None:
            write_csv(self._output, [field.name for field in fields(self._kind)], map(asdict, self.rows))

    def say(self, text: str) -> None:
        """Print a line of text."""
        console().print(text, soft_wrap=True)

    def say_written(self, *more: Path) -> None:
        """Name the files that were written: `output` and `more`."""
        if self._output is not None:
            self.say("Written: " + " and ".join(map(str, (self._output, *more))))

    def _print(self, cells: Sequence[str]) -> None:
        pairs = zip(cells, self._columns, strict=True)
        self.say("  ".join(cell.ljust(column.width) for cell, column in pairs).rstrip())


def number(value: float | None, style: str = ".3g") -> str:
    """`value` in a format; empty for None."""
    return "" if value is None else format(value, style)


def one_line(error: BaseException) -> str:
    """The type and the first line of an error, to be kept in a row."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile, interpolated linearly."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return low, median, high
