"""`Results`: the one reading of `results/<scale>/`, from which tables, figures, forecasts and listings are made.

The results of a cell (one training run) lie in four files and belong together: its entry in `cells.json` is written
last and holds a digest of the cell's part of each file. A cell whose parts do not match (after a killed command, a
merge or a truncated file) is incomplete: nothing is read from it, and the next collection restores it from its run
folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from novobench import places
from novobench.files import json_text, lock, number, write_bytes
from novobench.places import display_path
from novobench.suite.checked_files import (
    SCHEMA,
    Line,
    check_lines,
    csv_bytes,
    parse_entries,
    parse_lines,
    read_bytes,
)
from novobench.suite.curves import Curves, Point
from novobench.suite.stored_cell import CELL_SCHEMA, ENTRY_KEYS, CurveLine, RecordLine, StoredCell
from novobench.suite.up_to_date import Note

_FILES = ("records.csv", "curves.csv", "examples.json", "cells.json")


def locked(scale: str) -> AbstractContextManager[None]:
    """The lock to hold while the results or the tuned rates of a scale are read in order to be rewritten."""
    return lock(places.workspace().runs(scale) / "collect.lock")


_AnyLine = TypeVar("_AnyLine", RecordLine, CurveLine)


def _by_cell(numbered_lines: Iterable[tuple[int, _AnyLine]]) -> dict[str, list[_AnyLine]]:
    lines_by_cell: dict[str, list[_AnyLine]] = {}
    for _, line in numbered_lines:
        lines_by_cell.setdefault(line.cell, []).append(line)
    return lines_by_cell


class Results:
    """The results of all cells of a scale, by cell id. `Results.load` reads them; a command does so once.

    Nothing is read from incomplete cells: the methods that take a cell raise KeyError for them.
    """

    def __init__(self, scale: str, cells: dict[str, StoredCell] | None = None, folder: Path | None = None) -> None:
        """cells: what the files hold, all of it whole; nothing by default. folder: `results/<scale>` by default."""
        self.scale, self.folder = scale, folder or places.workspace().results(scale)
        self._whole: dict[str, StoredCell] = dict(cells or {})
        self._incomplete: dict[str, StoredCell] = {}
        self._file_stamps: tuple[tuple[int, ...], ...] = ()
        self._file_digests: dict[str, str] = {}
        self._note = Note()
        self._known_whole = False
        """Whether the files are as the last collection left them."""
        self._unparsed: dict[str, bytes | None] = {}
        """Content of curves.csv and examples.json until somebody needs them; empty once they are parsed."""
        self._put: dict[str, str] = {}
        """Cell put since the files were read -> state of its run folder."""

    @classmethod
    def load(cls, scale: str, folder: Path | None = None) -> Results:
        """Read the files of `folder`, which is `results/<scale>` by default.

        Raises NovobenchError, which names the file and the line, if one of them is damaged.

        The values of a cell are checked only where its parts do not match its digests: parts that match were checked
        when they were collected. Digests are compared only where the files are not those the last collection left.
        """
        results = cls(scale, folder=folder)
        results._read()
        return results

    def reloaded(self) -> Results:
        """These results if the files have not changed since they were read, else the results now. Call it under the
        lock before `put` and `write`."""
        if self._file_stamps != _stamps(self.folder):
            return Results.load(self.scale, self.folder)
        self._note = Note.read(self._note_path)
        return self

    # ------------------------------------------------------------------------------------ reading

    @property
    def cells(self) -> Collection[str]:
        """Ids of the cells whose results are whole."""
        return self._whole.keys()

    @property
    def incomplete(self) -> Collection[str]:
        """Ids of the cells of which parts are missing or damaged."""
        return self._incomplete.keys()

    def value(self, cell: str, split: str, metric: str) -> float | None:
        """A number of a cell: a metric, a baseline, or one of split `train` such as `train_seconds`. NaN if it was not
        finite, None if the cell has no such number."""
        return self.values(cell).get((split, metric))

    def values(self, cell: str) -> dict[tuple[str, str], float]:
        """Split and metric -> value, for all numbers of a cell."""
        return self._whole[cell].values

    def curves(self, cell: str) -> Curves:
        """The learning curves of a cell."""
        self._parse_rest()
        curves: Curves = {}
        for line in self._whole[cell].curves:
            seconds = float(line.seconds) if line.seconds else None
            point = Point(int(line.update), float(line.epoch), seconds, number(line.value))
            curves.setdefault(line.series, []).append(point)
        return curves

    def config(self, cell: str) -> dict[str, Any]:
        """The config that a cell was trained with, as plain data. An old cell's may lack fields of today."""
        return self._entry(cell)["config"]

    def fingerprint(self, cell: str) -> str:
        """Identity of the data that a cell was trained on."""
        return self._entry(cell)["fingerprint"]

    def claims(self, cell: str) -> dict[str, str]:
        """The claims that a cell was trained for, with the hashes of their tests at that time."""
        return self._entry(cell).get("claims", {})

    def updates(self, cell: str) -> int:
        """Weight updates of a cell's training."""
        return int(self._whole[cell].records[0].update)

    def hardware(self, cell: str) -> str:
        """The machine that a cell was trained on."""
        return self._whole[cell].records[0].hardware

    def is_dirty(self, cell: str) -> bool:
        """Whether a cell was trained with uncommitted changes to the code."""
        return self._whole[cell].records[0].dirty == "1"

    def complaint(self) -> str:
        """One line about the incomplete cells; empty if there are none."""
        if not self._incomplete:
            return ""
        ids = list(self._incomplete)
        count = "1 cell is" if len(ids) == 1 else f"{len(ids)} cells are"
        some = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
        return (
            f"{display_path(self.folder)}: {count} incomplete ({some}): their parts of records.csv, curves.csv and "
            "examples.json do not match cells.json, and their run folders no longer exist. Tables leave them out. "
            "Restore the four files from git, or run the experiments of these cells again to retrain them; to drop a "
            "cell, delete it from all four files."
        )

    def _entry(self, cell: str) -> dict[str, Any]:
        entry = self._whole[cell].entry
        assert entry is not None  # a whole cell has one
        return entry

    # ------------------------------------------------------------------------------------ collecting

    def is_up_to_date(self, cell: str, state: str) -> bool:
        """Whether a cell is whole and was collected from its run folder in this `state` (see `up_to_date.state`)."""
        if not state or cell not in self._whole:
            return False
        return self._note.folders.get(cell) == self._collected_from(cell, state)

    def put(self, cell: str, stored: StoredCell, state: str = "") -> None:
        """Replace a cell's results; `write` saves them. `state`: of the run folder before it was read."""
        self._parse_rest()
        stored.add_digests()
        self._incomplete.pop(cell, None)
        self._whole[cell], self._put[cell] = stored, state

    def add_digests(self) -> None:
        """Give all whole cells their digests and save them, in a single file and so at once. Later damage to these
        cells is then noticed."""
        without = [stored for stored in self._whole.values() if not stored.has_digests]
        for stored in without:
            stored.add_digests()
        if without:
            self._write_entries()

    def write(self) -> None:
        """Write the files, `cells.json` last: a cell that a kill leaves half written does not match its digests."""
        cells = self._sorted_cells()
        if not cells:
            return
        if self._put or not self._known_whole:
            self._parse_rest()
            records = csv_bytes(RecordLine._fields, (line for cell in cells.values() for line in cell.records))
            self._write_file("records.csv", records)
            curves = csv_bytes(CurveLine._fields, (line for cell in cells.values() for line in cell.curves))
            self._write_file("curves.csv", curves)
            examples = {id: cell.examples for id, cell in cells.items() if cell.examples is not None}
            self._write_file("examples.json", _json_bytes(examples))
            self._write_entries()
        folders = {cell: text for cell, text in self._note.folders.items() if cell in cells}
        folders |= {cell: self._collected_from(cell, state) for cell, state in self._put.items()}
        note = Note({} if self._incomplete else {name: self._file_digests[name] for name in _FILES}, folders)
        if note != self._note:
            note.write(self._note_path)

    def _write_entries(self) -> None:
        entries = {id: cell.entry for id, cell in self._sorted_cells().items() if cell.entry is not None}
        self._write_file("cells.json", _json_bytes(entries))

    def _write_file(self, name: str, content: bytes) -> None:
        """Write a file unless it has this content already."""
        digest = _file_digest(content)
        if digest != self._file_digests.get(name):
            write_bytes(self.folder / name, content)
            self._file_digests[name] = digest

    def _sorted_cells(self) -> dict[str, StoredCell]:
        return dict(sorted({**self._whole, **self._incomplete}.items()))

    def _collected_from(self, cell: str, state: str) -> str:
        """The state of a run folder together with the digests of the results that were made from it."""
        return f"{state} {sorted(self._entry(cell)['digests'].items())!r}" if state else ""

    # ------------------------------------------------------------------------------------ files

    @property
    def _note_path(self) -> Path:
        usual = self.folder == places.workspace().results(self.scale)
        name = "collected.json" if usual else f"collected-{self.folder.name}.json"
        return places.workspace().runs(self.scale) / name

    def _read(self) -> None:
        self._file_stamps = _stamps(self.folder)  # before reading, so that a later change is noticed
        contents = {name: read_bytes(self.folder / name) for name in _FILES}
        self._file_digests = {name: _file_digest(content) for name, content in contents.items()}
        self._note = Note.read(self._note_path)
        self._known_whole = self._note.files == self._file_digests
        numbered_records = list(self._parse("records.csv", contents, RecordLine))
        records = _by_cell(numbered_records)
        entries = self._parse_json("cells.json", contents, ENTRY_KEYS, schemas=(1, CELL_SCHEMA))
        if self._known_whole:
            self._whole = {cell: StoredCell(lines, entry=entries.get(cell)) for cell, lines in records.items()}
            self._unparsed = {name: contents[name] for name in ("curves.csv", "examples.json")}
            return
        numbered_curves = list(self._parse("curves.csv", contents, CurveLine))
        curves = _by_cell(numbered_curves)
        examples = self._parse_json("examples.json", contents, {}, schemas=(SCHEMA,))
        for cell in dict.fromkeys([*records, *entries, *curves, *examples]):
            stored = StoredCell(records.get(cell, []), curves.get(cell, []), examples.get(cell), entries.get(cell))
            (self._whole if stored.is_whole() else self._incomplete)[cell] = stored
        if self._incomplete or not all(stored.has_digests for stored in self._whole.values()):
            check_lines(self.folder / "records.csv", numbered_records, unique=("cell", "split", "metric"))
            check_lines(self.folder / "curves.csv", numbered_curves, unique=("cell", "series", "update"))

    def _parse_rest(self) -> None:
        """Parse curves and examples unless that has been done."""
        if not self._unparsed:
            return
        curves = _by_cell(self._parse("curves.csv", self._unparsed, CurveLine))
        examples = self._parse_json("examples.json", self._unparsed, {}, schemas=(SCHEMA,))
        for cell, stored in self._whole.items():
            stored.curves, stored.examples = curves.get(cell, []), examples.get(cell)
        self._unparsed = {}

    def _parse(
        self, name: str, contents: Mapping[str, bytes | None], line_type: type[Line]
    ) -> Iterator[tuple[int, Line]]:
        return parse_lines(self.folder / name, contents[name], line_type)

    def _parse_json(
        self, name: str, contents: Mapping[str, bytes | None], keys: Mapping[str, type], schemas: Sequence[int]
    ) -> dict[str, dict[str, Any]]:
        return parse_entries(self.folder / name, contents[name], keys, schemas)


def _json_bytes(content: Any) -> bytes:
    return (json_text(content, indent=1) + "\n").encode()


def _file_digest(content: bytes | None) -> str:
    """Digest of a file's content; empty for a missing file."""
    return "" if content is None else hashlib.sha256(content).hexdigest()


def _stamps(folder: Path) -> tuple[tuple[int, ...], ...]:
    """Size, times and inode of each file: unequal after any change."""
    return tuple(_stamp(folder / name) for name in _FILES)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
