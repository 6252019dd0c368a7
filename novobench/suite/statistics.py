"""Estimates over seeds: means, paired differences, seed noise, and the seeds that a difference takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds with its 95 % t interval; `sd`, `low` and `high` are None for a single seed."""

    mean: float
    n: int
    sd: float | None = None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """With two decimals, or with as many as the interval needs to show a digit."""
        if self.high is None:
            return f"{self.mean:.2f}"
        half = self.high - self.mean
        decimals = max(2, -math.floor(math.log10(half))) if half > 0 else 2
        return f"{self.mean:.{decimals}f} ± {half:.{decimals}f}"

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval leaves out 0. False without an interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean with Student's t interval: values of one recipe over independent seeds are close to normal."""
    from scipy.special import stdtrit  # Student's t quantile; importing scipy.stats takes a second

    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, n)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * sd / math.sqrt(n)
    return Estimate(mean, n, sd, mean - half, mean + half)


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate:
    """The mean of `first` − `second` over the seeds that have a finite value in both, with its t interval.

    first, second: seed -> value. Seeds are paired because a seed gives both trainings the same order of the data.
    Without a common seed, `n` is 0 and the mean is NaN.
    """
    pairs = ((first[seed], second[seed]) for seed in sorted(first.keys() & second.keys()))
    differences = [one - other for one, other in pairs if math.isfinite(one) and math.isfinite(other)]
    return estimate(differences) if differences else Estimate(math.nan, 0)


def pooled_sd(groups: Iterable[Sequence[float]]) -> float | None:
    """The standard deviation within groups: from the squares of all groups over their degrees of freedom together.

    A value that is not finite is left out. None if no group has two values.
    """
    estimates = [estimate(values) for group in groups if (values := list(filter(math.isfinite, group)))]
    squares = [(each.sd**2 * (each.n - 1), each.n - 1) for each in estimates if each.sd is not None]
    if not squares:
        return None
    return math.sqrt(math.fsum(square for square, _ in squares) / sum(freedom for _, freedom in squares))


def seeds_to_detect(difference: float, sd: float, *, paired: bool, power: float = 0.8) -> int | None:
    """The seeds with which a two-sided t test at 5 % finds a true difference with the probability `power`.

    paired: `sd` is the deviation of the paired differences, and the number is that of pairs. Otherwise `sd` is the
    deviation within each of two rows, and the number is that of seeds per row. None for a difference of 0.
    """
    from scipy.special import nctdtr, ndtri, stdtrit

    if difference == 0:
        return None
    rows = 1 if paired else 2
    effect = abs(difference) / sd if sd else math.inf
    # A test that knows the deviation takes fewer seeds: start there, with two at least.
    normal = rows * (float(ndtri(power) + ndtri(0.975)) / effect) ** 2
    n = max(2, math.ceil(normal))
    while True:
        freedom, noncentrality = rows * (n - 1), effect * math.sqrt(n / rows)
        critical = stdtrit(freedom, 0.975)
        missed = nctdtr(freedom, noncentrality, critical) - nctdtr(freedom, noncentrality, -critical)
        if not missed > 1 - power:  # NaN where the effect is beyond any noise
            return n
        n += 1
