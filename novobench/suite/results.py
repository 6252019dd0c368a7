"""`Results`: the one reading of `results/<scale>/`, from which tables, figures, forecasts and listings are made.

The results of a cell (one training run) lie in four files and belong together: its entry in `cells.json` is written
last and holds a digest of the cell's parts of all files. A cell whose parts do not match (after a killed command, a
merge or a truncated file) is incomplete: nothing is read from it, and the next collection restores it from its run
folder.

Predictions are kept of one seed of each training, the lowest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from novobench import places
from novobench.config import seed_of, without_seed
from novobench.files import json_lines, lock, write_bytes
from novobench.places import display_path
from novobench.suite import cells_file, earlier_layout
from novobench.suite.checked_files import SCHEMA, check_lines, csv_bytes, named_numbers, parse_entries, read_bytes
from novobench.suite.curves import Curves, Point
from novobench.suite.stored_cell import LINE_SCHEMA, CurveLine, RecordLine, StoredCell
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
        self._is_earlier = False
        """Whether `cells.json` has the layout of an earlier version."""
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
            for name, value in named_numbers(line.values).items():
                point = Point(int(line.update), float(line.epoch), seconds, value)
                curves.setdefault(f"{line.split}/{name}", []).append(point)
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
        return self._entry(cell)["updates"]

    def hardware(self, cell: str) -> str:
        """The machine that a cell was trained on."""
        return self._entry(cell)["environment"]["hardware"]

    def code(self, cell: str) -> str:
        """The commit of the code that a cell was trained with."""
        return self._entry(cell)["environment"]["code"]

    def is_dirty(self, cell: str) -> bool:
        """Whether a cell was trained with uncommitted changes to the code."""
        return self._entry(cell)["environment"]["dirty"]

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
        stored.add_digest()
        self._incomplete.pop(cell, None)
        self._whole[cell], self._put[cell] = stored, state

    def upgrade(self) -> None:
        """Save the entries of all cells in today's layout if they were read from an earlier one.

        This is a single file, and so happens at once: a kill before `write` has written the others, which are read in
        either layout, leaves all cells whole.
        """
        if self._is_earlier:
            self._write_entries()

    def write(self) -> None:
        """Write the files, `cells.json` last: a cell that a kill leaves half written does not match its digests."""
        cells = self._sorted_cells()
        if not cells:
            return
        if self._put or not self._known_whole:
            self._parse_rest()
            self._drop_examples()
            records = csv_bytes(RecordLine._fields, (line for cell in cells.values() for line in cell.records))
            self._write_file("records.csv", records)
            curves = csv_bytes(CurveLine._fields, (line for cell in cells.values() for line in cell.curves))
            self._write_file("curves.csv", curves)
            examples = {id: cell.examples for id, cell in cells.items() if cell.examples is not None}
            self._write_file("examples.json", f"{json_lines(examples)}\n".encode())
            self._write_entries()
        folders = {cell: text for cell, text in self._note.folders.items() if cell in cells}
        folders |= {cell: self._collected_from(cell, state) for cell, state in self._put.items()}
        note = Note({} if self._incomplete else {name: self._file_digests[name] for name in _FILES}, folders)
        if note != self._note:
            note.write(self._note_path)

    def _write_entries(self) -> None:
        cells = self._sorted_cells().items()
        entries = {id: cell.entry for id, cell in cells if cell.entry is not None}
        self._write_file("cells.json", cells_file.content_of(entries, {id: cell.digest for id, cell in cells}))

    def _drop_examples(self) -> None:
        """Keep the predictions of one whole cell of each training: the one with the lowest seed."""
        trainings: set[str] = set()
        for cell, stored in sorted(self._whole.items(), key=lambda item: seed_of(item[0])):
            if without_seed(cell) in trainings and stored.examples is not None:
                stored.examples = None
                stored.add_digest()
            trainings.add(without_seed(cell))

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
        return f"{state} {self._whole[cell].digest}" if state else ""

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
        entries_path = self.folder / "cells.json"
        if not cells_file.is_of_this_version(entries_path, contents["cells.json"]):
            self._whole, self._incomplete = earlier_layout.read(self.folder, contents)
            self._is_earlier = True
            return
        numbered_records = self._parse_records(contents)
        records = _by_cell(numbered_records)
        entries, digests = cells_file.parse(entries_path, contents["cells.json"])
        if self._known_whole:
            self._whole = {
                cell: StoredCell(lines, entry=entries.get(cell), digest=digests.get(cell, ""))
                for cell, lines in records.items()
            }
            self._unparsed = {name: contents[name] for name in ("curves.csv", "examples.json")}
            return
        numbered_curves = self._parse_curves(contents)
        curves, examples = _by_cell(numbered_curves), self._parse_examples(contents)
        for cell in dict.fromkeys([*records, *entries, *curves, *examples]):
            stored = StoredCell(
                records.get(cell, []),
                curves.get(cell, []),
                examples.get(cell),
                entries.get(cell),
                digests.get(cell, ""),
            )
            (self._whole if stored.is_whole() else self._incomplete)[cell] = stored
        if self._incomplete:
            unique = ("cell", "split", "metric"), ("cell", "split", "update")
            check_lines(self.folder / "records.csv", numbered_records, unique[0], LINE_SCHEMA)
            check_lines(self.folder / "curves.csv", numbered_curves, unique[1], LINE_SCHEMA)

    def _parse_rest(self) -> None:
        """Parse curves and examples unless that has been done."""
        if not self._unparsed:
            return
        curves, examples = _by_cell(self._parse_curves(self._unparsed)), self._parse_examples(self._unparsed)
        for cell, stored in self._whole.items():
            stored.curves, stored.examples = curves.get(cell, []), examples.get(cell)
        self._unparsed = {}

    def _parse_records(self, contents: Mapping[str, bytes | None]) -> list[tuple[int, RecordLine]]:
        return list(earlier_layout.record_lines(self.folder / "records.csv", contents["records.csv"]))

    def _parse_curves(self, contents: Mapping[str, bytes | None]) -> list[tuple[int, CurveLine]]:
        return list(earlier_layout.curve_lines(self.folder / "curves.csv", contents["curves.csv"]))

    def _parse_examples(self, contents: Mapping[str, bytes | None]) -> dict[str, dict[str, Any]]:
        return parse_entries(self.folder / "examples.json", contents["examples.json"], {}, (SCHEMA,))


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
