"""`compare`: which optimizer is better on a task? Equal searches, fresh paired seeds, then a test.

Each optimizer gets the same number of trials. Its best rates are trained again with seeds that no search has seen, the
same for all optimizers, and with the rate times ¼, ½, 2 and 4. Cells (training runs) are shared with every other
comparison that needs them, so a repeated command, another seed or another optimizer trains only what is missing.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from novobench import places
from novobench.config_loading import check_overridable
from novobench.console import console, counted, duration
from novobench.errors import ConfigError, NovobenchError, suggestion
from novobench.optim import registry
from novobench.places import display_path
from novobench.seeds import FIRST_SEED
from novobench.suite.collection import collect
from novobench.suite.compare_files import declare, write_report
from novobench.suite.compare_outcome import Compared, Contest, Declaration
from novobench.suite.compare_report import markdown
from novobench.suite.contest import Contestant, contest, contestants, lowest_rates
from novobench.suite.executors import default_jobs
from novobench.suite.experiment import Experiment, Row
from novobench.suite.forecast import forecast, measured_speeds
from novobench.suite.identity import changed_data_errors
from novobench.suite.plan import PlannedCell, PlannedRow
from novobench.suite.results import Results, locked
from novobench.suite.row_configs import row_config
from novobench.suite.runner import check_writable, summarize, train
from novobench.suite.search import print_failures, search_lines, train_rounds
from novobench.suite.search_file import SearchedKey, SearchLine, searched_keys
from novobench.suite.search_space import LAST_ROUND, check_power_of_two
from novobench.suite.table_rows import table_rows
from novobench.suite.trials import best_trials, check_ranges, outcomes_of, rows_to_search, trials
from novobench.suite.verdicts import verdicts
from novobench.tasks.catalog import task_config, task_names

RATE_FACTORS = (0.25, 0.5, 2.0, 4.0)
"""Of the best rate: how much does a comparison depend on it?"""
_RATE_SEEDS = 2
"""Seeds for each of these factors."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    optimizers: Sequence[str]
    """Names; the first is compared with each of the others."""
    tasks: Sequence[str]
    scale: str
    seeds: int
    """Compared cells per optimizer."""
    trials: int
    """Per optimizer and round, a power of two."""
    rates: Path | None = None
    """See `contest.contestants`."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Dotted overrides of every config."""
    targets: Mapping[str, float] = field(default_factory=dict)
    """Metric -> the value that updates and time are measured to."""
    margins: Mapping[str, float] = field(default_factory=dict)
    """Metric -> the largest difference that does not matter."""
    name: str = ""
    """Of the folder; made of task and optimizers if it is empty."""
    command: str = ""


def compare(request: Request, jobs: int | None, *, dry_run: bool = False) -> int:
    """Run a comparison and write `results/<scale>/compare/<name>/`. Exit code 1 if a cell failed.

    dry_run: only print what would be trained and how long that takes.
    """
    out = console()
    entrants = _check(request)
    name = request.name or _name(request, entrants)
    contests = {
        task: contest(name, task, request.scale, entrants, request.trials, request.extra) for task in request.tasks
    }
    _check_metrics(request, list(contests.values()))
    for experiment in contests.values():
        if rows := _rows_to_search(experiment, request.scale):
            check_ranges(experiment, rows, request.scale, request.extra)
    if dry_run:
        _print_forecast(request, contests, jobs, out)
        return 0
    check_writable(request.scale)
    folder = places.workspace().results(request.scale) / "compare" / name
    declaration = declare(folder, request.command, request.targets, request.margins)
    searched = {task: _search(request, experiment, jobs, out) for task, experiment in contests.items()}
    plans = {task: _plan(request, experiment, searched[task].best) for task, experiment in contests.items()}
    cells = list({cell.id: cell for plan in plans.values() for cell in plan.cells}.values())
    failed = changed_data_errors(cells, out)
    failed |= train([cell for cell in cells if cell.id not in failed], Results.load(request.scale), jobs, out)
    finished = [cell for cell in cells if cell.id not in failed]
    problems = _report(request, folder, declaration, contests, searched, plans, finished, out)
    return summarize(failed, problems, cells)


# ---------------------------------------------------------------------------------------------- the request


def tasks_of(word: str) -> list[str]:
    """The tasks that `--task` names: one, or `all`. Raises ConfigError if there is no such task."""
    if word == "all":
        return task_names()
    task_config(word, "--task")
    return [word]


def _check(request: Request) -> list[Contestant]:
    """Raise ConfigError for a request that cannot be met; returns its optimizers."""
    if len(request.optimizers) < 2:
        raise ConfigError("compare needs two optimizers at least, e.g. novobench compare adamw novograd --task image.")
    if len(request.tasks) > 1 and any(key.startswith(("data.", "model.")) for key in request.extra):
        raise ConfigError("--set of `data.` and `model.` belongs to one task. Name it, e.g. --task image.")
    check_power_of_two(request.trials, "--trials")
    check_overridable(request.extra, "--set")
    if taken := [key for key in request.extra if key.startswith("optimizer.name")]:
        raise ConfigError(f"--set cannot set '{taken[0]}': the optimizers are those of the command.")
    if request.name and re.search(r"[^\w.+-]|^\.", request.name):
        raise ConfigError(f"--name '{request.name}' becomes a folder: use letters, digits, and - _ + . inside.")
    return contestants(request.optimizers, request.rates)


def _check_metrics(request: Request, experiments: Sequence[Experiment]) -> None:
    """Raise ConfigError for a target or margin of a metric that decides no comparison."""
    deciding = list(dict.fromkeys(experiment.columns[0].metric for experiment in experiments))
    for option, values in (("--target", request.targets), ("--margin", request.margins)):
        for metric, value in values.items():
            if metric not in deciding:
                raise ConfigError(
                    f"{option} {metric}: no comparison is decided by it.{suggestion(metric, deciding)} Deciding here: "
                    f"{', '.join(deciding)}."
                )
            if option == "--margin" and not value > 0:
                raise ConfigError(f"--margin {metric}={value:g} must be above 0.")


def metric_values(option: str, arguments: Sequence[str]) -> dict[str, float]:
    """`["ppl=80"]` from the command line -> `{"ppl": 80.0}`. Raises ConfigError if one is not a number of a metric."""
    values = {}
    for argument in arguments:
        metric, _, text = argument.partition("=")
        try:
            values[metric] = float(text)
        except ValueError:
            values[metric] = math.nan
        if not metric or not math.isfinite(values[metric]):
            raise ConfigError(f"{option} {argument}: write METRIC=VALUE with a number, e.g. ppl=80.")
    return values


def _name(request: Request, entrants: Sequence[Contestant]) -> str:
    data = str(request.extra.get("data.name", ""))
    task = request.tasks[0] if len(request.tasks) == 1 else "all"
    parts = [task, *([re.sub(r"[^\w-]+", "-", data)] if data else []), *(each.id for each in entrants)]
    return "-".join(parts)[:100]


# ---------------------------------------------------------------------------------------------- searching


@dataclass(frozen=True)
class Searched:
    """The outcome of the searches on one task."""

    best: Mapping[str, Mapping[str, float]]
    """Row id -> the best rates; without the rows whose rates are given."""
    lines: Sequence[SearchLine]
    keys: Sequence[SearchedKey]
    failures: int
    """Cells of trials that failed."""


def _rows_to_search(experiment: Experiment, scale: str) -> dict[str, Row]:
    """Key -> row; empty if all rates are given."""
    return rows_to_search(experiment, scale) if any(row.tuned_key(scale) for row in experiment.rows) else {}


def _search(request: Request, experiment: Experiment, jobs: int | None, out: Console) -> Searched:
    rows = _rows_to_search(experiment, request.scale)
    if not rows:
        return Searched({}, [], [], 0)
    search, extra = experiment.search, {**request.extra, "runtime.curve_points": 1}
    out.print(f"Searching rates on {experiment.task}.")
    done, failed = train_rounds(experiment, rows, request.scale, search.trials, search.seeds, 0, jobs, extra, out)
    print_failures(failed, out)
    best = best_trials(experiment, done, outcomes_of(done, experiment.columns[0].metric))
    lines = search_lines(experiment, done, best)
    rates = {key: trial.rates for key, trial in best.items()}
    return Searched(rates, lines, searched_keys(lines), len(failed))


# ---------------------------------------------------------------------------------------------- planning


@dataclass(frozen=True)
class TaskPlan:
    """The cells that compare the optimizers on one task."""

    rows: Sequence[PlannedRow]
    compared: Mapping[str, Sequence[PlannedCell]]
    """Row id -> its cells, one per seed."""
    at_rates: Mapping[str, Mapping[float, Sequence[PlannedCell]]]
    """Row id -> factor on the best rate -> cells, which see no test set."""

    @property
    def cells(self) -> list[PlannedCell]:
        at_rates = [cell for factors in self.at_rates.values() for cells in factors.values() for cell in cells]
        return [cell for cells in self.compared.values() for cell in cells] + at_rates


def _plan(request: Request, experiment: Experiment, best: Mapping[str, Mapping[str, float]]) -> TaskPlan:
    seeds = range(FIRST_SEED, FIRST_SEED + request.seeds)
    rows: list[PlannedRow] = []
    compared: dict[str, list[PlannedCell]] = {}
    at_rates: dict[str, dict[float, list[PlannedCell]]] = {}
    for row in experiment.rows:
        config = row_config(experiment, row, request.scale, 0, request.extra, best.get(row.id))
        assert config is not None  # every row has a cell at every scale
        rows.append(PlannedRow(row, config, searched=False))
        compared[row.id] = [PlannedCell(dataclasses.replace(config, seed=seed), [row.label]) for seed in seeds]
        at_rates[row.id] = {}
        has_rate = "lr" in registry.get(config.optimizer.name).takes
        for factor in RATE_FACTORS if has_rate else ():
            lr = float(f"{config.optimizer.lr * factor:.4g}")
            optimizer = dataclasses.replace(config.optimizer, lr=lr)
            other = dataclasses.replace(config, optimizer=optimizer, purpose="search")
            at_rates[row.id][factor] = [
                PlannedCell(dataclasses.replace(other, seed=seed), [f"{row.label}, rate × {factor:g}"])
                for seed in seeds[:_RATE_SEEDS]
            ]
    return TaskPlan(rows, compared, at_rates)


def _print_forecast(request: Request, contests: Mapping[str, Experiment], jobs: int | None, out: Console) -> None:
    """The number of cells and the expected time: with one round of trials, and with all rounds."""
    speeds = measured_speeds(Results.load(request.scale))
    least = most = 0.0
    unknown, at_a_time = False, 1
    for task, experiment in contests.items():
        rows = _rows_to_search(experiment, request.scale)
        seconds = {}
        for row in experiment.rows:
            rates = lowest_rates(experiment, row, request.scale)
            config = row_config(experiment, row, request.scale, FIRST_SEED, request.extra, rates)
            assert config is not None
            cell = PlannedCell(config)
            expected, at_a_time = forecast(cell, speeds).seconds, jobs or default_jobs([cell])
            seconds[row.id] = expected or 0.0
            unknown = unknown or expected is None
        search = experiment.search
        first = trials(
            experiment, rows, request.scale, number=search.trials, seeds=search.seeds, extra=request.extra
        ) if rows else []  # fmt: skip
        finished = sum(cell.folder.finished for trial in first for cell in trial.cells)
        per_round = len(first) * search.seeds
        compared = len(experiment.rows) * request.seeds
        at_rates = len(experiment.rows) * len(RATE_FACTORS) * min(_RATE_SEEDS, request.seeds)
        mean = sum(seconds.values()) / len(seconds)
        least += mean * (per_round - finished + compared + at_rates)
        most += mean * ((LAST_ROUND + 1) * per_round - finished + compared + at_rates)
        out.print(
            f"{task}: {counted(len(first), 'trial')} per round ({finished} of {per_round} cells finished), at most "
            f"{LAST_ROUND + 1} rounds; then {compared} compared cells, and {at_rates} at other rates. One cell takes "
            f"about {duration(mean)}."
        )
    note = " (the speed of some is unknown and counts as none)" if unknown else ""
    out.print(
        f"Training, {at_a_time} at a time: {duration(least / at_a_time)} with one round of trials, "
        f"{duration(most / at_a_time)} with all{note}. Cells that other commands have trained are not trained again."
    )


# ---------------------------------------------------------------------------------------------- reporting


def _report(
    request: Request,
    folder: Path,
    declaration: Declaration,
    contests: Mapping[str, Experiment],
    searched: Mapping[str, Searched],
    plans: Mapping[str, TaskPlan],
    finished: Sequence[PlannedCell],
    out: Console,
) -> list[str]:
    """Collect the finished cells, write the files and print the report; returns the problems."""
    with locked(request.scale):
        results = Results(request.scale, folder=folder)
        problems = collect((cell.folder for cell in finished), results)
        found = []
        for task, experiment in contests.items():
            plan = plans[task]
            rows = table_rows(experiment, results, plan.rows)
            splits = {split for cells in plan.compared.values() for cell in cells if (split := _search_split(cell))}
            metric = experiment.columns[0].metric
            found.append(
                Contest(
                    experiment=experiment,
                    rows=rows,
                    results=results,
                    search_split=min(splits, default=""),
                    searched={each.key: each for each in searched[task].keys},
                    failed_trials=searched[task].failures,
                    at_rates={
                        row: {factor: [cell.id for cell in cells] for factor, cells in factors.items()}
                        for row, factors in plan.at_rates.items()
                    },
                    state={each.row.id: _state_bytes(each) for each in plan.rows},
                    margin=request.margins.get(metric),
                    declared_target=request.targets.get(metric),
                )
            )
        family = iter(verdicts([pairs for each in found for pairs in each.pairs]))
        decided = [[next(family) for _ in each.pairs] for each in found]
        compared = [cell for plan in plans.values() for cells in plan.compared.values() for cell in cells]
        late = sum(_finished(cell) < declaration.declared for cell in compared if cell in finished)
        report = Compared(request.scale, found, decided, declaration, late)
        lines = [line for each in searched.values() for line in each.lines]
        write_report(folder, report, lines)
    out.print(Markdown(markdown(report)))
    out.print(f"Written: {display_path(folder)}")
    return problems


def _state_bytes(row: PlannedRow) -> tuple[int, int] | str:
    """Bytes of the optimizer's state and the number of parameters; why they are unknown if the optimizer fails."""
    from novobench.optim import third_party
    from novobench.training.state_size import state_bytes

    assert row.config is not None
    try:
        with third_party.guarded():
            return state_bytes(row.config)
    except Exception as error:  # of the optimizer; its cells have failed, too
        return f"unknown: {third_party.type_and_message(error)}"


def _finished(cell: PlannedCell) -> str:
    """When a cell finished; after any time if its record is damaged, which the collection reports."""
    try:
        return cell.folder.read_record().finished
    except (NovobenchError, ValueError, OSError):
        return "9999"


def _search_split(cell: PlannedCell) -> str:
    """The split that a finished cell's curves show; empty if the cell has not finished."""
    try:
        return (cell.folder.read_record().search_split or "") if cell.folder.finished else ""
    except (NovobenchError, ValueError, OSError):  # the collection reports it
        return ""
