"""Power: how many seeds it takes to find a difference."""

from __future__ import annotations

import math

import numpy as np

from novobench.suite.significance import attainable

POWER = 0.8
"""The probability with which a true difference of the assumed size is to be found."""
MOST_SEEDS = 1000
"""Forecasts end here: an effect that takes more seeds was not measured well enough to forecast."""


def seeds_per_row(effect: float = 1.0) -> int:
    """The seeds per row with which an unpaired two-sided t test at 5 % finds a difference with probability 0.8.

    effect: the difference, in standard deviations over seeds.
    """
    n = np.arange(2, MOST_SEEDS + 1)
    return int(n[np.argmax(_t_power(effect, n, 0.05, rows=2) >= POWER)])


def pairs_to_decide(comparisons: int, alpha: float = 0.05) -> int:
    """The smallest number of pairs n with which the sign-flip test can decide one of several comparisons.

    Its two-sided p is never below 2 / 2ⁿ, and the first of a family must be at most alpha / comparisons.
    """
    return math.ceil(math.log2(2 * comparisons / alpha))


def more_pairs(mean: float, sd: float, n: int, level: float, margin: float | None = None) -> int | None:
    """The pairs, beyond n, with which the verdict on a difference that is truly `mean` is decided with probability 0.8.

    sd: the standard deviation of the paired differences. level: of the two-sided test, alpha / comparisons at most.
    margin: if given, equivalence is a decision, too. None for more than 1,000.

    The power of the sign-flip test is taken to be that of the t test at the level that 2ⁿ flips attain.
    """
    pairs = np.arange(n + 1, n + MOST_SEEDS + 1)
    power = _t_power(_ratio(abs(mean), sd), pairs, attainable(pairs, level))
    if margin is not None:  # two one-sided tests at `level`, both of which must reject
        sides = _ratio(margin - mean, sd), _ratio(margin + mean, sd)
        equivalent = sum(_t_power(side, pairs, attainable(pairs, 2 * level), tails=1) for side in sides) - 1
        power = np.maximum(power, equivalent)
    enough = np.flatnonzero(power >= POWER)
    return int(pairs[enough[0]]) - n if len(enough) else None


def _ratio(difference: float, sd: float) -> float:
    if sd:
        return difference / sd
    return math.copysign(math.inf, difference) if difference else 0.0


def _t_power(effect: float, n: np.ndarray, level: np.ndarray | float, *, rows: int = 1, tails: int = 2) -> np.ndarray:
    """The power of the t test of one sample, or of two (rows) with n each. level: of the two-sided test, 0 for never.

    tails: 1 for the power to find `effect` on its own side only.
    """
    from scipy.special import nctdtr, stdtrit

    level = np.broadcast_to(level, n.shape)
    possible = level > 0
    if math.isinf(effect):
        return np.where(possible & (effect > 0), 1.0, 0.0)
    freedom, noncentrality = rows * (n - 1), effect * np.sqrt(n / rows)
    critical = stdtrit(freedom, 1 - np.where(possible, level, 0.05) / 2)
    missed = nctdtr(freedom, noncentrality, critical)
    if tails == 2:
        missed = missed - nctdtr(freedom, noncentrality, -critical)
    missed = np.where(np.isnan(missed), 0.0, missed)  # NaN where the effect is beyond any noise
    return np.where(possible, 1 - missed, 0.0)
