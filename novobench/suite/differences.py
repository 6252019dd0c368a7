"""The differences between rows that an experiment's `comparisons` ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from novobench.suite.experiment import Column, Experiment
from novobench.suite.statistics import decimals
from novobench.suite.table_rows import TableRow
from novobench.suite.verdicts import Pairs, Verdict, verdicts


@dataclass(frozen=True)
class Difference:
    """A row's value minus another's, over the seeds that both have."""

    row: TableRow
    other: TableRow
    column: Column
    verdict: Verdict | None
    """None if both rows have the same training."""

    @property
    def verdict_text(self) -> str:
        return "the same training" if self.verdict is None else str(self.verdict)

    def texts(self) -> tuple[str, str, str]:
        """The mean, the interval of the verdict and the BCa interval, with digits that show how wide they are."""
        if self.verdict is None:
            return "0.00", "–", "–"
        low, high = self.verdict.bca_low, self.verdict.bca_high
        digits = 2 if low is None or high is None else decimals((high - low) / 2)
        return (
            f"{self.verdict.estimate.mean:.{digits}f}" if self.verdict.estimate.n else "–",
            interval_text(self.verdict.low, self.verdict.high, digits),
            "–" if low is None or high is None else interval_text(low, high, digits),
        )


def interval_text(low: float, high: float, digits: int) -> str:
    """`[-0.12, 0.34]`; a dash if it has no end."""
    if math.isinf(low) and math.isinf(high):
        return "–"
    return f"[{low:.{digits}f}, {high:.{digits}f}]".replace("inf", "∞")


def differences(experiment: Experiment, rows: Sequence[TableRow]) -> list[Difference]:
    """The comparisons of which both rows are in `rows` and have a seed in common.

    Those of one column are a family: any wrong verdict among them has a probability of at most 5 %.
    """
    by_id = {row.row.id: row for row in rows}
    compared: list[Difference] = []
    for column in experiment.columns:
        of_column = [
            (by_id[comparison.row], by_id[other])
            for comparison in experiment.comparisons
            if (comparison.column or experiment.columns[0].key) == column.key
            for other in comparison.to
            if comparison.row in by_id and other in by_id
        ]
        pairs = [Pairs(row.values.get(column.key, {}), other.values.get(column.key, {})) for row, other in of_column]
        trained = [each for each, (row, other) in zip(pairs, of_column, strict=True) if row.cells != other.cells]
        made = iter(verdicts(trained, column.better))
        for (row, other), each in zip(of_column, pairs, strict=True):
            verdict = None if row.cells == other.cells else next(made)
            if each.seeds:
                compared.append(Difference(row, other, column, verdict))
    return compared
