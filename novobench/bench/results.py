"""Rows of a measurement: printed as they come, and kept in a CSV file that is whole after each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from novobench.console import console
from novobench.files import write_csv


class Column(NamedTuple):
    """A column of what is printed; `text` makes a cell of a row."""

    heading: str
    width: int
    text: Callable[[Any], str]


class Rows:
    """Collects the rows (dataclass instances of one `kind`, with an `error`) of one command.

    `output`, if given, is replaced when the first row is there, and written anew with each further one: an interrupted
    command leaves a readable file with all rows measured by then.
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

    def _print(self, cells: Sequence[str]) -> None:
        pairs = zip(cells, self._columns, strict=True)
        self.say("  ".join(cell.ljust(column.width) for cell, column in pairs).rstrip())


def number(value: float | None, style: str = ".3g") -> str:
    """`value` in a format; nothing for None."""
    return "" if value is None else format(value, style)


def one_line(error: BaseException) -> str:
    """The kind and the first line of an error, to be kept with a row."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
