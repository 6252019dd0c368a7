"""Search for learning rates: the same number of quasi-random trials per optimizer, judged on the `search` split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import yaml

from novobench import places
from novobench.config import cell_id, cell_ids
from novobench.config_loading import read_yaml
from novobench.errors import ConfigError, NovobenchError, suggestion
from novobench.files import number, write_bytes, write_text
from novobench.optim import registry
from novobench.places import display_path
from novobench.suite.checked_files import (
    SCHEMA,
    Flag,
    Integer,
    Name,
    OptionalNumber,
    Text,
    check_line,
    csv_bytes,
    read_lines,
)
from novobench.suite.collection import undamaged
from novobench.suite.experiment import Experiment, Row, row_config
from novobench.suite.plan import PlannedCell


class SearchLine(NamedTuple):
    """A line of `search.csv`: one cell (training run) of a trial."""

    schema: Integer
    key: Name
    experiment: Name
    row: Name
    optimizer: Name
    trial: Integer
    rates: Text
    seed: Integer
    cell: Name
    split: Text
    metric: Name
    value: OptionalNumber
    """Empty if the training failed, `nan` if it ended in a number that is not finite."""
    chosen: Flag


@dataclass(frozen=True)
class Trial:
    """One set of rates for a key, with all its seeds."""

    key: str
    row: Row
    number: int
    rates: dict[str, float]
    cells: list[PlannedCell]


def trials(
    experiment: Experiment, scale: str, budget: int, seeds: Sequence[int], keys: Sequence[str] = ()
) -> list[Trial]:
    """`budget` trials per key that the experiment's rows name as `tuned`, or per key in `keys`.

    A key gets the recipe of the first row that names it. Raises ConfigError for a key that no row names.
    """
    rows: dict[str, Row] = {}
    for row in experiment.rows:
        if (key := row.tuned_key(scale)) is not None:
            rows.setdefault(key, row)
    if not rows:
        raise ConfigError(f"{experiment.name} has no row with `tuned:` at {scale} scale; there is nothing to search.")
    for key in keys:
        if key not in rows:
            problem = f"--keys: no row of {experiment.name} has `tuned: {key}` at {scale} scale."
            raise ConfigError(f"{problem}{suggestion(key, list(rows))} Known: {', '.join(rows)}.")
    result = []
    for key, row in rows.items():
        if keys and key not in keys:
            continue
        for trial_number, rates in enumerate(_points(experiment, row, scale, budget)):
            config = row_config(experiment, row, scale, seeds[0], extra={"purpose": "search"}, rates=rates)
            assert config is not None  # a row with a key has a cell
            ids = zip(seeds, cell_ids(config, seeds), strict=True)
            cells = [PlannedCell(replace(config, seed=seed), [f"search/{key}"], id) for seed, id in ids]
            result.append(Trial(key, row, trial_number, rates, cells))
    return result


def _points(experiment: Experiment, row: Row, scale: str, budget: int) -> list[dict[str, float]]:
    """Sobol points over the ranges, log-uniform, rounded to two digits to keep configs readable."""
    from scipy.stats import qmc

    config = row_config(experiment, row, scale, 0, rates={"optimizer.lr": 1.0})
    assert config is not None  # a row with a key has a cell
    name = config.optimizer.name
    ranges = experiment.search.ranges.get(name)
    if ranges is None:
        ranges = {f"optimizer.{key}": [bounds.low, bounds.high] for key, bounds in registry.get(name).tunable.items()}
    if not ranges:
        raise ConfigError(
            f"row '{row.id}': optimizer '{name}' has no tunable parameters. Name their ranges in "
            f"{display_path(experiment.file)}, under `search:`."
        )
    low, high = ([math.log(float(bounds[i])) for bounds in ranges.values()] for i in (0, 1))
    sampler = qmc.Sobol(len(ranges), scramble=True, rng=0)
    points = qmc.scale(sampler.random_base2(math.ceil(math.log2(budget)))[:budget], low, high)
    return [{key: float(f"{math.exp(x):.2g}") for key, x in zip(ranges, point, strict=True)} for point in points]


def conclude(experiment: Experiment, scale: str, done: Sequence[Trial], command: str) -> dict[str, Trial]:
    """Write `search.csv` and the tuned rates; returns the best trial per key.

    The best trial has the best mean over seeds of the first column's metric on the split of role `search`; `better` of
    that column says which direction is better. A trial with a failed cell cannot win.

    Raises NovobenchError, with nothing written, if the trials of a key were trained on different data, if none of them
    can win, or if `search.csv` is damaged.
    """
    column, task = experiment.columns[0], experiment.task
    sign = 1.0 if column.better == "larger" else -1.0
    outcomes = {
        cell.id: _outcome(cell, column.metric) for trial in done for cell in trial.cells if cell.folder.finished
    }
    _check_same_data(done, outcomes)
    scores = {(trial.key, trial.number): _score(trial, outcomes, sign) for trial in done}
    best: dict[str, Trial] = {}
    for trial in done:
        leader = best.setdefault(trial.key, trial)
        if scores[trial.key, trial.number] > scores[leader.key, leader.number]:
            best[trial.key] = trial
    if hopeless := [key for key, trial in best.items() if scores[key, trial.number] == -math.inf]:
        raise NovobenchError(
            f"Every trial of {', '.join(hopeless)} failed or ended in a {column.metric} that is not finite, so nothing "
            "was written; see their log.txt in runs/."
        )
    split = next((outcome.split for outcome in outcomes.values()), "")
    lines = [
        check_line(
            SearchLine(
                schema=str(SCHEMA),
                key=trial.key,
                experiment=experiment.name,
                row=trial.row.id,
                optimizer=cell.config.optimizer.name,
                trial=str(trial.number),
                rates=" ".join(f"{key}={value:g}" for key, value in trial.rates.items()),
                seed=str(cell.config.seed),
                cell=cell_id(cell.config),
                split=split,
                metric=column.metric,
                value=f"{outcomes[cell.id].value:.6g}" if cell.id in outcomes else "",
                chosen=str(int(best[trial.key] is trial)),
            )
        )
        for trial in done
        for cell in trial.cells
    ]
    kept = [line for line in _read_search(task, scale) if line.key not in best or not _is_of_task(line, task)]
    write_bytes(_search_path(scale), csv_bytes(SearchLine._fields, [*kept, *lines]))
    _write_tuned(task, scale, best, column.metric, command)
    return best


@dataclass(frozen=True)
class _Outcome:
    """What a finished cell of a trial is judged by."""

    split: str
    value: float
    """NaN if it is not finite."""
    fingerprint: str
    """Of the data."""


def _outcome(cell: PlannedCell, metric: str) -> _Outcome:
    with undamaged(cell.folder, "record.json"):
        record = cell.folder.read_record()
        if record.search_split is None:
            raise ValueError("it has no search split")
        value = record.metrics[record.search_split][metric].value
        return _Outcome(record.search_split, number(value), record.fingerprint)


def _check_same_data(done: Sequence[Trial], outcomes: Mapping[str, _Outcome]) -> None:
    """Raise NovobenchError if the trials of a key were trained on different data."""
    fingerprints: dict[str, set[str]] = {}
    for trial in done:
        own = {outcomes[cell.id].fingerprint for cell in trial.cells if cell.id in outcomes}
        fingerprints.setdefault(trial.key, set()).update(own)
    for key, names in fingerprints.items():
        if len(names) > 1:
            raise NovobenchError(
                f"The trials of {key} were trained on different data ({', '.join(sorted(names))}), so none of them is "
                "the best. Restore the data, and remove the run folders of the trials on other data."
            )


def _score(trial: Trial, outcomes: Mapping[str, _Outcome], sign: float) -> float:
    """The trial's mean over seeds times `sign`: larger is better. -inf unless every seed has a finite value."""
    values = [outcomes[cell.id].value for cell in trial.cells if cell.id in outcomes]
    finite = [value for value in values if math.isfinite(value)]
    return sign * math.fsum(finite) / len(finite) if len(finite) == len(trial.cells) else -math.inf


# ---------------------------------------------------------------------------------------------- files


def _search_path(scale: str) -> Path:
    return places.workspace().results(scale) / "search.csv"


def _is_of_task(line: SearchLine, task: str) -> bool:
    return line.cell.startswith(f"{task}-")  # two tasks may use the same key


def _read_search(task: str, scale: str) -> list[SearchLine]:
    """The lines of `search.csv`. Raises NovobenchError if the file is damaged or lacks the trial that won a search."""
    path = _search_path(scale)
    lines = read_lines(path, SearchLine, unique=("key", "trial", "seed", "cell"))
    chosen = _chosen_keys(lines, task)
    without_winner = [line.key for line in lines if _is_of_task(line, task) and line.key not in chosen]
    if without_winner:
        raise NovobenchError(
            f"{display_path(path)} lacks the chosen trial of {', '.join(dict.fromkeys(without_winner))}, so some of "
            "its lines are lost. Restore it from git, or remove the other lines of the key and search it again."
        )
    return lines


def _chosen_keys(lines: Sequence[SearchLine], task: str) -> set[str]:
    return {line.key for line in lines if line.chosen == "1" and _is_of_task(line, task)}


def untraced(task: str, scale: str) -> list[str]:
    """Keys of tuned rates of the task that no trial in `search.csv` led to."""
    chosen = _chosen_keys(_read_search(task, scale), task)
    return [key for key in read_yaml(places.workspace().tuned_rates(task, scale)) if key not in chosen]


def _write_tuned(task: str, scale: str, best: dict[str, Trial], metric: str, command: str) -> None:
    path = places.workspace().tuned_rates(task, scale)
    tuned = (read_yaml(path) if path.exists() else {}) | {key: dict(trial.rates) for key, trial in best.items()}
    header = (
        f"# Rates of the {task} rows at {scale} scale, found by `novobench search`; not edited by hand.\n"
        f"# Every trial and seed is in results/{scale}/search.csv; the best mean {metric} on the held-out split wins.\n"
        f"# Last command: {command}\n"
    )
    write_text(path, header + yaml.safe_dump(dict(sorted(tuned.items())), sort_keys=False))
