"""`search`: the same number of quasi-random trials per optimizer, in rounds of wider ranges; writes the best rates.

A round tries `trials` points per key. If the best trial of some key is at an edge of what was tried, all keys of the
experiment get another round, over ranges that are wider by one factor, so that all optimizers have as many trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from rich.console import Console

from novobench import places
from novobench.config import cell_id
from novobench.config_loading import check_overridable, read_yaml
from novobench.console import console, counted
from novobench.errors import DataError, NovobenchError
from novobench.files import write_bytes, write_text
from novobench.places import display_path
from novobench.suite.checked_files import SCHEMA, check_line, csv_bytes
from novobench.suite.experiment import Experiment, Row, load_experiment
from novobench.suite.identity import changed_data_errors
from novobench.suite.markdown_text import four_digits
from novobench.suite.plan import PlannedCell
from novobench.suite.results import Results, locked
from novobench.suite.runner import check_writable, train
from novobench.suite.search_file import (
    SearchedKey,
    SearchLine,
    is_of_task,
    rates_text,
    read_search,
    search_path,
    searched_keys,
)
from novobench.suite.search_space import LAST_ROUND, check_power_of_two, edge_text, edges
from novobench.suite.trials import Trial, best_trials, check_keys, check_ranges, outcomes_of, rows_to_search, trials
from novobench.suite.tuning_curves import write_tuning_curves


def search(
    experiments: Sequence[Experiment],
    scale: str,
    number: int | None,
    seeds: int | None,
    study: int,
    jobs: int | None,
    keys: Sequence[str],
    extra: Mapping[str, Any] | None = None,
) -> int:
    """Search the experiments one after another; writes `search.csv` and, in study 0, the tuned rates after each.

    `number` (of trials) and `seeds` replace those of the experiments. `keys` selects the sets of rates to search, none
    means all that no other experiment searches; ranges are widened for the selected ones only. If `extra`,
    overrides of a command line, change the recipe or the data, the outcome is printed but not written.
    """
    extra = extra or {}
    check_overridable(extra, "--set")
    out = console()
    check_writable(scale)
    if number is not None:
        check_power_of_two(number, "--trials")
    check_keys(keys, experiments, scale)
    # A damaged `search.csv` is reported here, before hours of training.
    owners = {(each.task, each.key): each for each in searched_keys(read_search(scale)) if each.study == 0}
    searches: list[tuple[Experiment, dict[str, Row]]] = []
    taken: set[tuple[str, str]] = set()
    for experiment in experiments:
        rows = {}
        for key, row in rows_to_search(experiment, scale).items():
            name = experiment.task, key
            if (keys and key not in keys) or name in taken:
                continue
            if not keys and not extra and name in owners and _belongs_to_another(owners[name], experiment, scale):
                owner = owners[name].experiment
                out.print(f"{experiment.name}: {key} was searched for {owner} and stays so. --keys {key} searches it.")
                continue
            rows[key] = row
            taken.add(name)
        check_ranges(experiment, rows, scale, extra)
        searches.append((experiment, rows))
    for experiment, rows in searches:
        if rows:
            counts = number or experiment.search.trials, seeds or experiment.search.seeds
            _search(experiment, rows, scale, *counts, study, jobs, extra, out)
    return 0


def _belongs_to_another(searched: SearchedKey, experiment: Experiment, scale: str) -> bool:
    """Whether a key was searched for another experiment, which still names it and declares ranges for its optimizer.

    The other table would lose its equal numbers of trials if this experiment's search replaced the trials.
    """
    if searched.experiment == experiment.name:
        return False
    try:
        other = load_experiment(searched.experiment)
        return searched.key in rows_to_search(other, scale) and searched.optimizer in other.search.ranges
    except NovobenchError:  # it was removed, is being edited or has no keys any more
        return False


def _search(
    experiment: Experiment,
    rows: Mapping[str, Row],
    scale: str,
    number: int,
    seeds: int,
    study: int,
    jobs: int | None,
    extra: Mapping[str, Any],
    out: Console,
) -> None:
    """One experiment: train all rounds, then write the files and print the outcome."""
    done, failed = train_rounds(experiment, rows, scale, number, seeds, study, jobs, extra, out)
    if not _is_own_recipe(experiment, rows, scale, extra):
        best = best_trials(experiment, done, outcomes_of(done, experiment.columns[0].metric))
        for each in searched_keys(search_lines(experiment, done, best)):
            _print_outcome(each, out)
        out.print("Nothing was written: the recipe or the data are others than the tables'. The cells stay in runs/.")
        print_failures(failed, out)
        return
    all_keys = rows.keys() == rows_to_search(experiment, scale).keys()
    only = "" if all_keys else f" --keys {' '.join(rows)}"
    command = f"novobench search {experiment.name} --scale {scale} --trials {number} --seeds {seeds}{only}"
    with locked(scale):
        conclude(experiment, scale, done, command)
        written = [search_path(scale), *write_tuning_curves([experiment], scale)]
    lines = read_search(scale)
    for each in searched_keys(lines, experiment.task):
        if each.key in rows and each.study == study:
            _print_outcome(each, out)
    for key in rows:
        _print_studies([each for each in searched_keys(lines, experiment.task) if each.key == key], out)
    for path in written:
        out.print(f"Written: {display_path(path)}")
    tuned = display_path(places.workspace().tuned_rates(experiment.task, scale))
    if study == 0:
        out.print(f"Written: {tuned}")
    if missing := untraced(experiment.task, scale):
        out.print(
            f"{display_path(search_path(scale))} has no trials for these rates in {tuned}: {', '.join(missing)}. "
            "Restore it from git, or search them again."
        )
    print_failures(failed, out)


def _is_own_recipe(experiment: Experiment, rows: Mapping[str, Row], scale: str, extra: Mapping[str, Any]) -> bool:
    """Whether overrides leave the cells of a search what they are without them."""
    with_extra, without = (
        [trial.cells[0].id for trial in trials(experiment, rows, scale, number=1, seeds=1, extra=overrides)]
        for overrides in (extra, {})
    )
    return with_extra == without


def print_failures(failed: Mapping[str, str], out: Console) -> None:
    """Say how many cells of a search failed, and why the first did."""
    if failed:
        first = next(iter(failed.values()))
        out.print(f"{counted(len(failed), 'cell')} failed, and their trials cannot win. The first error: {first}")


def train_rounds(
    experiment: Experiment,
    rows: Mapping[str, Row],
    scale: str,
    number: int,
    seeds: int,
    study: int,
    jobs: int | None,
    extra: Mapping[str, Any],
    out: Console,
) -> tuple[list[Trial], dict[str, str]]:
    """Train round by round, `number` trials per key and round, until no best trial is at an edge of what was tried.

    Returns the trials of all rounds, and the errors by cell id. Raises DataError if data have changed since cells of
    the search finished.
    """
    done: list[Trial] = []
    failed: dict[str, str] = {}
    for round in range(LAST_ROUND + 1):
        out.print(f"{experiment.name}, round {round + 1}: {counted(number, 'trial')} for each of {', '.join(rows)}.")
        new = trials(experiment, rows, scale, number=number, seeds=seeds, study=study, round=round, extra=extra)
        cells = list({cell.id: cell for trial in new for cell in trial.cells}.values())
        for cell, error in changed_data_errors(cells, out).items():
            raise DataError(f"{cell}: {error}")
        failed |= train(cells, Results.load(scale), jobs, out)
        done += new
        try:
            at_edge = _at_edge(experiment, done)
        except NovobenchError as error:
            first = next(iter(failed.values()), "")
            raise NovobenchError(f"{error} The first error: {first}" if first else str(error)) from None
        for text in at_edge:
            out.print(text)
        if not at_edge:
            break
        if round < LAST_ROUND:
            out.print(f"All ranges are widened {experiment.search.widen:g}-fold on both sides.")
    return done, failed


def _at_edge(experiment: Experiment, done: Sequence[Trial]) -> list[str]:
    """A sentence for each key whose best trial is at an edge of what was tried."""
    best = best_trials(experiment, done, outcomes_of(done, experiment.columns[0].metric))
    tried = {key: [trial.rates for trial in done if trial.key == key] for key in best}
    edges_by_key = {key: edges(trial.rates, tried[key]) for key, trial in best.items()}
    return [f"{key}: {edge_text(best[key].rates, at_edge)}." for key, at_edge in edges_by_key.items() if at_edge]


def _print_outcome(searched: SearchedKey, out: Console) -> None:
    best = searched.best
    assert best.mean is not None  # it could not have won
    rates = ", ".join(f"{key} {value:g}" for key, value in best.rates.items())
    score = f"{searched.split} {searched.metric} {four_digits(best.mean)}"
    rounds = f"best in round {best.round + 1} of {searched.rounds}"
    edge = f"; still at an edge: {edge_text(best.rates, searched.edges)}" if searched.edges else ""
    out.print(f"{searched.key}: {rates}; {score}; {rounds}{edge}")


def _print_studies(studies: Sequence[SearchedKey], out: Console) -> None:
    """How far the best values of independent studies of one key are apart."""
    means = {each.study: each.best.mean for each in studies if each.best.mean is not None}
    if len(means) > 1:
        values = ", ".join(f"{four_digits(mean)} (study {study})" for study, mean in sorted(means.items()))
        spread = four_digits(max(means.values()) - min(means.values()))
        out.print(f"{studies[0].key}: best of each study {values}; spread {spread}")


# ---------------------------------------------------------------------------------------------- files


def conclude(experiment: Experiment, scale: str, done: Sequence[Trial], command: str) -> dict[str, Trial]:
    """Write `search.csv` and, in study 0, the tuned rates; returns the best trial per key. See `best_trials`.

    done: the trials of all rounds of one study. Raises NovobenchError, with nothing written, if no trial of a key can
    win, if the trials of a key were trained on different data, or if `search.csv` is damaged.
    """
    task, outcomes = experiment.task, outcomes_of(done, experiment.columns[0].metric)
    best = best_trials(experiment, done, outcomes)
    lines = search_lines(experiment, done, best)
    replaced = {(trial.key, str(trial.study)) for trial in done}
    kept = [line for line in read_search(scale) if (line.key, line.study) not in replaced or not is_of_task(line, task)]
    write_bytes(search_path(scale), csv_bytes(SearchLine._fields, [*kept, *lines]))
    if done[0].study == 0:
        _write_tuned(task, scale, best, experiment.columns[0].metric, command)
    return best


def search_lines(experiment: Experiment, done: Sequence[Trial], best: Mapping[str, Trial]) -> list[SearchLine]:
    """The lines of `search.csv` for the trials of all rounds of one study. best: of each key, see `best_trials`."""
    metric = experiment.columns[0].metric
    outcomes = outcomes_of(done, metric)
    split = next((outcome.split for outcome in outcomes.values()), "")

    def line(trial: Trial, cell: PlannedCell) -> SearchLine:
        return SearchLine(
            schema=str(SCHEMA),
            key=trial.key,
            experiment=experiment.name,
            row=trial.row.id,
            optimizer=cell.config.optimizer.name,
            study=str(trial.study),
            round=str(trial.round),
            trial=str(trial.number),
            rates=rates_text(trial.rates),
            seed=str(cell.config.seed),
            cell=cell_id(cell.config),
            split=split,
            metric=metric,
            value=f"{outcomes[cell.id].value:.6g}" if cell.id in outcomes else "",
            chosen=str(int(best[trial.key] is trial)),
        )

    return [check_line(line(trial, cell)) for trial in done for cell in trial.cells]


def _write_tuned(task: str, scale: str, best: Mapping[str, Trial], metric: str, command: str) -> None:
    path = places.workspace().tuned_rates(task, scale)
    tuned = (read_yaml(path) if path.exists() else {}) | {key: dict(trial.rates) for key, trial in best.items()}
    header = (
        f"# Rates of the {task} rows at {scale} scale, found by `novobench search`; not edited by hand.\n"
        f"# Every trial and seed is in results/{scale}/search.csv; the best mean {metric} on the held-out split wins.\n"
        f"# Last command: {command}\n"
    )
    write_text(path, header + yaml.safe_dump(dict(sorted(tuned.items())), sort_keys=False))


def untraced(task: str, scale: str) -> list[str]:
    """Keys of tuned rates of the task that no trial in `search.csv` led to."""
    traced = {searched.key for searched in searched_keys(read_search(scale), task) if searched.study == 0}
    path = places.workspace().tuned_rates(task, scale)
    return [key for key in (read_yaml(path) if path.exists() else {}) if key not in traced]
