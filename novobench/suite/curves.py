"""Learning curves as `results/<scale>/curves.csv` holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from novobench.files import read_csv
from novobench.suite import records


@dataclass(frozen=True)
class Point:
    """One value of a series; `seconds` of training are None where they were not recorded."""

    update: int
    epoch: float
    seconds: float | None
    value: float


Curves = dict[str, list[Point]]
"""Series, `<split>/<metric>` -> its points in the order of updates."""


def read_curves(scale: str) -> dict[str, Curves]:
    """Cell -> its curves."""
    found: dict[str, Curves] = {}
    for line in read_csv(records.results_folder(scale) / "curves.csv"):
        seconds = float(line["seconds"]) if line.get("seconds") else None
        point = Point(int(line["update"]), float(line["epoch"]), seconds, float(line["value"]))
        found.setdefault(line["cell"], {}).setdefault(line["series"], []).append(point)
    return found


def at_equal(cells: Mapping[str, Curves], driver: str, series: str) -> dict[str, float]:
    """Cell -> `series` where `driver` first came down to the level that all cells reach: its highest last value.

    Between two evaluations both are taken as straight lines. A cell that was there at its first evaluation is left out.
    """
    both = {cell: curves for cell, curves in cells.items() if driver in curves and series in curves}
    if not both:
        return {}
    level = max(curves[driver][-1].value for curves in both.values())
    found = {}
    for cell, curves in both.items():
        of_update = {point.update: point.value for point in curves[series]}
        pairs = [(point.value, of_update[point.update]) for point in curves[driver] if point.update in of_update]
        for (high, before), (low, after) in pairwise(pairs):
            if low <= level <= high:
                share = (high - level) / (high - low) if high > low else 1.0
                found[cell] = before + share * (after - before)
                break
    return found
