"""`Metric`: a number that an evaluation yields. Imports no torch, so that readers of results can use it."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A number over a whole split. `n` counts what it averages or sums over: images, words, tokens."""

    value: float
    n: int
    unit: str
