"""The files of `results/<scale>/` that tables, figures and verdicts are made from: read, checked and written.

The results of a cell lie in four files and are one unit: its entry in `cells.json` is written last and holds a digest
of its part of each of the others. A cell whose parts do not match (a killed command, a merge, a file cut short) is
incomplete: no reader takes it for a result, and the next collection makes it whole again from its run folder.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from novobench.config import ROOT, shown
from novobench.files import json_text, number, write_csv, write_json
from novobench.suite.checked_files import (
    SCHEMA,
    Kinds,
    Line,
    damaged,
    name,
    number_or_empty,
    read_entries,
    read_lines,
    yes_or_no,
)

CELL_SCHEMA = 2
"""Of the entries of `cells.json`. Those of schema 1 have no digests."""

RECORD_KINDS: Kinds = {
    "schema": int, "cell": name, "task": name, "optimizer": name, "seed": int, "split": name, "metric": name,
    "value": number, "n": int, "unit": str, "update": int, "code": name, "dirty": yes_or_no, "hardware": name,
}  # fmt: skip
RECORD_FIELDS = tuple(RECORD_KINDS)
CURVE_KINDS: Kinds = {
    "schema": int, "cell": name, "series": name, "update": int, "epoch": float, "seconds": number_or_empty,
    "value": number,
}  # fmt: skip
CURVE_FIELDS = tuple(CURVE_KINDS)
_KEYS = {"config": dict, "environment": dict, "fingerprint": str}
"""What readers need of an entry of `cells.json`."""
_LAST_METRIC = "parameters"
"""With which the lines of a cell end in `records.csv`."""


def results_folder(scale: str) -> Path:
    return ROOT / "results" / scale


def locked(scale: str) -> FileLock:
    """Held by whoever reads the results or the tuned rates of a scale in order to write them again."""
    path = ROOT / "runs" / scale / "collect.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


# ---------------------------------------------------------------------------------------------- a cell's results


@dataclass
class StoredCell:
    """What the files hold of one cell."""

    records: list[Line] = field(default_factory=list)
    curves: list[Line] = field(default_factory=list)
    examples: dict[str, Any] | None = None
    entry: dict[str, Any] | None = None

    def digests(self) -> dict[str, str]:
        """File -> digest of this cell's part of it."""
        assert self.entry is not None
        return {
            "records.csv": _digest([[line[key] for key in RECORD_FIELDS[1:]] for line in self.records]),
            "curves.csv": _digest([[line[key] for key in CURVE_FIELDS[1:]] for line in self.curves]),
            "examples.json": _digest(self.examples),
            "cells.json": _digest({key: self.entry[key] for key in self.entry if key not in ("schema", "digests")}),
        }

    @property
    def whole(self) -> bool:
        """Whether all of what was collected is there. Without digests: whether nothing is seen to be missing."""
        if self.entry is None:
            return False
        if "digests" in self.entry:
            return self.entry["digests"] == self.digests()
        ended = bool(self.records) and self.records[-1]["metric"] == _LAST_METRIC
        return ended and bool(self.curves) and self.examples is not None

    def seal(self) -> None:
        """Give the entry its digests."""
        assert self.entry is not None
        self.entry = {**self.entry, "schema": CELL_SCHEMA, "digests": self.digests()}

    @property
    def numbers(self) -> dict[tuple[str, str], float]:
        """Split and metric -> value; NaN where it was not finite."""
        return {(line["split"], line["metric"]): number(line["value"]) for line in self.records}

    @property
    def fingerprint(self) -> str:
        return self.entry["fingerprint"] if self.entry else ""


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Results:
    """All cells of `results/<scale>/`, by id. `whole` are the results; `incomplete` is what a kill or damage left."""

    def __init__(self, scale: str) -> None:
        """Read the files. Raises NovobenchError that names the file, and the line, if one is damaged."""
        self.scale, self.folder = scale, results_folder(scale)
        self.cells: dict[str, StoredCell] = {}
        for line in read_lines(self.folder / "records.csv", RECORD_KINDS, ("cell", "split", "metric")):
            self._cell(line["cell"]).records.append(line)
        for line in read_lines(self.folder / "curves.csv", CURVE_KINDS, ("cell", "series", "update")):
            self._cell(line["cell"]).curves.append(line)
        for cell, found in read_entries(self.folder / "examples.json", {}, (SCHEMA,)).items():
            self._cell(cell).examples = found
        for cell, found in read_entries(self.folder / "cells.json", _KEYS, (1, CELL_SCHEMA)).items():
            self._cell(cell).entry = found
        self._whole = {cell: stored.whole for cell, stored in self.cells.items()}

    def _cell(self, cell: str) -> StoredCell:
        return self.cells.setdefault(cell, StoredCell())

    @property
    def whole(self) -> dict[str, StoredCell]:
        return {cell: self.cells[cell] for cell, is_whole in self._whole.items() if is_whole}

    @property
    def incomplete(self) -> list[str]:
        return [cell for cell, is_whole in self._whole.items() if not is_whole]

    def put(self, cell: str, stored: StoredCell) -> None:
        """Replace a cell's results; `write` makes it last."""
        stored.examples, stored.entry = (json.loads(json_text(part)) for part in (stored.examples, stored.entry))
        stored.seal()
        self.cells[cell], self._whole[cell] = stored, True

    def seal(self) -> None:
        """Give all whole cells their digests, in one file and so at once: from here on, damage to them is seen."""
        open_ones = [stored for stored in self.whole.values() if stored.entry and "digests" not in stored.entry]
        for stored in open_ones:
            stored.seal()
        if open_ones:
            self._write_cells()

    def write(self) -> None:
        """Write the files, `cells.json` last: a cell that a kill leaves half written does not match its digests."""
        if not self.cells:
            return
        stored = [self.cells[cell] for cell in sorted(self.cells)]
        write_csv(self.folder / "records.csv", RECORD_FIELDS, [line for one in stored for line in one.records])
        write_csv(self.folder / "curves.csv", CURVE_FIELDS, [line for one in stored for line in one.curves])
        write_json(self.folder / "examples.json", self._parts("examples"))
        self._write_cells()

    def _write_cells(self) -> None:
        write_json(self.folder / "cells.json", self._parts("entry"))

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
            f"{shown(self.folder)}: {many} incomplete ({some}): what records.csv, curves.csv and examples.json hold of "
            "them is not what cells.json says was collected, and no run folder of theirs is left. "
            "Tables leave them out. Restore the four files from git, or run the experiment of these cells again to "
            "train them anew; to give a cell up, delete it from all four."
        )


def speeds(scale: str) -> dict[str, tuple[float, float]]:
    """What finished cells took: JSON of their task, model and data -> samples and seconds of one device, both summed;
    those that shared a GPU had a part of its time each."""
    found: dict[str, tuple[float, float]] = {}
    for cell, stored in Results(scale).whole.items():
        spent = stored.numbers.get(("train", "train_seconds"), 0.0)
        if not spent > 0 or stored.entry is None:  # NaN, too
            continue
        try:
            config = stored.entry["config"]
            key = json.dumps({part: config[part] for part in ("task", "model", "data")}, sort_keys=True)
            runtime, batch = config["runtime"], config["batch"]["size"]
            devices = runtime["devices"] * runtime["nodes"] / runtime.get("cells_per_gpu", 1)
        except (KeyError, TypeError) as error:
            raise damaged(results_folder(scale) / "cells.json", f"the config of {cell} lacks {error}") from None
        samples, seconds = found.get(key, (0.0, 0.0))
        samples += int(stored.records[0]["update"]) * batch
        found[key] = samples, seconds + spent * devices
    return found
