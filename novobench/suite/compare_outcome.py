"""What a comparison found: its contests, one per task, and what follows from their results."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from novobench.config import CellConfig
from novobench.console import counted
from novobench.suite.aggregates import (
    first_to_reach,
    median_cost,
    probability_of_improvement,
    profile_score,
    ratios_to_best,
)
from novobench.suite.experiment import Column, Experiment
from novobench.suite.results import Results
from novobench.suite.search_file import SearchedKey
from novobench.suite.search_space import edge_text
from novobench.suite.table_rows import TableRow
from novobench.suite.verdicts import Pairs, Verdict


@dataclass(frozen=True)
class Declaration:
    """What was declared about a comparison, and when."""

    command: str
    declared: str
    """Time at which the margins got their values: UTC, `2026-01-31T23:59:59Z`."""
    targets: Mapping[str, float]
    """Metric -> value to reach."""
    margins: Mapping[str, float]
    """Metric -> the largest difference that does not matter."""


@dataclass(frozen=True)
class Reached:
    """When the seeds of an optimizer reached the target: updates, and seconds of training."""

    updates: list[float]
    """Per seed; infinite if it never did."""
    seconds: list[float]

    @property
    def count(self) -> int:
        return sum(map(math.isfinite, self.updates))

    @property
    def median_updates(self) -> float:
        """Infinite if half of the seeds did not reach the target."""
        return median_cost(self.updates)

    @property
    def median_seconds(self) -> float:
        return median_cost(self.seconds)


@dataclass(frozen=True)
class Contest:
    """The optimizers on one task, with their results."""

    experiment: Experiment
    rows: Sequence[TableRow]
    """The first is compared with each of the others."""
    results: Results
    search_split: str
    """The split of curves and of searches."""
    searched: Mapping[str, SearchedKey]
    """Row id -> its search; without the rows whose rates were given."""
    failed_trials: int
    at_rates: Mapping[str, Mapping[float, Sequence[str]]]
    """Row id -> factor on the best rate -> cells."""
    state: Mapping[str, tuple[int, int] | str]
    """Row id -> bytes of the optimizer's state and number of parameters, or why they are unknown."""
    margin: float | None
    """The largest difference in the first column that does not matter, declared before."""
    declared_target: float | None
    """The value that updates and time are measured to, if one was declared."""

    @property
    def task(self) -> str:
        return self.experiment.task

    @property
    def column(self) -> Column:
        """The column that decides."""
        return self.experiment.columns[0]

    @cached_property
    def pairs(self) -> list[Pairs]:
        """The first row with each of the others, seed by seed."""
        ours, *others = (row.values[self.column.key] for row in self.rows)
        return [Pairs(ours, theirs, self.column.better, self.margin) for theirs in others]

    def config(self, row: TableRow) -> CellConfig:
        assert row.config is not None  # every row of a comparison has one
        return row.config

    # ------------------------------------------------------------------------------------ time to a target

    @cached_property
    def target(self) -> float | None:
        """The declared value, else the worst of the rows' median last values on the search split, of two in the middle
        the worse one: every optimizer reaches it with more than half of its seeds. None without a finished cell in
        every row."""
        if self.declared_target is not None:
            return self.declared_target
        larger, medians = self.column.better == "larger", []
        for row in self.rows:
            values = [self.results.value(cell, self.search_split, self.column.metric) for cell in row.cells]
            finite = [value for value in values if value is not None and math.isfinite(value)]
            if not finite:
                return None
            medians.append(sorted(finite, reverse=larger)[len(finite) // 2])
        return min(medians) if larger else max(medians)

    def reached(self, row: TableRow) -> Reached:
        """When each seed of a row was first evaluated at the target or beyond it."""
        reached = Reached([], [])
        for cell in row.cells:
            points = self.results.curves(cell).get(f"{self.search_split}/{self.column.metric}", [])
            for costs, key in ((reached.updates, "update"), (reached.seconds, "seconds")):
                at = [(cost, point.value) for point in points if (cost := getattr(point, key)) is not None]
                costs.append(math.inf if self.target is None else first_to_reach(at, self.target, self.column.better))
        return reached

    # ------------------------------------------------------------------------------------ costs

    def milliseconds(self, row: TableRow) -> float | None:
        """Median training time per update."""
        times = [
            1000 * seconds / self.results.updates(cell)
            for cell in row.cells
            if (seconds := self.results.value(cell, "train", "train_seconds")) is not None
        ]
        return statistics.median(times) if times else None

    # ------------------------------------------------------------------------------------ other rates

    def losses(self, row: TableRow) -> dict[float, float | None]:
        """Factor on the best rate -> mean loss on the search split over the same seeds; NaN if one is not finite, None
        without cells."""
        seeds = self._rate_seeds(row)
        factors = {**self.at_rates[row.row.id], 1.0: row.cells[:seeds]}
        losses: dict[float, float | None] = {}
        for factor in sorted(factors):
            values = [self.results.value(cell, self.search_split, "loss") for cell in factors[factor]
                      if cell in self.results.cells]  # fmt: skip
            finite = [math.nan if value is None else value for value in values]
            losses[factor] = math.fsum(finite) / len(finite) if finite and len(finite) == seeds else None
        return losses

    def _rate_seeds(self, row: TableRow) -> int:
        return len(next(iter(self.at_rates[row.row.id].values()), []))

    # ------------------------------------------------------------------------------------ warnings

    @cached_property
    def warnings(self) -> list[str]:
        """What a reader must know before believing the verdicts."""
        texts = []
        for row in self.rows:
            texts += [f"{row.row.label}: {text}" for text in row.warnings]
            searched = self.searched.get(row.row.id)
            if searched is None:
                texts.append(f"{row.row.label}: its rates were given, not searched")
            elif searched.edges:
                edge = edge_text(searched.best.rates, searched.edges)
                texts.append(f"{row.row.label}: {edge}, so a better one may lie beyond it")
            losses = self.losses(row)
            lower = [factor for factor, loss in losses.items() if loss is not None and loss < (losses[1.0] or 0.0)]
            if lower:
                best = min(lower, key=lambda factor: losses[factor] or 0.0)
                texts.append(
                    f"{row.row.label}: its loss at {best:g} times the chosen rate is lower, over "
                    f"{counted(self._rate_seeds(row), 'seed')}; more trials may find better rates"
                )
        if self.failed_trials:
            texts.append(f"{counted(self.failed_trials, 'trial')} failed or had a failed cell, and could not win")
        if self.experiment.search.reason:
            texts.append(f"the searches are unequal: {self.experiment.search.reason}")
        hardware = {self.results.hardware(cell) for row in self.rows for cell in row.cells}
        if len(hardware) > 1:
            texts.append(f"trained on different machines: {'; '.join(sorted(hardware))}")
        if any(self.results.is_dirty(cell) for row in self.rows for cell in row.cells):
            texts.append("trained with uncommitted changes to the code")
        return texts


@dataclass(frozen=True)
class Compared:
    """A comparison with its verdicts."""

    scale: str
    contests: Sequence[Contest]
    verdicts: Sequence[Sequence[Verdict]]
    """Of each contest, in the order of `Contest.pairs`; all together are one family."""
    declaration: Declaration
    late: int
    """Compared cells that had finished before the margin was declared."""

    def improvement(self, ours: str, theirs: str) -> float:
        """The mean over tasks of the probability that a training of one row beats one of another, by their labels."""
        first, second = (
            {
                contest.task: list(row.values[contest.column.key].values())
                for contest in self.contests
                for row in contest.rows
                if row.row.label == label
            }
            for label in (ours, theirs)
        )
        better = {contest.task: contest.column.better for contest in self.contests}
        return probability_of_improvement(first, second, better)

    def profile_scores(self, cost: Literal["updates", "seconds"]) -> dict[str, float]:
        """Label -> area under the performance profile of the median cost to the target, see `profile_score`."""
        costs: dict[str, dict[str, float]] = {}
        for contest in self.contests:
            for row in contest.rows:
                costs.setdefault(row.row.label, {})[contest.task] = getattr(contest.reached(row), f"median_{cost}")
        return {label: profile_score(ratios.values()) for label, ratios in ratios_to_best(costs).items()}

    @property
    def decisions(self) -> Iterator[tuple[Contest, TableRow, TableRow, Verdict]]:
        """Each comparison: where, ours, theirs, verdict."""
        for contest, verdicts in zip(self.contests, self.verdicts, strict=True):
            ours, *others = contest.rows
            for theirs, verdict in zip(others, verdicts, strict=True):
                yield contest, ours, theirs, verdict
