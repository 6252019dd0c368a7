"""Estimates over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
        if self.high is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ± {self.high - self.mean:.2f}"


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
