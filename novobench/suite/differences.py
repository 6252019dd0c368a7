"""The differences between rows that an experiment's `comparisons` ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from novobench.suite.experiment import Column, Experiment
from novobench.suite.statistics import Estimate, paired_difference, seeds_to_detect
from novobench.suite.table_rows import TableRow


@dataclass(frozen=True)
class Difference:
    """A row's value minus another's, over the seeds that both have."""

    row: TableRow
    other: TableRow
    column: Column
    estimate: Estimate

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `undecided` if the interval contains 0 or a single seed gives none."""
        if self.row.cells == self.other.cells:
            return "the same training"
        if self.estimate.n == 1:
            return "undecided (one seed)"
        if not self.estimate.excludes_zero:
            return "undecided"
        return "better" if (self.estimate.mean > 0) == (self.column.better == "larger") else "worse"

    @property
    def seeds_to_decide(self) -> int | None:
        """For an undecided difference: the seeds with which a paired t test at 5 % finds a true difference of the size
        observed with probability 0.8. None where that cannot be said."""
        sd = self.estimate.sd
        if self.verdict != "undecided" or sd is None:
            return None
        return seeds_to_detect(self.estimate.mean, sd, paired=True)


def differences(experiment: Experiment, rows: Sequence[TableRow]) -> list[Difference]:
    """The comparisons of which both rows are in `rows` and have a seed in common."""
    by_id = {row.row.id: row for row in rows}
    compared = []
    for comparison in experiment.comparisons:
        key = comparison.column or experiment.columns[0].key
        column = next(column for column in experiment.columns if column.key == key)
        for other in comparison.to:
            if comparison.row in by_id and other in by_id:
                first, second = by_id[comparison.row], by_id[other]
                estimate = paired_difference(first.values.get(key, {}), second.values.get(key, {}))
                if estimate.n:
                    compared.append(Difference(first, second, column, estimate))
    return compared
