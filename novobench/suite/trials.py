"""The trials of a search: sets of rates, the cells that train them, and which trial is the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig

from novobench.config import cell_ids
from novobench.errors import ConfigError, NovobenchError, suggestion
from novobench.files import number
from novobench.suite.collection import undamaged
from novobench.suite.experiment import Experiment, Row
from novobench.suite.plan import PlannedCell
from novobench.suite.row_configs import row_config, task_tree
from novobench.suite.search_space import LAST_ROUND, Ranges, check_equal_ranges, points, widened


@dataclass(frozen=True)
class Trial:
    """One set of rates for a key, with all its seeds."""

    key: str
    """Name of the set of rates that the search is for: a row's `tuned`."""
    row: Row
    """The row whose recipe is trained: the first that names the key."""
    study: int
    round: int
    number: int
    """Within its round."""
    rates: dict[str, float]
    cells: list[PlannedCell]


def rows_to_search(experiment: Experiment, scale: str) -> dict[str, Row]:
    """Key -> the first row that names it as `tuned`. Raises ConfigError if no row names one."""
    rows: dict[str, Row] = {}
    for row in experiment.rows:
        if (key := row.tuned_key(scale)) is not None:
            rows.setdefault(key, row)
    if not rows:
        raise ConfigError(f"{experiment.name} has no row with `tuned:` at {scale} scale; there is nothing to search.")
    return rows


def check_keys(keys: Sequence[str], experiments: Sequence[Experiment], scale: str) -> None:
    """Raise ConfigError for a key that no row of the experiments names."""
    keys_of_rows = dict.fromkeys(key for experiment in experiments for key in rows_to_search(experiment, scale))
    for key in keys:
        if key not in keys_of_rows:
            names = ", ".join(experiment.name for experiment in experiments)
            problem = f"--keys: no row of {names} has `tuned: {key}` at {scale} scale."
            raise ConfigError(f"{problem}{suggestion(key, list(keys_of_rows))} Known: {', '.join(keys_of_rows)}.")


def check_ranges(
    experiment: Experiment, rows: Mapping[str, Row], scale: str, extra: Mapping[str, Any] | None = None
) -> None:
    """Raise ConfigError before hours of training if no search of these keys can be fair or complete.

    That is the case if an optimizer has no ranges, if the ranges are unequal without a reason, if `extra`, the
    overrides of a command line, set a rate that is searched, or if a config at an end of the widest ranges is invalid.
    """
    extra = extra or {}
    where, base = experiment.place, task_tree(experiment, scale)
    ranges = {key: ranges_of(experiment, row, scale, base) for key, row in rows.items()}
    for key, row in rows.items():
        if not ranges[key]:
            name = _optimizer(experiment, row, scale, base)
            raise ConfigError(
                f"row '{row.id}': optimizer '{name}' has no tunable parameters. Name their ranges in {where}, under "
                "`search:`."
            )
    check_equal_ranges(ranges, experiment.search.reason, where)
    for key, row in rows.items():
        if searched := [name for name in ranges[key] if name in extra]:
            raise ConfigError(f"--set {searched[0]}: the search of {key} finds this rate. Remove it from --set.")
        widest = widened(ranges[key], experiment.search.widen, LAST_ROUND)
        for end in (0, 1):
            rates = {name: bounds[end] for name, bounds in widest.items()}
            row_config(experiment, row, scale, 0, {**extra, "purpose": "search"}, rates, base)


def ranges_of(experiment: Experiment, row: Row, scale: str, base: DictConfig) -> Ranges:
    """The ranges of a row's optimizer in the first round. base: the result of `task_tree`."""
    return experiment.search.ranges_of(_optimizer(experiment, row, scale, base))


def _optimizer(experiment: Experiment, row: Row, scale: str, base: DictConfig) -> str:
    config = row_config(experiment, row, scale, 0, rates={"optimizer.lr": 1.0}, base=base)
    assert config is not None  # a row with a key has a cell
    return config.optimizer.name


def trials(
    experiment: Experiment,
    rows: Mapping[str, Row],
    scale: str,
    *,
    number: int,
    seeds: int,
    study: int = 0,
    round: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> list[Trial]:
    """The trials of one round: `number` of them per key in `rows`, with `seeds` cells each. extra: overrides on top."""
    base, result = task_tree(experiment, scale), []
    extra = {**(extra or {}), "purpose": "search"}
    for key, row in rows.items():
        ranges = ranges_of(experiment, row, scale, base)
        for trial_number, rates in enumerate(points(ranges, number, experiment.search.widen, study, round)):
            config = row_config(experiment, row, scale, 0, extra, rates, base)
            assert config is not None
            ids = zip(range(seeds), cell_ids(config, range(seeds)), strict=True)
            cells = [PlannedCell(replace(config, seed=seed), [f"search/{key}"], id) for seed, id in ids]
            result.append(Trial(key, row, study, round, trial_number, rates, cells))
    return result


# ---------------------------------------------------------------------------------------------- outcomes


@dataclass(frozen=True)
class Outcome:
    """What a finished cell of a trial is judged by."""

    split: str
    value: float
    """NaN if it is not finite."""
    fingerprint: str
    """Of the data."""


def outcomes_of(trials: Sequence[Trial], metric: str) -> dict[str, Outcome]:
    """Cell id -> outcome, for finished cells.

    Raises NovobenchError if the trials of a key were trained on different data, or if a record is damaged.
    """
    outcomes = {cell.id: _outcome(cell, metric) for trial in trials for cell in trial.cells if cell.folder.finished}
    fingerprints: dict[str, set[str]] = {}
    for trial in trials:
        own = {outcomes[cell.id].fingerprint for cell in trial.cells if cell.id in outcomes}
        fingerprints.setdefault(trial.key, set()).update(own)
    for key, names in fingerprints.items():
        if len(names) > 1:
            raise NovobenchError(
                f"The trials of {key} were trained on different data ({', '.join(sorted(names))}), so none of them is "
                "the best. Restore the data, and remove the run folders of the trials on other data."
            )
    return outcomes


def _outcome(cell: PlannedCell, metric: str) -> Outcome:
    with undamaged(cell.folder, "record.json"):
        record = cell.folder.read_record()
        if record.search_split is None:
            raise ValueError("it has no search split")
        value = record.metrics[record.search_split][metric].value
        return Outcome(record.search_split, number(value), record.fingerprint)


def best_trials(experiment: Experiment, trials: Sequence[Trial], outcomes: Mapping[str, Outcome]) -> dict[str, Trial]:
    """Key -> its trial with the best mean over seeds of the first column's metric on the split of role `search`.

    `better` of that column says which direction is better. A trial with a failed cell, or with a value that is not
    finite, cannot win; among equals the first wins. Raises NovobenchError if no trial of a key can win.
    """
    sign = 1.0 if experiment.columns[0].better == "larger" else -1.0
    best: dict[str, tuple[float, Trial]] = {}
    for trial in trials:
        mean = mean_value(trial, outcomes)
        score = -math.inf if mean is None else sign * mean
        if trial.key not in best or score > best[trial.key][0]:
            best[trial.key] = score, trial
    if hopeless := [key for key, (score, _) in best.items() if score == -math.inf]:
        raise NovobenchError(
            f"Every trial of {', '.join(hopeless)} failed or ended in a {experiment.columns[0].metric} that is not "
            "finite, so nothing was written; see their log.txt in runs/."
        )
    return {key: trial for key, (_, trial) in best.items()}


def mean_value(trial: Trial, outcomes: Mapping[str, Outcome]) -> float | None:
    """The mean over the trial's seeds; None unless every seed has a finite value."""
    values = [outcomes[cell.id].value if cell.id in outcomes else math.nan for cell in trial.cells]
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else None
