"""Learning curves, and what is read off them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Point:
    """One value of a series."""

    update: int
    epoch: float
    seconds: float | None
    """Training time up to this update; None if it was not recorded."""
    value: float
    """NaN if it was not finite."""


Curves = dict[str, list[Point]]
"""Series, `<split>/<metric>` -> its points in the order of updates."""


def value_at_equal_level(curves_by_cell: Mapping[str, Curves], driver: str, series: str) -> dict[str, float]:
    """Cell -> the value of `series` where the series `driver` first came down to a level that all cells reach.

    The level is the highest last value of `driver` among the cells. Between two evaluations both series are
    interpolated linearly. A cell that was below the level at its first evaluation is left out. A cell whose last value
    of `driver` is not finite has no part in the level and gets NaN.
    """
    complete = {cell: curves for cell, curves in curves_by_cell.items() if driver in curves and series in curves}
    last_values = {cell: curves[driver][-1].value for cell, curves in complete.items()}
    level = max((value for value in last_values.values() if math.isfinite(value)), default=math.nan)
    result = {cell: math.nan for cell, value in last_values.items() if not math.isfinite(value)}
    for cell, curves in complete.items():
        by_update = {point.update: point.value for point in curves[series]}
        pairs = [(point.value, by_update[point.update]) for point in curves[driver] if point.update in by_update]
        for (high, before), (low, after) in pairwise(pair for pair in pairs if all(map(math.isfinite, pair))):
            if low <= level <= high:
                fraction = (high - level) / (high - low) if high > low else 1.0
                result[cell] = before + fraction * (after - before)
                break
    return result
