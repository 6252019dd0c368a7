"""From experiments to cells: what there is to train and what exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from novobench.config import ROOT, CellConfig, cell_id
from novobench.errors import ConfigError, suggestion
from novobench.suite.experiment import Experiment, row_config
from novobench.training.run_folder import RunFolder


@dataclass
class PlannedCell:
    """One training and the rows that ask for it."""

    config: CellConfig
    users: list[str] = field(default_factory=list)
    """`table1/t1_sgd_100`, …"""

    @property
    def id(self) -> str:
        return cell_id(self.config)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(runs_folder(self.config.scale) / self.id)


def runs_folder(scale: str) -> Path:
    return ROOT / "runs" / scale


def plan(
    experiments: Sequence[Experiment],
    scale: str,
    seeds: Sequence[int],
    extra: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
) -> list[PlannedCell]:
    """All cells of the experiments, each once however many rows ask for it, in the order of the rows.

    `only` names the rows that count; none means all.
    """
    known = [row.id for experiment in experiments for row in experiment.rows]
    for name in only:
        if name not in known:
            there = f"{', '.join(e.name for e in experiments)} has no row '{name}'."
            raise ConfigError(f"{there}{suggestion(name, known)} Known: {', '.join(known)}.")
    cells: dict[str, PlannedCell] = {}
    for seed in seeds:
        for experiment in experiments:
            for row in experiment.rows:
                if only and row.id not in only:
                    continue
                config = row_config(experiment, row, scale, seed, extra)
                if config is not None:
                    cell = cells.setdefault(cell_id(config), PlannedCell(config))
                    cell.users.append(f"{experiment.name}/{row.id}")
    return list(cells.values())
