"""From experiments to cells: what there is to train and what exists."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from novobench import places
from novobench.config import CellConfig, cell_id, cell_ids, check_not_decided
from novobench.errors import ConfigError, suggestion
from novobench.suite.experiment import Experiment, row_config, task_tree
from novobench.training.run_folder import RunFolder


@dataclass
class PlannedCell:
    """One training and the rows that ask for it."""

    config: CellConfig
    requested_by: list[str] = field(default_factory=list)
    """`table1/t1_sgd_100`, …"""
    id: str = ""
    """Worked out from the config where it is not given."""

    def __post_init__(self) -> None:
        self.id = self.id or cell_id(self.config)

    @cached_property
    def folder(self) -> RunFolder:
        return RunFolder(places.workspace().runs(self.config.scale) / self.id)


def plan(
    experiments: Sequence[Experiment],
    scale: str,
    seeds: Sequence[int],
    extra: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
) -> list[PlannedCell]:
    """All cells of the experiments, each once however many rows ask for it, in the order of the rows.

    `extra` are the overrides of a command line; a `seed` among them takes the place of a single one. `only` names the
    rows that count; none means all.
    """
    extra, seeds = dict(extra or {}), list(seeds)
    if len(seeds) == 1 and "seed" in extra:
        seeds = [extra.pop("seed")]
    check_not_decided(extra, "--set")
    known = [row.id for experiment in experiments for row in experiment.rows]
    for name in only:
        if name not in known:
            there = f"{', '.join(e.name for e in experiments)} has no row '{name}'."
            raise ConfigError(f"{there}{suggestion(name, known)} Known: {', '.join(known)}.")
    asked: list[tuple[str, CellConfig, list[str]]] = []
    for experiment in experiments:
        base = task_tree(experiment, scale)
        for row in experiment.rows:
            if only and row.id not in only:
                continue
            config = row_config(experiment, row, scale, seeds[0], extra, base=base)  # a seed decides nothing but itself
            if config is not None:
                seeds[0] = config.seed  # a number, however it was written
                asked.append((f"{experiment.name}/{row.id}", config, cell_ids(config, seeds)))
    cells: dict[str, PlannedCell] = {}
    for place, seed in enumerate(seeds):
        for user, config, ids in asked:
            id = ids[place]
            if id not in cells:
                cells[id] = PlannedCell(dataclasses.replace(config, seed=seed), id=id)
            cells[id].requested_by.append(user)
    return list(cells.values())
