"""The rows of an experiment with their results: values of finished cells (training runs), and warnings for readers."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from novobench.config import CellConfig, cell_id, scientific, seed_of, without_seed
from novobench.seeds import seeds_text
from novobench.suite.experiment import Column, Experiment, Row
from novobench.suite.plan import PlannedRow, planned_rows
from novobench.suite.results import Results
from novobench.suite.search_checks import search_warnings
from novobench.suite.statistics import Estimate, estimate, paired_difference, pooled_sd


@dataclass
class TableRow:
    """A row with the results of its finished cells."""

    row: Row
    config: CellConfig | None
    """At seed 0; None if the row has no cell."""
    searched: bool
    """Whether its rates were found by a search at this scale."""
    results: Results
    cells: list[str]
    """Ids, in the order of seeds."""
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    """Column key -> seed -> the value of its cell; NaN if it is not finite. Without the seeds that have none."""
    warnings: list[str] = field(default_factory=list)
    search_warnings: list[str] = field(default_factory=list)
    """Those of `warnings` that are about the search of its rates."""

    @cached_property
    def seeds_by_data(self) -> dict[str, list[int]]:
        """Fingerprint of the data -> seeds trained on them."""
        seeds: dict[str, list[int]] = {}
        for cell in self.cells:
            seeds.setdefault(self.results.fingerprint(cell), []).append(seed_of(cell))
        return seeds

    @property
    def has_mixed_data(self) -> bool:
        """Whether its seeds were trained on different data. They are then no sample of one thing and get no mean."""
        return len(self.seeds_by_data) > 1

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Column key -> mean and interval over the seeds whose value is finite."""
        finite = {key: list(filter(math.isfinite, values.values())) for key, values in self.values.items()}
        return {key: estimate(values) for key, values in finite.items() if values}


def table_rows(experiment: Experiment, results: Results, planned: Sequence[PlannedRow] | None = None) -> list[TableRow]:
    """Every row of the experiment with the results of all its seeds.

    planned: the rows as they were planned, if not as they are now.
    """
    planned = planned_rows(experiment, results.scale) if planned is None else planned
    finished, incomplete = _by_training(results.cells), _by_training(results.incomplete)
    rows = [
        TableRow(each.row, each.config, each.searched, results, _cells_of(each.config, finished)) for each in planned
    ]
    for row in rows:
        row.values = {column.key: _values(column, row) for column in experiment.columns}
        row.warnings += _raised_flags(experiment, row) + _not_finite(row) + _mixed_data(row)
        if left_out := _cells_of(row.config, incomplete):
            row.warnings.append(f"left out, because their results are incomplete: {seeds_text(map(seed_of, left_out))}")
    of_search = search_warnings(experiment, [row.row for row in rows if row.searched], results.scale)
    for row in rows:
        row.search_warnings = of_search.get(row.row.id, [])
        row.warnings += row.search_warnings
    _warn_of_special_cases(experiment, rows)
    _warn_of_other_data(rows)
    return rows


def _by_training(cells: Iterable[str]) -> dict[str, list[str]]:
    """The common part of the ids of one training -> its cells in the order of seeds."""
    by_training: dict[str, list[str]] = {}
    for cell in cells:
        by_training.setdefault(without_seed(cell), []).append(cell)
    return {training: sorted(cells, key=seed_of) for training, cells in by_training.items()}


def _cells_of(config: CellConfig | None, by_training: dict[str, list[str]]) -> list[str]:
    """The cells with this config, with any seed."""
    return [] if config is None else by_training.get(without_seed(cell_id(config)), [])


def _values(column: Column, row: TableRow) -> dict[int, float]:
    """Seed -> the column's value, for the cells that have one; nothing if the seeds had different data."""
    values = {}
    for cell in [] if row.has_mixed_data else row.cells:
        value = row.results.value(cell, column.split, column.metric)
        other = row.results.value(cell, column.difference_to, column.metric) if column.difference_to else 0.0
        if value is not None and other is not None:
            values[seed_of(cell)] = value - other
    return values


def seed_noise(rows: Iterable[TableRow], key: str) -> float | None:
    """The standard deviation over seeds of a column, pooled within rows; None if no row has two seeds.

    Diagnostic rows have no part in it, and rows with the same training count once.
    """
    trainings = {tuple(row.cells): row.values.get(key, {}) for row in rows if not row.row.diagnostic}
    return pooled_sd([*values.values()] for values in trainings.values())


def setting(config: CellConfig | None, key: str) -> str:
    """The value of a dotted key as readers see it; empty for a row without a cell."""
    if config is None:
        return ""
    try:
        value = value_at(config, key)
    except KeyError:
        return "–"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def value_at(config: CellConfig, key: str) -> Any:
    """The value of a dotted key as plain data. Raises KeyError if the config has no such key."""
    value: Any = config
    for name in re.findall(r"[^.\[\]]+", key):
        try:
            if isinstance(value, list):
                value = value[int(name)]
            else:
                value = value[name] if isinstance(value, dict) else getattr(value, name)
        except (LookupError, ValueError, AttributeError):
            raise KeyError(key) from None
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def distinct_labels(experiment: Experiment, rows: Sequence[TableRow]) -> dict[str, str]:
    """Row id -> label. Rows with the same label are told apart by the settings in which they differ."""
    by_label: dict[str, list[TableRow]] = {}
    for row in rows:
        by_label.setdefault(row.row.label, []).append(row)
    labels = {}
    for label, group in by_label.items():
        keys = [key for key in experiment.settings if len({setting(row.config, key) for row in group}) > 1]
        for row in group:
            parts = [f"{experiment.settings[key]} {setting(row.config, key)}" for key in keys]
            labels[row.row.id] = f"{label} ({', '.join(parts)})" if parts else label
    return labels


# ---------------------------------------------------------------------------------------------- warnings


def _raised_flags(experiment: Experiment, row: TableRow) -> list[str]:
    """The texts of the experiment's flags that some seed raised."""
    texts = []
    for flag in experiment.flags:
        values = [row.results.value(cell, flag.split, flag.metric) for cell in row.cells]
        if raised := sum(value is not None and value > flag.above for value in values):
            texts.append(f"{flag.text} ({raised} of {len(values)} seeds)")
    return texts


def _not_finite(row: TableRow) -> list[str]:
    """A warning that names all values that are not finite, whether or not a column shows them."""
    metrics = [
        [f"{split} {metric}" for (split, metric), value in row.results.values(cell).items() if math.isnan(value)]
        for cell in row.cells
    ]
    names = list(dict.fromkeys(name for names in metrics for name in names))
    if not names:
        return []
    some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    seeds = f"{sum(map(bool, metrics))} of {len(metrics)} seeds"
    return [f"not finite, so left out of means and intervals: {some} ({seeds})"]


def _mixed_data(row: TableRow) -> list[str]:
    if not row.has_mixed_data:
        return []
    parts = "; ".join(f"{seeds_text(seeds)} on {fingerprint}" for fingerprint, seeds in row.seeds_by_data.items())
    return [f"its seeds were trained on different data and are not averaged: {parts}"]


def _warn_of_other_data(rows: list[TableRow]) -> None:
    """Warn of rows whose configs name the same data, but whose cells were trained on different data."""
    same_config: dict[str, list[TableRow]] = {}
    for row in rows:
        if row.config is not None and row.cells:
            # The fingerprint of a text includes its tokens.
            data = [scientific(row.config.data), getattr(row.config.model, "vocabulary", None)]
            same_config.setdefault(json.dumps(data, sort_keys=True), []).append(row)
    for group in same_config.values():
        for row in group:
            own = row.seeds_by_data.keys()
            others = [other.row.label for other in group if other.seeds_by_data.keys() != own]
            if others:
                row.warnings.append(
                    f"trained on other data ({' and '.join(own)}) than {', '.join(others)}, under the same name"
                )


def _warn_of_special_cases(experiment: Experiment, rows: list[TableRow]) -> None:
    """Warn of rows that are worse than a special case of theirs: its settings were theirs to choose.

    Worse means: in the first column, beyond the 95 % interval of the difference over common seeds.
    """
    by_id, column = {row.row.id: row for row in rows}, experiment.columns[0]
    for special in rows:
        if not special.row.special_case_of:
            continue
        general = by_id[special.row.special_case_of]
        better, worse = (special, general) if column.better == "larger" else (general, special)
        lead = paired_difference(better.values[column.key], worse.values[column.key])
        if lead.excludes_zero and lead.mean > 0:
            general.warnings.append(f"its search failed: its special case {special.row.label} is better by {lead}")
