"""Whether trainings reproduce a value that the paper prints: a decision by equivalence, at full scale only."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from novobench.console import counted
from novobench.suite.experiment import Experiment
from novobench.suite.power import MOST_SEEDS, seeds_to_place
from novobench.suite.statistics import estimate
from novobench.suite.table_rows import TableRow


@dataclass(frozen=True)
class Reproduction:
    """The outcome for one value."""

    outcome: Literal["reproduced", "not reproduced", "undecided"]
    reason: str = ""
    """Why it is undecided, or what else to know."""

    def __str__(self) -> str:
        return f"{self.outcome} ({self.reason})" if self.reason else self.outcome


def reproduction(values: Collection[float], printed: float, margin: float) -> Reproduction:
    """Compare the mean over seeds with the value that the paper prints.

    Reproduced: the 95 % t interval of the mean lies within `printed` ± `margin` (equivalence). Not reproduced: it lies
    wholly outside, or a training diverged. Undecided: it reaches across an edge, or there are less than two seeds; the
    reason says how many more seeds decide it with probability 0.8, if mean and deviation over seeds stay the same.

    Args:
        values: one per seed, at least one; NaN or infinite if the training diverged.
        margin: how far the mean may be from `printed`, in the same unit; above 0.
    """
    diverged = sum(not math.isfinite(value) for value in values)
    if diverged:
        return Reproduction("not reproduced", f"{diverged} of {counted(len(values), 'training')} diverged")
    mean = estimate(list(values))
    if mean.low is None or mean.high is None or mean.sd is None:
        return Reproduction("undecided", "at least 1 more seed")
    if printed - margin <= mean.low and mean.high <= printed + margin:
        return Reproduction("reproduced")
    if mean.high < printed - margin or printed + margin < mean.low:
        return Reproduction("not reproduced")
    more = seeds_to_place(mean.mean - printed, mean.sd, mean.n, margin)
    return Reproduction("undecided", f"about {counted(more, 'more seed')}" if more else f"more than {MOST_SEEDS} seeds")


def reproductions(experiment: Experiment, row: TableRow) -> dict[str, Reproduction]:
    """Column key -> outcome, for the paper's values of a row that have a margin and trainings at full scale."""
    margins = experiment.reproduction.margins
    if row.results.scale != "full":
        return {}
    return {
        key: reproduction(values.values(), printed, margins[key])
        for key, printed in row.row.paper.items()
        if key in margins and (values := row.values.get(key))
    }
