"""Tuning curves: the best value to expect of n trials, against n, from the first rounds in `search.csv`.

A table compares the best of all trials. The curves show what fewer trials would have found, as proposed by Dodge et
al., "Show Your Work: Improved Reporting of Experimental Results" (2019, arXiv:1909.03004). They draw with replacement;
here trials are drawn without, which has no bias (Tang et al., 2020, arXiv:2004.13705). Only first rounds count: all
optimizers have the declared ranges and the same number of trials there.

The median best of n trials has a confidence band (Lourie, Cho and He, "Show Your Work with Confidence", 2024,
arXiv:2311.09480). With few trials it is wide: of the best of many trials, they say little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from novobench import places
from novobench.errors import NovobenchError
from novobench.suite.checked_files import SCHEMA, Integer, Name, Number, Text, csv_bytes, write_changed
from novobench.suite.curves import Curves, Point
from novobench.suite.experiment import Experiment, Panel, load_experiment
from novobench.suite.search_file import SearchedKey, read_search, searched_keys


class TuningLine(NamedTuple):
    """A line of `tuning.csv`: one point of a curve."""

    schema: Integer
    experiment: Name
    task: Name
    key: Name
    study: Integer
    trials: Integer
    split: Text
    metric: Name
    value: Number
    median: Number
    median_low: Number
    median_high: Number


def expected_best(values: Sequence[float | None], better: str) -> dict[int, float]:
    """n -> the mean, over all choices of n of these trials, of the best value among the n.

    values: one per trial, None for a failed one, which is never the best. better: `larger` or `smaller`. Where all n
    trials of a choice may have failed, there is no best value, and n is left out.

    The i-th best of N (i from 0) is the best of n if all others are among the N - i - 1 worse ones: in
    C(N - i - 1, n - 1) of the C(N, n) choices.
    """
    finite = sorted((value for value in values if value is not None), reverse=better == "larger")
    total = len(values)
    expected = {}
    for n in range(1 + total - len(finite), total + 1):
        mean, share = 0.0, n / total  # of the choices: those that contain the best
        for i, value in enumerate(finite):
            mean += share * value
            if i < total - n:
                share *= (total - i - n) / (total - i - 1)
            else:
                break  # fewer than n - 1 are worse than the next one
        expected[n] = mean
    return expected


class MedianBest(NamedTuple):
    """The median of the best of some trials, with the ends of its band; infinite where nothing is known."""

    trials: int
    median: float
    low: float
    high: float


def median_best(values: Sequence[float | None], better: str, confidence: float = 0.95) -> list[MedianBest]:
    """The median of the best of n trials, for n from 1 to the number of these trials, with a simultaneous band.

    values: one per trial, None for a failed one, which is the worst. better: `larger` or `smaller`. The true curve lies
    within the band at all n together with the probability `confidence` or more: the band inverts the Kolmogorov-Smirnov
    test of the distribution of values, of which the curve is a function. That holds for independent trials. Those of a
    search fill the ranges more evenly, so for them the band is an approximation.
    """
    from scipy.stats import kstwo  # importing it takes a second

    total, worst = len(values), -math.inf if better == "larger" else math.inf
    ordered = sorted(worst if value is None else value for value in values)
    error = float(kstwo.ppf(confidence, total))

    def quantile(p: float) -> float:
        rank = math.ceil(total * p - 1e-9)
        return -math.inf if rank < 1 else math.inf if rank > total else ordered[rank - 1]

    curve = []
    for n in range(1, total + 1):
        p = 0.5 ** (1 / n) if better == "larger" else 1 - 0.5 ** (1 / n)
        curve.append(MedianBest(n, quantile(p), quantile(p - error), quantile(p + error)))
    return curve


def _first_round(searched: SearchedKey) -> list[float | None]:
    return [trial.mean for trial in searched.trials if trial.round == 0]


def write_tuning_curves(experiments: Iterable[Experiment], scale: str) -> list[Path]:
    """Write `results/<scale>/tuning.csv` for all searches, and a figure for each of these experiments.

    Returns the paths. Searches for experiments that no longer exist have no curve.
    """
    folder = places.workspace().results(scale)
    searched = searched_keys(read_search(scale))
    by_name = {experiment.name: experiment for experiment in experiments}
    figures = list(by_name)
    lines = []
    for each in searched:
        if each.experiment not in by_name:
            try:
                by_name[each.experiment] = load_experiment(each.experiment)
            except NovobenchError:
                continue
        trials, better = _first_round(each), by_name[each.experiment].columns[0].better
        medians = {point.trials: point[1:] for point in median_best(trials, better)}
        for n, value in expected_best(trials, better).items():
            common = str(SCHEMA), each.experiment, each.task, each.key, str(each.study), str(n)
            numbers = (f"{number:.6g}" for number in (value, *medians[n]))
            lines.append(TuningLine(*common, each.split, each.metric, *numbers))
    write_changed(folder / "tuning.csv", csv_bytes(TuningLine._fields, lines))
    paths = [folder / "tuning.csv"]
    for name in figures:
        if of_experiment := [each for each in searched if each.experiment == name]:
            paths.append(_write_figure(by_name[name], scale, of_experiment))
    return paths


def _write_figure(experiment: Experiment, scale: str, searched: Sequence[SearchedKey]) -> Path:
    """One line per key and study."""
    from novobench.suite.plots import write_panels

    series = f"{searched[0].split}/{searched[0].metric}"
    rows: dict[str, list[Curves]] = {}
    values: list[float] = []
    for each in searched:
        curve = expected_best(_first_round(each), experiment.columns[0].better)
        values += curve.values()
        rows.setdefault(each.key, []).append({series: [Point(n, n, None, value) for n, value in curve.items()]})
    wide = bool(values) and min(values) > 0 and max(values) > 10 * min(values)
    label = f"expected best {searched[0].split} {searched[0].metric}"
    panel = Panel("update", [series], "trials", label, logarithmic=wide)
    title = f"Tuning curves of {experiment.name}"
    return write_panels(f"tuning_{experiment.name}", title, scale, [panel], list(rows.items()))
