"""The files of `results/<scale>/` that tables, figures and verdicts are made from: read, checked and written.

The results of a cell lie in four files and are one unit: its entry in `cells.json` is written last and holds a digest
of its part of each of the others. A cell whose parts do not match (a killed command, a merge, a file cut short) is
incomplete: no reader takes it for a result, and the next collection makes it whole again from its run folder.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from novobench import places
from novobench.files import json_text, lock, number
from novobench.places import display_path
from novobench.suite import up_to_date
from novobench.suite.checked_files import (
    SCHEMA,
    Kinds,
    name,
    number_or_empty,
    read_entries,
    read_lines,
    read_values,
    write_changed,
    write_csv,
    yes_or_no,
)
from novobench.suite.up_to_date import Seen

CELL_SCHEMA = 2
"""Of the entries of `cells.json`. Those of schema 1 have no digests."""

RECORD_KINDS: Kinds = {
    "schema": int, "cell": name, "task": name, "optimizer": name, "seed": int, "split": name, "metric": name,
    "value": number, "n": int, "unit": str, "update": int, "code": name, "dirty": yes_or_no, "hardware": name,
}  # fmt: skip
CURVE_KINDS: Kinds = {
    "schema": int, "cell": name, "series": name, "update": int, "epoch": float, "seconds": number_or_empty,
    "value": number,
}  # fmt: skip
ENTRY_KEYS = {"config": dict, "environment": dict, "fingerprint": str}
"""What readers need of an entry of `cells.json`."""
_LAST_METRIC = "parameters"
"""With which the lines of a cell end in `records.csv`."""


_Line = TypeVar("_Line", "RecordLine", "CurveLine")


class RecordLine(NamedTuple):
    """A line of `records.csv`: a number that a training ended with."""

    schema: str
    cell: str
    task: str
    optimizer: str
    seed: str
    split: str
    metric: str
    value: str
    n: str
    unit: str
    update: str
    code: str
    dirty: str
    hardware: str


class CurveLine(NamedTuple):
    """A line of `curves.csv`: a point of a series of a cell."""

    schema: str
    cell: str
    series: str
    update: str
    epoch: str
    seconds: str
    value: str


def locked(scale: str) -> AbstractContextManager[None]:
    """Held by whoever reads the results or the tuned rates of a scale in order to write them again."""
    return lock(places.workspace().runs(scale) / "collect.lock")


# ---------------------------------------------------------------------------------------------- a cell's results


class StoredCell:
    """What the files hold of one cell. `curves` and `examples` of cells known to be whole are read when asked for."""

    def __init__(
        self,
        records: list[RecordLine] | None = None,
        curves: list[CurveLine] | None = None,
        examples: dict[str, Any] | None = None,
        entry: dict[str, Any] | None = None,
        read_rest: Callable[[], None] | None = None,
    ) -> None:
        self.records, self.entry = records or [], entry
        self._curves, self._examples = curves or [], examples
        self._read_rest = read_rest

    @property
    def curves(self) -> list[CurveLine]:
        if self._read_rest:
            self._read_rest()
        return self._curves

    @property
    def examples(self) -> dict[str, Any] | None:
        if self._read_rest:
            self._read_rest()
        return self._examples

    def add_rest(self, curves: list[CurveLine], examples: dict[str, Any] | None) -> None:
        self._curves, self._examples, self._read_rest = curves, examples, None

    def digests(self) -> dict[str, str]:
        """File -> digest of this cell's part of it."""
        assert self.entry is not None
        return {
            "records.csv": _digest([line[1:] for line in self.records]),
            "curves.csv": _digest([line[1:] for line in self.curves]),
            "examples.json": _digest(self.examples),
            "cells.json": _digest({key: self.entry[key] for key in self.entry if key not in ("schema", "digests")}),
        }

    @property
    def sealed(self) -> bool:
        """Whether there are digests of it."""
        return self.entry is not None and "digests" in self.entry

    @property
    def seals(self) -> str:
        """Its digests as one word."""
        return repr(sorted(self.entry["digests"].items())) if self.entry else ""

    @property
    def whole(self) -> bool:
        """Whether all of what was collected is there. Without digests: whether nothing is seen to be missing."""
        if self.entry is None:
            return False
        if "digests" in self.entry:
            schemas = {line[0] for line in (*self.records, *self.curves)}  # which are in no digest
            return schemas <= {str(SCHEMA)} and self.entry["digests"] == self.digests()
        ended = bool(self.records) and self.records[-1].metric == _LAST_METRIC
        return ended and bool(self.curves) and self.examples is not None

    def seal(self) -> None:
        """Give the entry its digests."""
        assert self.entry is not None
        self.entry = {**self.entry, "schema": CELL_SCHEMA, "digests": self.digests()}

    @cached_property
    def numbers(self) -> dict[tuple[str, str], float]:
        """Split and metric -> value; NaN where it was not finite."""
        return {(line.split, line.metric): number(line.value) for line in self.records}

    @property
    def fingerprint(self) -> str:
        return self.entry["fingerprint"] if self.entry else ""


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _by_cell(path: Path, kinds: Kinds, line: type[_Line]) -> dict[str, list[_Line]]:
    """The lines of a CSV file by their cells, in the order of the file."""
    found: dict[str, list[_Line]] = {}
    for _, values in read_values(path, kinds):
        found.setdefault(values[1], []).append(line(*values))
    return found


def _write_json(path: Path, content: Any) -> None:
    write_changed(path, (json_text(content, indent=1) + "\n").encode())


_FILES = ("records.csv", "curves.csv", "examples.json", "cells.json")


class Results:
    """All cells of `results/<scale>/`, by id. `whole` are the results; `incomplete` is what a kill or damage left."""

    def __init__(self, scale: str) -> None:
        """Read the files. Raises NovobenchError that names the file, and the line, if one is damaged.

        Values are looked at only where a cell does not match its digests: what matches is what was collected, and was
        looked at then. Nor are digests where the files are those that a collection has left.
        """
        self.scale, self.folder = scale, places.workspace().results(scale)
        self.cells: dict[str, StoredCell] = {}
        self._note = places.workspace().runs(scale) / "collected.json"
        self._seen, self._put = Seen.read(self._note), dict[str, str]()
        self._as_left = self._seen.files == {file: up_to_date.digest(self.folder / file) for file in _FILES}
        read_rest = self._read_rest if self._as_left else None
        for cell, records in _by_cell(self.folder / "records.csv", RECORD_KINDS, RecordLine).items():
            self.cells[cell] = StoredCell(records, read_rest=read_rest)
        for cell, found in read_entries(self.folder / "cells.json", ENTRY_KEYS, (1, CELL_SCHEMA)).items():
            self._cell(cell).entry = found
        if not self._as_left:
            self._read_rest()
        self._whole = {cell: self._as_left or stored.whole for cell, stored in self.cells.items()}
        if not all(stored.sealed and self._whole[cell] for cell, stored in self.cells.items()):
            read_lines(self.folder / "records.csv", RECORD_KINDS, ("cell", "split", "metric"))
            read_lines(self.folder / "curves.csv", CURVE_KINDS, ("cell", "series", "update"))

    def _read_rest(self) -> None:
        curves = _by_cell(self.folder / "curves.csv", CURVE_KINDS, CurveLine)
        examples = read_entries(self.folder / "examples.json", {}, (SCHEMA,))
        for cell in self.cells | curves | examples:
            if cell not in self._put:
                self._cell(cell).add_rest(curves.get(cell, []), examples.get(cell))

    def _cell(self, cell: str) -> StoredCell:
        return self.cells.setdefault(cell, StoredCell())

    @property
    def whole(self) -> dict[str, StoredCell]:
        return {cell: self.cells[cell] for cell, is_whole in self._whole.items() if is_whole}

    @property
    def incomplete(self) -> list[str]:
        return [cell for cell, is_whole in self._whole.items() if not is_whole]

    def is_up_to_date(self, cell: str, state: str) -> bool:
        """Whether a cell is whole, and its run folder, in this `state`, is what it was made from."""
        if not state or not self._whole.get(cell):
            return False
        return self._seen.folders.get(cell) == f"{state} {self.cells[cell].seals}"

    def put(self, cell: str, stored: StoredCell, state: str = "") -> None:
        """Replace a cell's results; `write` makes it last. `state`: of the run folder before it was read."""
        stored.seal()
        self.cells[cell], self._whole[cell], self._put[cell] = stored, True, state

    def seal(self) -> None:
        """Give all whole cells their digests, in one file and so at once: from here on, damage to them is seen."""
        open_ones = [stored for stored in self.whole.values() if not stored.sealed]
        for stored in open_ones:
            stored.seal()
        if open_ones:
            self._write_cells()

    def write(self) -> None:
        """Write the files, `cells.json` last: a cell that a kill leaves half written does not match its digests."""
        if not self.cells:
            return
        if self._put or not self._as_left:
            stored = [self.cells[cell] for cell in sorted(self.cells)]
            curves = (line for one in stored for line in one.curves)
            write_csv(self.folder / "records.csv", RecordLine._fields, (line for one in stored for line in one.records))
            write_csv(self.folder / "curves.csv", CurveLine._fields, curves)
            _write_json(self.folder / "examples.json", self._parts("examples"))
            self._write_cells()
        self._write_note()

    def _write_cells(self) -> None:
        _write_json(self.folder / "cells.json", self._parts("entry"))

    def _write_note(self) -> None:
        """Note what need not be read again."""
        folders = {cell: seen for cell, seen in self._seen.folders.items() if cell in self.cells}
        folders |= {cell: f"{state} {self.cells[cell].seals}" if state else "" for cell, state in self._put.items()}
        files = {} if self.incomplete else {file: up_to_date.digest(self.folder / file) for file in _FILES}
        now = Seen(files, folders)
        if now != self._seen:
            now.write(self._note)

    def _parts(self, part: str) -> dict[str, Any]:
        parts = {cell: getattr(self.cells[cell], part) for cell in sorted(self.cells)}
        return {cell: found for cell, found in parts.items() if found is not None}

    def complaint(self) -> str:
        """One line about incomplete cells that no run folder can mend; empty if there are none."""
        if not self.incomplete:
            return ""
        many = "1 cell is" if len(self.incomplete) == 1 else f"{len(self.incomplete)} cells are"
        some = ", ".join(self.incomplete[:3]) + (", …" if len(self.incomplete) > 3 else "")
        return (
            f"{display_path(self.folder)}: {many} incomplete ({some}): what records.csv, curves.csv and examples.json "
            "hold of them is not what cells.json says was collected, and no run folder of theirs is left. "
            "Tables leave them out. Restore the four files from git, or run the experiment of these cells again to "
            "train them anew; to give a cell up, delete it from all four."
        )


def speeds(scale: str) -> dict[str, tuple[float, float]]:
    """What finished cells took: JSON of their task, model and data -> samples and seconds of one device, both summed;
    those that shared a GPU had a part of its time each.

    A cell whose numbers or config do not tell (an older config, a time that is not finite) counts for nothing.
    """
    found: dict[str, tuple[float, float]] = {}
    for stored in Results(scale).whole.values():
        spent = stored.numbers.get(("train", "train_seconds"), 0.0)
        try:
            assert stored.entry is not None
            config = stored.entry["config"]
            key = json.dumps({part: config[part] for part in ("task", "model", "data")}, sort_keys=True)
            runtime, batch = config["runtime"], config["batch"]["size"]
            devices = runtime["devices"] * runtime["nodes"] / runtime.get("cells_per_gpu", 1)
            more = float(int(stored.records[0].update) * batch), float(spent * devices)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
            continue
        if all(math.isfinite(number) and number > 0 for number in more):
            found[key] = tuple(map(sum, zip(found.get(key, (0.0, 0.0)), more, strict=True)))  # type: ignore[assignment]
    return found
