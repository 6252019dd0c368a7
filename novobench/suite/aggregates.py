"""Scores over several tasks, and the updates or the time that a training takes to a target.

A task's metric has a unit of its own, so nothing here averages metrics of different tasks. Values that are not finite
are worse than all others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence


def interquartile_mean(scores: Iterable[float], better: str) -> float:
    """The mean of the middle half of all scores, in one unit: a quarter at each end is left out (Agarwal et al., "Deep
    Reinforcement Learning at the Edge of the Statistical Precipice", 2021, arXiv:2108.13264).

    better: `larger` or `smaller`. Infinite if values that are not finite reach into the middle half.
    """
    ordered = sorted(_comparable(scores, better))
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    return math.fsum(middle) / len(middle)


def probability_of_improvement(
    first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]], better: Mapping[str, str]
) -> float:
    """The mean over tasks of the probability that a training of the first is better than one of the second.

    first, second: task -> values over seeds. better: task -> `larger` or `smaller`. Within a task it is the share of
    all pairs of seeds, in which a tie is half an improvement: the Mann-Whitney statistic (Agarwal et al., 2021). NaN
    without a task that both have.
    """
    shares = []
    for task in first.keys() & second.keys():
        sign = 1 if better[task] == "larger" else -1
        ours, theirs = _comparable(first[task], better[task]), _comparable(second[task], better[task])
        wins = sum((sign * (one > other) - sign * (one < other) + 1) / 2 for one in ours for other in theirs)
        shares.append(wins / (len(ours) * len(theirs)))
    return math.fsum(shares) / len(shares) if shares else math.nan


def _comparable(values: Iterable[float], better: str) -> list[float]:
    worst = -math.inf if better == "larger" else math.inf
    return [value if math.isfinite(value) else worst for value in values]


# ------------------------------------------------------------------------------------------- to a target


def first_to_reach(points: Iterable[tuple[float, float]], target: float, better: str) -> float:
    """The cost of the first evaluation that is as good as the target, or infinity.

    points: (updates or seconds, value) in the order of the training. A value between two evaluations is not guessed.
    """
    for cost, value in points:
        if value >= target if better == "larger" else value <= target:
            return cost
    return math.inf


def median_cost(costs: Sequence[float]) -> float:
    """The median over seeds, infinite if half of them do not reach the target: of two in the middle, the higher."""
    return sorted(costs)[len(costs) // 2] if costs else math.inf


def ratios_to_best(costs: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Optimizer -> task -> its cost to the target as a multiple of the lowest cost of all optimizers.

    costs: optimizer -> task -> updates or seconds, infinite if it does not reach the target. The ratio is infinite
    then, also if no optimizer reaches it.
    """
    tasks = {task for each in costs.values() for task in each}
    lowest = {task: min(each.get(task, math.inf) for each in costs.values()) for task in tasks}
    return {name: {task: _ratio(cost, lowest[task]) for task, cost in each.items()} for name, each in costs.items()}


def _ratio(cost: float, lowest: float) -> float:
    if math.isinf(cost):
        return math.inf
    return 1.0 if cost == lowest else cost / lowest if lowest > 0 else math.inf


def performance_profile(ratios: Iterable[float], at: Iterable[float]) -> list[float]:
    """For each τ in `at`, the share of tasks on which an optimizer takes at most τ times the lowest cost (Dolan and
    Moré, "Benchmarking optimization software with performance profiles", 2002)."""
    ordered = list(ratios)
    return [sum(ratio <= tau for ratio in ordered) / len(ordered) for tau in at]


def profile_score(ratios: Iterable[float], up_to: float = 4.0) -> float:
    """The area under the performance profile from 1 to `up_to`, as a share: 1 if the optimizer is best on all tasks.

    AlgoPerf's score, with its limit of 4 (Dahl et al., "Benchmarking Neural Network Training Algorithms", 2023,
    arXiv:2306.07179). Each task adds the part of the area to the right of its ratio.
    """
    areas = [max(0.0, up_to - ratio) / (up_to - 1) for ratio in ratios]
    return math.fsum(areas) / len(areas)
