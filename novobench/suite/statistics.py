"""Estimates over seeds: means, paired differences, and seed noise."""

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
        digits = decimals(half)
        return f"{self.mean:.{digits}f} ± {half:.{digits}f}"

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval leaves out 0. False without an interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def decimals(width: float) -> int:
    """Two, or as many as a number of this size needs to show a digit."""
    return max(2, -math.floor(math.log10(width))) if width > 0 else 2


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean with Student's t interval: values of one recipe over independent seeds are close to normal."""
    from scipy.special import stdtrit  # Student's t quantile; importing scipy.stats takes a second

    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, n)
    sd = math.hypot(*(value - mean for value in values)) / math.sqrt(n - 1)  # squares of large values overflow
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
    deviations = [(each.sd * math.sqrt(each.n - 1), each.n - 1) for each in estimates if each.sd is not None]
    if not deviations:
        return None
    return math.hypot(*(deviation for deviation, _ in deviations)) / math.sqrt(
        sum(freedom for _, freedom in deviations)
    )


def bca_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """The bootstrap interval of the mean, bias-corrected and accelerated (BCa; Efron, 1987), the same in every call.

    It describes a sample. With few values it is too narrow to test with. None without two different values.
    """
    center = math.fsum(values) / max(1, len(values))
    scale = max((abs(value - center) for value in values), default=0.0)
    if scale == 0 or len(values) < 2:
        return None
    import numpy as np
    from scipy.stats import bootstrap  # importing it takes a second

    scaled = [(value - center) / scale for value in values]  # their cubes neither overflow nor vanish
    ends = bootstrap(
        (scaled,), np.mean, confidence_level=confidence, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    return center + scale * float(ends.low), center + scale * float(ends.high)
