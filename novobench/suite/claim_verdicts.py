"""Verdicts on claims: what trainings with paired seeds say of a sentence of the paper.

Every comparison of a claim has a simultaneous interval: the sign-flip test of the paired differences, inverted at 5 %
over the number of comparisons. A statement about a difference is made only if its whole interval allows no other, so
any wrong statement about a claim has a probability of at most 5 %.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from novobench.console import counted
from novobench.seeds import FIRST_SEED
from novobench.suite.claims import Claim, Comparison
from novobench.suite.experiment import Column
from novobench.suite.forecast import forecast
from novobench.suite.origin import Origin
from novobench.suite.plan import PlannedCell
from novobench.suite.power import MOST_SEEDS, more_pairs, pairs_to_decide
from novobench.suite.significance import sign_flips
from novobench.suite.statistics import Estimate, estimate
from novobench.suite.table_rows import TableRow, seed_of

Word = Literal["supported", "contradicted", "undecided", "not testable"]

ALPHA = 0.05
"""The probability of any wrong statement about a claim; the field's habit."""


@dataclass(frozen=True)
class Finding:
    """What the seeds say of one comparison of a claim."""

    comparison: Comparison
    margin: float
    word: Word
    leads: Mapping[int, float]
    """Seed -> how much better the first is, in the column's unit; ±inf if a training of one side diverged."""
    left_out: Mapping[int, str]
    """Seed -> why it does not count."""
    low: float
    high: float
    """The simultaneous interval of the lead; infinite with too few seeds."""
    level: float
    more_seeds: int | None
    """About how many more seeds decide an undecided comparison; None if it is decided or cannot be forecast."""
    paper: float | None = None
    """How much better the first is in the paper."""

    @property
    def n(self) -> int:
        """Seeds that count."""
        return len(self.leads)

    @property
    def lead(self) -> Estimate:
        """Mean and deviation over the seeds with finite values; NaN without one."""
        finite = list(filter(math.isfinite, self.leads.values()))
        return estimate(finite) if finite else Estimate(math.nan, 0)


@dataclass(frozen=True)
class ClaimVerdict:
    """The verdict on a claim at one scale. Its text is `str(verdict)`."""

    claim: Claim
    scale: str
    word: Word
    findings: Sequence[Finding] = field(default_factory=list)
    """One per comparison."""
    value: float | None = None
    """Of a measurement."""
    reason: str = ""
    """Why the claim cannot be tested at this scale."""
    minutes: float | None = None
    """About the time that the missing seeds take, on two cores at laptop scale and on one GPU elsewhere."""
    caveats: Sequence[str] = field(default_factory=list)
    """What weakens the evidence: searches that ended at an edge, seeds that do not count."""

    @property
    def more_seeds(self) -> int | None:
        """The seeds that the claim still needs: those of its slowest comparison. None if some cannot be forecast."""
        needed = [finding.more_seeds for finding in self.findings if finding.word == "undecided"]
        return None if None in needed or not needed else max(each for each in needed if each is not None)

    @property
    def n(self) -> int:
        """Seeds that count in all comparisons."""
        return min((finding.n for finding in self.findings), default=0)

    def __str__(self) -> str:
        if self.word == "not testable":
            return f"not testable at this scale, because {self.reason}"
        if self.word != "undecided":
            return self.word
        if any(math.isinf(lead) for finding in self.findings for lead in finding.leads.values()):
            return "undecided (trainings diverged)"
        more = self.more_seeds
        parts = [f"more than {MOST_SEEDS:,} more seeds" if more is None else f"about {counted(more, 'more seed')}"]
        parts += [_minutes(self.minutes)] if self.minutes is not None else []
        return f"undecided ({', '.join(parts)})"


def _minutes(minutes: float) -> str:
    rounded = math.ceil(minutes)
    return counted(rounded, "minute") if rounded < 120 else f"{rounded / 60:.0f} hours"


def judge(claim: Claim, scale: str, column: Column, rows: Mapping[str, TableRow]) -> ClaimVerdict:
    """The verdict on a claim that compares trainings.

    rows: id -> row, of the claim's experiment.
    """
    if scale not in claim.margin:
        reason = claim.not_testable.get(scale, f"no margin is declared for {scale} scale")
        return ClaimVerdict(claim, scale, "not testable", reason=reason)
    findings = [_finding(claim, comparison, scale, column, rows) for comparison in claim.comparisons]
    words = [finding.word for finding in findings]
    word: Word = "contradicted" if "contradicted" in words else "undecided" if "undecided" in words else "supported"
    verdict = ClaimVerdict(claim, scale, word, findings, caveats=_caveats(claim, findings, rows))
    if word == "undecided":
        seconds = _seconds_per_seed(claim, rows)
        minutes = None if seconds is None else (verdict.more_seeds or MOST_SEEDS) * seconds / 60
        return dataclasses.replace(verdict, minutes=minutes)
    return verdict


def judge_measurement(claim: Claim, scale: str, value: float) -> ClaimVerdict:
    """The verdict on a claim about a number that needs no training."""
    too_small = claim.at_least is not None and not value >= claim.at_least
    too_large = claim.at_most is not None and not value <= claim.at_most
    return ClaimVerdict(claim, scale, "contradicted" if too_small or too_large else "supported", value=value)


def _finding(claim: Claim, comparison: Comparison, scale: str, column: Column, rows: Mapping[str, TableRow]) -> Finding:
    margin = claim.margin_of(comparison, scale)
    assert margin is not None
    leads, left_out = _leads(claim, comparison, scale, column, rows)
    test = sign_flips(list(leads.values()))
    level = 1 - ALPHA / len(claim.comparisons)
    low, high = test.interval(level)
    word = _word(comparison, low, high, margin)
    more = (
        _more_seeds(comparison, list(leads.values()), len(claim.comparisons), margin) if word == "undecided" else None
    )
    return Finding(
        comparison, margin, word, leads, left_out, low, high, level, more, paper_lead(comparison, column, rows)
    )


def _word(comparison: Comparison, low: float, high: float, margin: float) -> Word:
    """What an interval of the lead says."""
    if comparison.expect == "equivalent":
        if -margin < low and high < margin:
            return "supported"
        return "contradicted" if high < -margin or low > margin else "undecided"
    support_above, contradict_below = _limits(comparison, margin)
    if low > support_above:
        return "supported"
    return "contradicted" if high < contradict_below else "undecided"


def _limits(comparison: Comparison, margin: float) -> tuple[float, float]:
    """The lead above which a one-sided comparison is supported, and the one below which it is contradicted."""
    return (0.0, margin) if comparison.expect == "better" else (-margin, -margin)


def _more_seeds(comparison: Comparison, leads: Sequence[float], comparisons: int, margin: float) -> int | None:
    """The fewest more seeds with which one of the possible decisions is made with probability 0.8, if the true lead and
    its deviation are those observed. None if that takes more than 1,000, or if a training diverged."""
    if any(map(math.isinf, leads)):
        return None
    missing = max(1, pairs_to_decide(comparisons, ALPHA) - len(leads))
    if len(leads) < 2:
        return missing
    observed, level = estimate(leads), ALPHA / comparisons
    assert observed.sd is not None
    if comparison.expect == "equivalent":
        distances = [margin - abs(observed.mean), abs(observed.mean) - margin]
    else:
        support_above, contradict_below = _limits(comparison, margin)
        distances = [observed.mean - support_above, contradict_below - observed.mean]
    needed = [more_pairs(each, observed.sd, len(leads), level) for each in distances if each > 0]
    fewest = min((each for each in needed if each is not None), default=None)
    return None if fewest is None else max(fewest, missing)


# ---------------------------------------------------------------------------------------------- values


def paper_lead(comparison: Comparison, column: Column, rows: Mapping[str, TableRow]) -> float | None:
    """How much better the first is by the paper's printed values; None if it does not print all of them."""
    printed = {id: rows[id].row.paper.get(column.key) for id in comparison.rows}
    if any(value is None for value in printed.values()):
        return None
    return _lead(comparison, column, {id: value for id, value in printed.items() if value is not None})


def _leads(
    claim: Claim, comparison: Comparison, scale: str, column: Column, rows: Mapping[str, TableRow]
) -> tuple[dict[int, float], dict[int, str]]:
    """Seed -> lead for the seeds that count, and seed -> reason for the others that all rows have.

    One training of a seed that was made for the claim suffices: nobody knew the lead before it. So cells that another
    table had trained before count, too.
    """
    values = {id: rows[id].values.get(column.key, {}) for id in comparison.rows}
    cells = {id: {seed_of(cell): cell for cell in rows[id].cells} for id in comparison.rows}
    common = set.intersection(*(set(each) for each in values.values()))
    leads, left_out = {}, {}
    for seed in sorted(seed for seed in common if seed >= FIRST_SEED):
        lead = _lead(comparison, column, {id: values[id][seed] for id in comparison.rows})
        results = [(rows[id].results, cells[id][seed]) for id in comparison.rows]
        if all(each.claims(cell).get(claim.id) != claim.hash(scale) for each, cell in results):
            left_out[seed] = "trained before this test was declared"
        elif any(each.is_dirty(cell) for each, cell in results):
            left_out[seed] = "trained with uncommitted changes"
        elif len({Origin.of(each, cell).processor for each, cell in results}) > 1:
            left_out[seed] = "trained on different processors"
        elif math.isnan(lead):
            left_out[seed] = "trainings of both sides diverged"
        else:
            leads[seed] = lead
    return leads, left_out


def _lead(comparison: Comparison, column: Column, values: Mapping[str, float]) -> float:
    """How much better the first is. Infinite if a training of one side diverged; NaN if one of both did, or one that a
    change is measured from."""
    first, second = (_mean(values, side) for side in (comparison.first, comparison.second))
    first_from, second_from = (_mean(values, side) for side in (comparison.first_minus, comparison.second_minus))
    if math.isnan(first_from) or math.isnan(second_from) or (math.isnan(first) and math.isnan(second)):
        return math.nan
    if math.isnan(first) or math.isnan(second):
        return -math.inf if math.isnan(first) else math.inf
    difference = (first - first_from) - (second - second_from)
    return difference if column.better == "larger" else -difference


def _mean(values: Mapping[str, float], ids: Sequence[str]) -> float:
    """The mean of some rows; 0 of none."""
    return math.fsum(values[id] for id in ids) / len(ids) if ids else 0.0


def _seconds_per_seed(claim: Claim, rows: Mapping[str, TableRow]) -> float | None:
    """The time that one more seed of all rows of a claim takes on two cores or on one GPU: from finished cells, else by
    the speed that the task's config declares. None if neither is known."""
    ids = dict.fromkeys(id for comparison in claim.comparisons for id in comparison.rows)
    trainings = {tuple(rows[id].cells) or id: rows[id] for id in ids}
    total = 0.0
    for row in trainings.values():
        if row.config is None:
            return None
        seconds = [row.results.value(cell, "train", "train_seconds") for cell in row.cells]
        measured = [each for each in seconds if each is not None and math.isfinite(each)]
        one = math.fsum(measured) / len(measured) if measured else forecast(PlannedCell(row.config), {}).seconds
        if one is None:
            return None
        at_a_time = 2 if row.results.scale == "laptop" else row.config.runtime.cells_per_gpu
        total += one / at_a_time
    return total


def _caveats(claim: Claim, findings: Sequence[Finding], rows: Mapping[str, TableRow]) -> list[str]:
    ids = dict.fromkeys(id for comparison in claim.comparisons for id in comparison.rows)
    caveats = [f"{rows[id].row.label}: {text}" for id in ids for text in rows[id].search_warnings]
    for reason in dict.fromkeys(reason for finding in findings for reason in finding.left_out.values()):
        seeds = {seed for finding in findings for seed, why in finding.left_out.items() if why == reason}
        caveats.append(f"{counted(len(seeds), 'seed')} left out: {reason}")
    return list(dict.fromkeys(caveats))
