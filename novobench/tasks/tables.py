"""CSV and TSV files with a header, as manifests of recordings, images or sentence pairs."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from novobench.errors import DataError
from novobench.tasks.sources import list_folder, listed, text_lines

TABLE_SUFFIXES = (".csv", ".tsv")
_LONGEST_CELL = 1 << 24


class Row(NamedTuple):
    """One row of a table."""

    line: int
    """The line of the file that it ends in."""
    cells: list[str]
    """Without surrounding white space."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV or TSV file in UTF-8, the header among them; empty ones are left out.

    The separator of a `.tsv` is a tab, and quotation marks are text. That of a `.csv` is the most frequent of comma,
    semicolon, tab and vertical bar in the first line, and cells may be quoted. Raises DataError, naming the line, for a
    row that has not as many cells as the first.
    """
    lines = text_lines(path)
    if not any(line.strip() for line in lines):
        raise DataError(f"{path} is empty. It needs a row for each item.")
    csv.field_size_limit(_LONGEST_CELL)
    quoting: Literal[0, 3] = csv.QUOTE_NONE
    separator = "\t"
    if path.suffix.lower() != ".tsv":
        quoting, separator = csv.QUOTE_MINIMAL, max(",;\t|", key=lines[0].count)
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator, quoting=quoting, strict=True)
    rows: list[Row] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            rows.append(Row(reader.line_num, [cell.strip() for cell in cells]))
            if len(cells) != len(rows[0].cells):
                raise DataError(
                    f"{path} line {reader.line_num} has {len(cells)} cells, but the first line has "
                    f"{len(rows[0].cells)} ({listed(rows[0].cells)}). Quote cells that hold the separator "
                    f"{separator!r}, or add the missing ones."
                )
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} is not a row of a table: {error}. Mend it.") from None
    return rows


class Table:
    """A CSV or TSV file whose first line names the columns, in any case; see `read_rows`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (_, self.columns), *self.rows = read_rows(path)
        if not self.rows:
            raise DataError(f"{path} has a header but no row. Complete it.")

    def find(self, names: Sequence[str]) -> int | None:
        """The place of the first of `names` that is a column, in any case; None if none is."""
        places = {column.lower(): place for place, column in reversed(list(enumerate(self.columns)))}
        return next((places[name] for name in names if name in places), None)

    def values(self, names: Sequence[str], what: str) -> Iterator[tuple[int, str]]:
        """Line number and cell of each row, in the column with one of `names`. Raises DataError if there is none."""
        place = self.find(names)
        if place is None:
            raise DataError(
                f"{self.path} has no column of {what}; its header has {listed(self.columns)}. Call the column "
                f"{names[0]}, or one of {', '.join(names[1:])}."
            )
        return ((line, cells[place]) for line, cells in self.rows)


def table_file(folder: Path, split: str) -> Path | None:
    """`<split>.csv` or `<split>.tsv` in a folder, with a suffix of any case; None if there is none."""
    names = [name for name in list_folder(folder) if name.lower().endswith(TABLE_SUFFIXES)]
    return next((folder / name for name in names if Path(name).stem == split), None)


def table_splits(folder: Path) -> list[str]:
    """The names of a folder's CSV and TSV files without suffixes."""
    return [Path(name).stem for name in list_folder(folder) if name.lower().endswith(TABLE_SUFFIXES)]


def item_folder(folder: Path, split: str, names: Sequence[str], usual: Sequence[str]) -> Path:
    """The folder that the file names of a table are relative to: the table's own, or a folder in it with the split's
    name or one of the `usual` names; the first in which one of the first files exists."""
    first = [name for name in names[:20] if name]
    for candidate in (folder, *(folder / name for name in (split, *usual))):
        if any((candidate / name).is_file() for name in first if "\0" not in name):
            return candidate
    return folder
