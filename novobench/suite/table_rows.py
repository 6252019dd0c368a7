"""The rows of an experiment with what `results/<scale>/` holds of each: numbers, and what to warn a reader of."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from novobench.config import CellConfig, cell_id, scientific
from novobench.suite.curves import at_equal, curves_of
from novobench.suite.experiment import Column, Experiment, Row
from novobench.suite.plan import PlannedRow, planned_rows
from novobench.suite.records import Results, StoredCell
from novobench.suite.statistics import Estimate, estimate


@dataclass
class TableRow:
    """A row with what its finished cells say."""

    row: Row
    config: CellConfig | None
    searched: bool
    cells: dict[str, StoredCell]
    """In the order of their seeds."""
    values: dict[str, list[float]] = field(default_factory=dict)
    """Column key -> value of each cell that has one; NaN where it is not finite."""
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def data(self) -> dict[str, list[int]]:
        """Fingerprint of the data -> seeds trained on them."""
        found: dict[str, list[int]] = {}
        for cell, stored in self.cells.items():
            found.setdefault(stored.fingerprint, []).append(seed_of(cell))
        return found

    @property
    def mixed(self) -> bool:
        """Whether its seeds saw different data: they are then no sample of one thing, and have no values."""
        return len(self.data) > 1

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Column key -> mean and interval over the seeds whose value is finite."""
        finite = {key: list(filter(math.isfinite, values)) for key, values in self.values.items()}
        return {key: estimate(values) for key, values in finite.items() if values}


def table_rows(
    experiment: Experiment, scale: str, planned: Sequence[PlannedRow] | None = None, results: Results | None = None
) -> list[TableRow]:
    """Every row of the experiment with all its seeds on record.

    planned: the rows as they were planned, if not as they are now. results: if they are read already.
    """
    results = results or Results(scale)
    whole, seeds, lost_seeds = results.whole, _by_training(results.whole), _by_training(results.incomplete)
    rows = [
        TableRow(one.row, one.config, one.searched, {cell: whole[cell] for cell in _seeds(one.config, seeds)})
        for one in (planned_rows(experiment, scale) if planned is None else planned)
    ]
    for column in experiment.columns:
        found = _values(column, {cell: stored for row in rows if not row.mixed for cell, stored in row.cells.items()})
        for row in rows:
            row.values[column.key] = [found[cell] for cell in row.cells if cell in found]
    for row in rows:
        row.warnings += _raised(experiment, row) + _not_finite(experiment, row) + _mixed_data(row)
        if lost := _seeds(row.config, lost_seeds):
            row.warnings.append(f"left out, because their results are incomplete: {_seeds_text(map(seed_of, lost))}")
    _warn_of_other_data(rows)
    return rows


def _by_training(cells: Iterable[str]) -> dict[str, list[str]]:
    """Cells that differ in their seeds alone, in the order of these, by what their ids have in common."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        found.setdefault(without_seed(cell), []).append(cell)
    return {training: sorted(cells, key=seed_of) for training, cells in found.items()}


def _seeds(config: CellConfig | None, cells: dict[str, list[str]]) -> list[str]:
    """Those of the cells that are this training, with any seed."""
    return [] if config is None else cells.get(without_seed(cell_id(config)), [])


_SEED = re.compile(r"-s(\d+)-")


def without_seed(cell: str) -> str:
    """What the ids of a training's seeds have in common."""
    return _SEED.sub("-s-", cell, count=1)


def seed_of(cell: str) -> int:
    match = _SEED.search(cell)
    return int(match[1]) if match else 0


def _values(column: Column, cells: dict[str, StoredCell]) -> dict[str, float]:
    """Cell -> the column's number, for those that have it."""
    if column.at_equal:
        curves = {cell: curves_of(stored) for cell, stored in cells.items()}
        return at_equal(curves, f"{column.at_equal}/{column.metric}", f"{column.split}/{column.metric}")
    own, other = (column.split, column.metric), (column.difference_to, column.metric)
    numbers = {cell: stored.numbers for cell, stored in cells.items()}
    return {
        cell: mine[own] - (mine[other] if column.difference_to else 0.0)
        for cell, mine in numbers.items()
        if own in mine and (not column.difference_to or other in mine)
    }


# ---------------------------------------------------------------------------------------------- warnings


def _raised(experiment: Experiment, row: TableRow) -> list[str]:
    """Texts of the experiment's flags that some seed raised."""
    found = []
    for flag in experiment.flags:
        values = [stored.numbers.get((flag.split, flag.metric), -math.inf) for stored in row.cells.values()]
        if raised := sum(value > flag.above for value in values):
            found.append(f"{flag.text} ({raised} of {len(values)} seeds)")
    return found


def _not_finite(experiment: Experiment, row: TableRow) -> list[str]:
    """Numbers that are NaN or infinite: named, whether a column shows them or not."""
    metrics = [[" ".join(key) for key, value in c.numbers.items() if math.isnan(value)] for c in row.cells.values()]
    columns = [c.label for c in experiment.columns if c.at_equal and any(map(math.isnan, row.values.get(c.key, [])))]
    names = list(dict.fromkeys([*(name for some in metrics for name in some), *columns]))
    if not names:
        return []
    some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    share = f"{sum(map(bool, metrics))} of {len(metrics)} seeds" if any(metrics) else "on some seeds' curves"
    return [f"not finite, and so in no mean or interval: {some} ({share})"]


def _mixed_data(row: TableRow) -> list[str]:
    if not row.mixed:
        return []
    parts = "; ".join(f"{_seeds_text(seeds)} on {fingerprint}" for fingerprint, seeds in row.data.items())
    return [f"its seeds saw different data and are not averaged: {parts}"]


def _warn_of_other_data(rows: list[TableRow]) -> None:
    """Warn of rows whose configs name the same data, but whose cells were trained on different ones."""
    alike: dict[str, list[TableRow]] = {}
    for row in rows:
        if row.config is not None and row.cells:
            # The pieces that a text is cut into are a part of its fingerprint.
            named = [scientific(row.config.data), getattr(row.config.model, "vocabulary", None)]
            alike.setdefault(json.dumps(named, sort_keys=True), []).append(row)
    for group in alike.values():
        for row in group:
            others = [other.row.label for other in group if other.data.keys() != row.data.keys()]
            if others:
                data = " and ".join(row.data)
                row.warnings.append(f"trained on other data ({data}) than {', '.join(others)}, under the same name")


def _seeds_text(seeds: Iterable[int]) -> str:
    listed = [str(seed) for seed in seeds]
    return f"seed{'s' if len(listed) > 1 else ''} {', '.join(listed)}"
