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
    """The pairs, beyond n, with which a comparison is decided with probability 0.8. None for more than 1,000.

    The other arguments are those of `power`.
    """
    pairs = np.arange(n + 1, n + MOST_SEEDS + 1)
    enough = np.flatnonzero(power(mean, sd, pairs, level, margin) >= POWER)
    return int(pairs[enough[0]]) - n if len(enough) else None


def seeds_to_place(distance: float, sd: float, n: int, margin: float) -> int | None:
    """The seeds, beyond n, with which the 95 % t interval of a mean lies on one side of both edges of ± margin with
    probability 0.8: within them, or wholly outside. None for more than 1,000.

    distance: of the true mean from the middle of the margins. sd: the standard deviation over seeds.
    """
    seeds = np.arange(n + 1, n + MOST_SEEDS + 1)
    # Each edge is a one-sided test at 2.5 %; to be within, the mean must pass both.
    within = sum(_t_power(_ratio(margin + side * distance, sd), seeds, 0.05) for side in (-1, 1)) - 1
    outside = _t_power(_ratio(abs(distance) - margin, sd), seeds, 0.05)
    enough = np.flatnonzero(np.maximum(within, outside) >= POWER)
    return int(seeds[enough[0]]) - n if len(enough) else None


def power(mean: float, sd: float, pairs: np.ndarray, level: float, margin: float | None = None) -> np.ndarray:
    """About the probability that sign-flip tests decide a comparison whose true difference is `mean`.

    sd: the standard deviation of the paired differences, which are taken to be normal. level: of each test, alpha over
    the number of comparisons at most. margin: if given, equivalence is a decision, too.
    """
    different = _flip_power(_ratio(abs(mean), sd), pairs, level)
    if margin is None:
        return different
    # Two one-sided tests at `level`, both of which must reject.
    equivalent = sum(_flip_power(_ratio(margin + side * mean, sd), pairs, 2 * level) for side in (-1, 1)) - 1
    return np.maximum(different, equivalent)


def _ratio(difference: float, sd: float) -> float:
    if sd:
        return difference / sd
    return math.copysign(math.inf, difference) if difference else 0.0


def _flip_power(effect: float, pairs: np.ndarray, level: float) -> np.ndarray:
    """The power of the two-sided sign-flip test to find a mean of `effect` deviations, on its own side of 0.

    It is about that of the t test at the level that 2ⁿ flips attain. At the lowest level, all signs must be equal.
    """
    from scipy.special import ndtr

    levels = attainable(pairs, level)
    power = np.where(levels == 2.0 ** (1.0 - pairs), ndtr(effect) ** pairs, _t_power(effect, pairs, levels))
    return np.where(levels > 0, power, 0.0)


def _t_power(effect: float, n: np.ndarray, levels: np.ndarray | float, rows: int = 1) -> np.ndarray:
    """The power of the two-sided t test of one sample, or of two (rows) with n each."""
    from scipy.special import nctdtr, stdtrit

    if math.isinf(effect):
        return np.full(n.shape, float(effect > 0))
    freedom = rows * (n - 1)
    missed = nctdtr(freedom, effect * np.sqrt(n / rows), stdtrit(freedom, 1 - np.asarray(levels) / 2))
    return 1 - np.where(np.isnan(missed), 0.0, missed)  # NaN where the effect is beyond any noise
