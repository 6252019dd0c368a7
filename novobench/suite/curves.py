"""Learning curves."""

from __future__ import annotations

from dataclasses import dataclass


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
