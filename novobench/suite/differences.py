"""The differences between rows that an experiment's `comparisons` ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from novobench.seeds import seeds_text
from novobench.suite.experiment import Column, Experiment
from novobench.suite.origin import pair_problems
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

    @property
    def warnings(self) -> list[str]:
        """Why some of its seeds are no clean pairs; nothing if all of them are."""
        seeds_by_problem: dict[str, list[int]] = {}
        for seed, problem in pair_problems(self.row.results, self.row.cells, self.other.cells).items():
            seeds_by_problem.setdefault(problem, []).append(seed)
        return [f"{seeds_text(seeds)}: {problem}" for problem, seeds in seeds_by_problem.items()]

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

    All of them are one family: any wrong verdict among them has a probability of at most 5 %.
    """
    by_id = {row.row.id: row for row in rows}
    columns = {column.key: column for column in experiment.columns}
    compared: list[tuple[TableRow, TableRow, Column, Pairs]] = []
    for comparison in experiment.comparisons:
        column = columns[comparison.column or experiment.columns[0].key]
        for other_id in comparison.to:
            if comparison.row in by_id and other_id in by_id:
                row, other = by_id[comparison.row], by_id[other_id]
                values, others = row.values.get(column.key, {}), other.values.get(column.key, {})
                compared.append((row, other, column, Pairs(values, others, column.better)))
    family = iter(verdicts([pairs for row, other, _, pairs in compared if row.cells != other.cells]))
    return [
        Difference(row, other, column, verdict)
        for row, other, column, pairs in compared
        for verdict in [None if row.cells == other.cells else next(family)]
        if pairs.seeds
    ]
