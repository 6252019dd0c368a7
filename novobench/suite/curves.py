"""Learning curves as `results/<scale>/curves.csv` holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from novobench.files import number
from novobench.suite.records import StoredCell


@dataclass(frozen=True)
class Point:
    """One value of a series; `seconds` of training are None where they were not recorded."""

    update: int
    epoch: float
    seconds: float | None
    value: float


Curves = dict[str, list[Point]]
"""Series, `<split>/<metric>` -> its points in the order of updates."""


def curves_of(cell: StoredCell) -> Curves:
    """The series of a cell; a value that was not finite is NaN."""
    found: Curves = {}
    for line in cell.curves:
        seconds = float(line.seconds) if line.seconds else None
        point = Point(int(line.update), float(line.epoch), seconds, number(line.value))
        found.setdefault(line.series, []).append(point)
    return found


def at_equal(cells: Mapping[str, Curves], driver: str, series: str) -> dict[str, float]:
    """Cell -> `series` where `driver` first came down to the level that all cells reach: its highest last value.

    Between two evaluations both are taken as straight lines. A cell that was there at its first evaluation is left out.
    A cell whose last value of `driver` is not finite reached no level: it has no part in it and is NaN itself.
    """
    both = {cell: curves for cell, curves in cells.items() if driver in curves and series in curves}
    last = {cell: curves[driver][-1].value for cell, curves in both.items()}
    level = max((value for value in last.values() if math.isfinite(value)), default=math.nan)
    found = {cell: math.nan for cell, value in last.items() if not math.isfinite(value)}
    for cell, curves in both.items():
        of_update = {point.update: point.value for point in curves[series]}
        pairs = [(point.value, of_update[point.update]) for point in curves[driver] if point.update in of_update]
        for (high, before), (low, after) in pairwise(pair for pair in pairs if all(map(math.isfinite, pair))):
            if low <= level <= high:
                share = (high - level) / (high - low) if high > low else 1.0
                found[cell] = before + share * (after - before)
                break
    return found
