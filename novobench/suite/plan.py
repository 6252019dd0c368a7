"""From experiments to cells (one training run each): what their rows need, and which of it is trained already."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from novobench import places
from novobench.config import CellConfig, cell_id, cell_ids
from novobench.config_loading import check_overridable
from novobench.errors import ConfigError, suggestion
from novobench.suite.experiment import Experiment, Row
from novobench.suite.row_configs import row_config, searched, task_tree
from novobench.training.run_folder import RunFolder


@dataclass(frozen=True)
class PlannedRow:
    """A row with its config as experiments and tuned rates were at one time, without overrides of a command line."""

    row: Row
    config: CellConfig | None
    """At seed 0; None if the row has no cell."""
    searched: bool
    """Whether its rates were found by a search at this scale."""


@dataclass
class PlannedCell:
    """One training run and the rows that need it."""

    config: CellConfig
    requested_by: list[str] = field(default_factory=list)
    """`table1/t1_sgd_100`, …"""
    id: str = ""
    """Computed from the config if it is empty."""
    own_recipe: bool = True
    """Whether a row of the planned experiments trains like this without overrides of a command line."""
    claims: Mapping[str, str] = field(default_factory=dict)
    """The claims that it is trained for, with their hashes."""

    def __post_init__(self) -> None:
        self.id = self.id or cell_id(self.config)

    @cached_property
    def folder(self) -> RunFolder:
        return RunFolder(places.workspace().runs(self.config.scale) / self.id)


@dataclass(frozen=True)
class Plan:
    """The rows of some experiments at one scale, and the cells that train them."""

    experiments: Sequence[Experiment]
    scale: str
    rows: Mapping[str, Sequence[PlannedRow]]
    """All rows of each experiment, by its name."""
    cells: Sequence[PlannedCell]
    """Each once however many rows need it, seed by seed in the order of the rows."""
    seeds_are_named: bool = False
    """Whether a command names its seeds. Then results of other machines count, see `collected_cells`."""


def plan(
    experiments: Sequence[Experiment],
    scale: str,
    seeds: Sequence[int],
    extra: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    *,
    seeds_are_named: bool = False,
) -> Plan:
    """Plan the cells of the experiments.

    Args:
        extra: overrides of a command line; a `seed` among them replaces a single seed.
        only: ids of the rows that get cells; none means all.
    """
    extra, seeds = dict(extra or {}), list(seeds)
    one_seed = len(seeds) == 1 and "seed" in extra
    check_overridable({key: value for key, value in extra.items() if key != "seed" or not one_seed}, "--set")
    check_rows(experiments, only)
    rows = {experiment.name: planned_rows(experiment, scale) for experiment in experiments}
    requests: list[tuple[str, CellConfig]] = []
    for experiment in experiments:
        base = task_tree(experiment, scale) if extra else None
        for row, config in ((planned.row, planned.config) for planned in rows[experiment.name]):
            if only and row.id not in only:
                continue
            if extra:
                config = row_config(experiment, row, scale, 0, extra, base=base)
            if config is not None:
                seeds = [config.seed] if one_seed else seeds  # a number, however it was written
                requests.append((f"{experiment.name}/{row.id}", config))
    return Plan(experiments, scale, rows, _cells(requests, seeds, rows), seeds_are_named)


def check_not_empty(plan: Plan) -> None:
    """Raise ConfigError if there is no cell to train."""
    if not plan.cells:
        names = ", ".join(experiment.name for experiment in plan.experiments)
        raise ConfigError(f"{names}: no row has a cell at {plan.scale} scale.")


def planned_rows(experiment: Experiment, scale: str) -> list[PlannedRow]:
    """All rows of an experiment as they are now."""
    base = task_tree(experiment, scale)
    return [
        PlannedRow(row, row_config(experiment, row, scale, 0, base=base), searched(experiment, row, scale))
        for row in experiment.rows
    ]


def source_files(experiments: Sequence[Experiment]) -> dict[Path, bytes | None]:
    """The files that rows are planned from with their current content, None if unreadable."""
    contents: dict[Path, bytes | None] = {}
    for path in (*(experiment.file for experiment in experiments), *places.workspace().config_files()):
        try:
            contents[path] = path.read_bytes()
        except OSError:
            contents[path] = None
    return contents


def check_rows(experiments: Sequence[Experiment], row_ids: Sequence[str]) -> None:
    """Raise ConfigError for an id that no row of the experiments has."""
    all_ids = [row.id for experiment in experiments for row in experiment.rows]
    for row_id in row_ids:
        if row_id not in all_ids:
            names = ", ".join(experiment.name for experiment in experiments)
            raise ConfigError(
                f"{names} has no row '{row_id}'.{suggestion(row_id, all_ids)} Available: {', '.join(all_ids)}."
            )


def _cells(
    requests: Sequence[tuple[str, CellConfig]], seeds: Sequence[int], rows: Mapping[str, Sequence[PlannedRow]]
) -> list[PlannedCell]:
    """The cells that the requests (row and config) need, with each seed."""
    own_recipes = {_at_seed_0(row.config) for planned in rows.values() for row in planned if row.config is not None}
    ids = [cell_ids(config, seeds) for _, config in requests]
    cells: dict[str, PlannedCell] = {}
    for position, seed in enumerate(seeds):
        for (row, config), ids_of_seeds in zip(requests, ids, strict=True):
            id = ids_of_seeds[position]
            if id not in cells:
                own_recipe = _at_seed_0(config) in own_recipes
                cells[id] = PlannedCell(dataclasses.replace(config, seed=seed), id=id, own_recipe=own_recipe)
            cells[id].requested_by.append(row)
    return list(cells.values())


def _at_seed_0(config: CellConfig) -> str:
    (id,) = cell_ids(config, [0])
    return id
