"""Learning rates by search: the same quasi-random budget for each optimizer, judged on the `search` split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import yaml

from novobench import places
from novobench.config import cell_id, cell_ids, read_yaml
from novobench.errors import ConfigError, NovobenchError, suggestion
from novobench.files import number, write_csv, write_text
from novobench.optim import registry
from novobench.places import display_path
from novobench.suite.checked_files import (
    SCHEMA,
    Kinds,
    Line,
    check_line,
    name,
    number_or_empty,
    read_lines,
    yes_or_no,
)
from novobench.suite.collection import undamaged
from novobench.suite.experiment import Experiment, Row, row_config
from novobench.suite.plan import PlannedCell

KINDS: Kinds = {
    "schema": int, "key": name, "experiment": name, "row": name, "optimizer": name, "trial": int, "rates": str,
    "seed": int, "cell": name, "split": str, "metric": name, "value": number_or_empty, "chosen": yes_or_no,
}  # fmt: skip
FIELDS = tuple(KINDS)
"""Of `search.csv`. `value` is empty where the training failed, `nan` where it ended in no finite number."""


@dataclass(frozen=True)
class Trial:
    """One set of rates for one key, over all seeds."""

    key: str
    row: Row
    number: int
    rates: dict[str, float]
    cells: list[PlannedCell]


def trials(
    experiment: Experiment, scale: str, budget: int, seeds: Sequence[int], keys: Sequence[str] = ()
) -> list[Trial]:
    """`budget` trials for each key that the experiment's rows name, or for those in `keys`, from the first row that
    names it. Raises ConfigError for a key that no row names."""
    first: dict[str, Row] = {}
    for row in experiment.rows:
        key = row.tuned_key(scale)
        if key is not None:
            first.setdefault(key, row)
    if not first:
        raise ConfigError(f"{experiment.name} has no row with `tuned:` at {scale} scale; there is nothing to search.")
    for key in keys:
        if key not in first:
            there = f"--keys: no row of {experiment.name} has `tuned: {key}` at {scale} scale."
            raise ConfigError(f"{there}{suggestion(key, list(first))} Known: {', '.join(first)}.")
    found = []
    for key, row in ((key, row) for key, row in first.items() if not keys or key in keys):
        for trial, rates in enumerate(_points(experiment, row, scale, budget)):
            config = row_config(experiment, row, scale, seeds[0], extra={"purpose": "search"}, rates=rates)
            assert config is not None  # a row with a key has a cell
            ids = zip(seeds, cell_ids(config, seeds), strict=True)
            cells = [PlannedCell(replace(config, seed=seed), [f"search/{key}"], id) for seed, id in ids]
            found.append(Trial(key, row, trial, rates, cells))
    return found


def _points(experiment: Experiment, row: Row, scale: str, budget: int) -> list[dict[str, float]]:
    """Sobol points over the ranges, log-uniform, rounded to two digits so that a config stays readable."""
    from scipy.stats import qmc

    config = row_config(experiment, row, scale, 0, rates={"optimizer.lr": 1.0})
    assert config is not None  # a row with a key has a cell
    name = config.optimizer.name
    ranges = experiment.search.ranges.get(name)
    if ranges is None:
        ranges = {f"optimizer.{key}": [bounds.low, bounds.high] for key, bounds in registry.get(name).tunable.items()}
    if not ranges:
        told = f"optimizer '{name}' has nothing to tune; say in {display_path(experiment.file)} what, below `search:`."
        raise ConfigError(f"row '{row.id}': {told}")
    low, high = ([math.log(float(bounds[i])) for bounds in ranges.values()] for i in (0, 1))
    sampler = qmc.Sobol(len(ranges), scramble=True, rng=0)
    points = qmc.scale(sampler.random_base2(math.ceil(math.log2(budget)))[:budget], low, high)
    return [{key: float(f"{math.exp(x):.2g}") for key, x in zip(ranges, point, strict=True)} for point in points]


def conclude(experiment: Experiment, scale: str, done: Sequence[Trial], command: str) -> dict[str, Trial]:
    """Write `search.csv` and the tuned rates; returns the best trial of each key.

    The best has the best mean over seeds, on the split of role `search`, of the first column's metric, larger or
    smaller as that column says; a trial with a failed cell cannot win.
    """
    column = experiment.columns[0]
    sign = 1.0 if column.better == "larger" else -1.0
    read = {cell.id: _judged(cell, column.metric) for trial in done for cell in trial.cells if cell.folder.finished}
    split = next((found.split for found in read.values()), "")
    values = {
        (trial.key, trial.number): [read[cell.id].value if cell.id in read else None for cell in trial.cells]
        for trial in done
    }
    best: dict[str, Trial] = {}
    for trial in done:
        score = _score(values[trial.key, trial.number], sign)
        if score > _score(values[best[trial.key].key, best[trial.key].number], sign) if trial.key in best else True:
            best[trial.key] = trial
    for key in best:
        data = {read[cell.id].fingerprint for t in done if t.key == key for cell in t.cells if cell.id in read}
        if len(data) > 1:
            raise NovobenchError(
                f"The trials of {key} saw different data ({', '.join(sorted(data))}), so none is the best. Restore the "
                "data, and remove the run folders of the trials that saw others."
            )
    lines = [
        {
            "schema": SCHEMA,
            "key": trial.key,
            "experiment": experiment.name,
            "row": trial.row.id,
            "optimizer": cell.config.optimizer.name,
            "trial": trial.number,
            "rates": " ".join(f"{key}={value:g}" for key, value in trial.rates.items()),
            "seed": cell.config.seed,
            "cell": cell_id(cell.config),
            "split": split,
            "metric": column.metric,
            "value": "" if value is None else f"{value:.6g}",
            "chosen": int(best[trial.key] is trial),
        }
        for trial in done
        for cell, value in zip(trial.cells, values[trial.key, trial.number], strict=True)
    ]
    hopeless = [key for key, trial in best.items() if _score(values[key, trial.number], sign) == -math.inf]
    if hopeless:
        raise NovobenchError(
            f"Every trial of {', '.join(hopeless)} failed or ended in a {column.metric} that is not finite, so nothing "
            "was written; see their log.txt in runs/."
        )
    path, task = places.workspace().results(scale) / "search.csv", experiment.task
    kept = [line for line in _read_search(task, scale) if line["key"] not in best or not _of(line, task)]
    new = [check_line({column: str(text) for column, text in line.items()}, KINDS) for line in lines]
    write_csv(path, FIELDS, [*kept, *new])
    _write_tuned(task, scale, best, column.metric, command)
    return best


@dataclass(frozen=True)
class _Judged:
    """What decides about a trial's cell; `value` is NaN where it is not finite."""

    split: str
    value: float
    fingerprint: str


def _judged(cell: PlannedCell, metric: str) -> _Judged:
    with undamaged(cell.folder, "record.json"):
        record = cell.folder.read_record()
        split = record["search_split"]
        return _Judged(split, number(record["metrics"][split][metric]["value"]), str(record.get("fingerprint")))


def _of(line: Line, task: str) -> bool:
    return line["cell"].startswith(f"{task}-")  # two tasks may use one key


def _read_search(task: str, scale: str) -> list[Line]:
    """The lines of `search.csv`. Raises NovobenchError if the file is damaged, or lacks the trial that won a search."""
    path = places.workspace().results(scale) / "search.csv"
    lines = read_lines(path, KINDS, ("key", "trial", "seed", "cell"))
    chosen = {line["key"] for line in lines if line["chosen"] == "1" and _of(line, task)}
    lost = [line["key"] for line in lines if _of(line, task) and line["key"] not in chosen]
    if lost:
        raise NovobenchError(
            f"{display_path(path)} lacks the chosen trial of {', '.join(dict.fromkeys(lost))}, so lines of it are "
            "lost. Restore it from git, or take out the lines that are left of them and search them again."
        )
    return lines


def untraced(task: str, scale: str) -> list[str]:
    """Tuned rates of the task that no trial in `search.csv` gave."""
    chosen = {line["key"] for line in _read_search(task, scale) if line["chosen"] == "1" and _of(line, task)}
    return [key for key in read_yaml(places.workspace().tuned_rates(task, scale)) if key not in chosen]


def _score(values: Sequence[float | None], sign: float) -> float:
    """The larger the better; -inf unless every seed has a finite number."""
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    return sign * math.fsum(numbers) / len(numbers) if len(numbers) == len(values) else -math.inf


def _write_tuned(task: str, scale: str, best: dict[str, Trial], metric: str, command: str) -> None:
    path = places.workspace().tuned_rates(task, scale)
    tuned = (read_yaml(path) if path.exists() else {}) | {key: dict(trial.rates) for key, trial in best.items()}
    header = (
        f"# Rates of the {task} rows at {scale} scale, found by `novobench search`; not edited by hand.\n"
        f"# Every trial and seed is in results/{scale}/search.csv; the best mean {metric} on the held-out split wins.\n"
        f"# Last command: {command}\n"
    )
    write_text(path, header + yaml.safe_dump(dict(sorted(tuned.items())), sort_keys=False))
