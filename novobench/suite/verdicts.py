"""Verdicts on a family of paired comparisons: which differences are real, and how many seeds would decide the others.

The sign-flip test decides. All verdicts of a family together are right with probability 1 − alpha: a table with twelve
comparisons of equal optimizers says `better` or `worse` somewhere in one case of twenty at most. See `verdicts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from novobench.console import counted
from novobench.suite.power import MOST_SEEDS, more_pairs, pairs_to_decide
from novobench.suite.significance import SignFlips, equivalence, non_inferiority, sign_flips
from novobench.suite.statistics import Estimate, bca_interval, estimate

Kind = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class Pairs:
    """The values of two trainings: seed -> value, NaN where a training has diverged. Common seeds make pairs.

    A seed gives both trainings the same order of the data, and the same initial weights.
    """

    first: Mapping[int, float]
    second: Mapping[int, float]
    better: Literal["larger", "smaller"]
    """Which values are better."""
    margin: float | None = None
    """A difference, declared before the trainings, below which it does not matter which of the two is better; positive,
    in the metric's unit."""

    @cached_property
    def seeds(self) -> list[int]:
        return sorted(self.first.keys() & self.second.keys())

    @cached_property
    def finite(self) -> list[float]:
        """`first` − `second` of the pairs with two finite values, in the order of seeds."""
        both = ((self.first[seed], self.second[seed]) for seed in self.seeds)
        return [one - other for one, other in both if math.isfinite(one) and math.isfinite(other)]

    @cached_property
    def diverged(self) -> tuple[int, int, int]:
        """The pairs in which only the first has no finite value, only the second, and both."""
        both = [(math.isfinite(self.first[seed]), math.isfinite(self.second[seed])) for seed in self.seeds]
        return both.count((False, True)), both.count((True, False)), both.count((False, False))


@dataclass(frozen=True)
class Verdict:
    """The verdict on one comparison of a family. Its text is `str(verdict)`."""

    kind: Kind
    """What the first is, compared with the second."""
    pairs: Pairs
    comparisons: int
    """In the family."""
    low: float
    high: float
    """The sign-flip interval of the difference: the test inverted at the level at which it decided. So it leaves out 0
    if the verdict is `better` or `worse`, lies within the margin if it is `equivalent`, and does neither if it is
    `undecided`. Infinite if there are too few pairs for this level."""
    level: float
    """Of that interval, for example 0.95."""
    p: float
    """Two-sided, of the sign-flip test against 0, for this comparison alone."""
    p_adjusted: float
    """The same for the family: `better` or `worse` if it is at most alpha."""
    p_equivalent: float | None
    """Against a difference of the margin or more, for the family: `equivalent` if it is at most alpha."""
    alpha: float
    decided_at: float
    """The level of a single test that an undecided comparison had to reach."""

    @cached_property
    def estimate(self) -> Estimate:
        """Mean and deviation of the pairs with finite values, with Student's interval; NaN without one."""
        return estimate(self.pairs.finite) if self.pairs.finite else Estimate(math.nan, 0)

    @cached_property
    def _bca(self) -> tuple[float, float] | None:
        return bca_interval(self.pairs.finite)

    @property
    def bca_low(self) -> float | None:
        """The lower end of the BCa interval of the mean, 95 % for this comparison alone. It describes; it decides
        nothing. None without two different values."""
        return self._bca[0] if self._bca else None

    @property
    def bca_high(self) -> float | None:
        return self._bca[1] if self._bca else None

    @cached_property
    def p_not_worse(self) -> float | None:
        """Against "the first is worse by the margin or more", Bonferroni's for the family; None without a margin.

        Of this hypothesis and "no difference" one at most is true, so this adds nothing to the error of a family.
        """
        if self.pairs.margin is None or not self.comparisons:
            return None
        p = non_inferiority(_test(self.pairs), self.pairs.margin, self.pairs.better)
        return min(1.0, p * self.comparisons)

    @property
    def is_not_worse(self) -> bool:
        """Whether the first is surely not worse by the margin or more, though nothing else is decided."""
        return self.kind == "undecided" and self.p_not_worse is not None and self.p_not_worse <= self.alpha

    @property
    def n(self) -> int:
        """The pairs that the test has: those with a finite value at least on one side."""
        return len(self.pairs.seeds) - self.pairs.diverged[2]

    @property
    def left_out(self) -> int:
        """The pairs that are not in the mean, because a side has no finite value."""
        return sum(self.pairs.diverged)

    @cached_property
    def more_seeds(self) -> int | None:
        """About how many more seeds decide an undecided comparison with probability 0.8, if the true difference and
        deviation are those observed. None if it is decided, if that takes more than 1,000, or if a training diverged.
        """
        if self.kind != "undecided" or self.left_out or self.n == 0:
            return None
        if self.estimate.sd is None:
            return self._missing_pairs
        return more_pairs(self.estimate.mean, self.estimate.sd, self.n, self.decided_at, self.pairs.margin)

    @property
    def _missing_pairs(self) -> int:
        """How many pairs fewer there are than can decide such a family."""
        return max(0, pairs_to_decide(self.comparisons, self.alpha) - self.n)

    @property
    def _can_decide(self) -> bool:
        """Whether any data of so many pairs decide such a family. Equivalence takes one pair less."""
        return self._missing_pairs <= (0 if self.pairs.margin is None else 1)

    def __str__(self) -> str:
        if self.kind == "equivalent":
            return f"equivalent within {self.pairs.margin:g}"
        if self.kind != "undecided":
            return self.kind
        if self.n == 0:
            return "undecided (no pair of seeds)"
        if self.left_out:
            return f"undecided (a training diverged in {self.left_out} of {counted(len(self.pairs.seeds), 'pair')})"
        if self.estimate.sd == 0 and self.estimate.mean == 0 and self.pairs.margin is None:
            return "undecided (no difference in any pair)"
        more = self.more_seeds
        if more is None:
            text = f"more than {MOST_SEEDS:,} more seeds"
        else:
            text = f"{'at least' if more == self._missing_pairs else 'about'} {counted(more, 'more seed')}"
        if not self._can_decide:
            text += f"; {counted(self.n, 'pair')} cannot decide {counted(self.comparisons, 'comparison')}"
        return f"undecided ({text})"

    def note(self, first: str = "the first", second: str = "the second") -> str:
        """What a reader must know of trainings that diverged; empty without any."""
        counts = [(who, n) for who, n in zip((first, second, "both"), self.pairs.diverged, strict=True) if n]
        if not counts:
            return ""
        (who, n), *others = counts
        text = f"{who} diverged in {n} of {counted(len(self.pairs.seeds), 'pair')}"
        return ", ".join([text, *(f"{who} in {n}" for who, n in others)])


def verdicts(comparisons: Sequence[Pairs], alpha: float = 0.05) -> list[Verdict]:
    """A verdict on each comparison of a family, in which any wrong verdict has a probability of at most `alpha`.

    alpha: default 5 %, the field's habit. Members of a family may differ in metric and margin.

    - `better` or `worse`: the sign-flip test rejects that the differences have the center 0.
    - `equivalent within m`: two one-sided sign-flip tests reject that it is −m or less, and m or more. It takes
      precedence over `better` and `worse`.
    - `undecided`: neither, with a forecast of the seeds that would decide it.

    Without a margin, the p values are adjusted for the family by Holm's method. With one, there are two hypotheses per
    comparison, of which one at most is true: a center is not both 0 and beyond the margin. So the method compares each
    p value with alpha over the number of comparisons of which a hypothesis is left (Shaffer, "Modified sequentially
    rejective multiple test procedures", 1986), which is Holm's method if there is one per comparison. Both kinds of
    verdict together then have the level alpha.

    A training that diverged (NaN) counts as worse than any that did not, by an infinite difference. A pair in which
    both diverged says nothing and is left out. Comparisons without a pair do not count as members of the family.

    The test is exact if the differences are symmetric about their center, as those of two rows with the same skewed
    distribution are. Skewed differences whose mean is 0 are called better or worse too often: at 12 pairs, in 8 % of
    simulated families instead of 5 % for a skewness of 1, in 23 % for lognormal against normal values, and in 29 % for
    lognormal differences. Student's t test has the same weakness, with 9, 25 and 33 %.
    `tests/suite/test_verdict_rates.py` measures these rates.
    """
    tests = [_test(each) for each in comparisons]
    hypotheses = []
    for pairs, test in zip(comparisons, tests, strict=True):
        if pairs.margin is not None and not pairs.margin > 0:
            raise ValueError(f"margin is {pairs.margin}, but it must be positive")
        if test.flips > 1:
            hypotheses.append([test.p()] if pairs.margin is None else [test.p(), equivalence(test, pairs.margin)])
        else:
            hypotheses.append([])
    adjusted, divisors = step_down(hypotheses, alpha)
    family = sum(map(bool, hypotheses))
    made = []
    for pairs, test, own, divisor in zip(comparisons, tests, adjusted, divisors, strict=True):
        p_adjusted = own[0] if own else 1.0
        p_equivalent = own[1] if len(own) > 1 else None
        decided_at = alpha / max(divisor, default=max(1, family))
        kind: Kind = "undecided"
        level = 1 - decided_at
        if p_equivalent is not None and p_equivalent <= alpha:
            kind, level = "equivalent", 1 - 2 * alpha / divisor[1]
        elif p_adjusted <= alpha:
            kind = "better" if (test.p_above() < test.p_below()) == (pairs.better == "larger") else "worse"
            level = 1 - alpha / divisor[0]
        low, high = test.interval(level)
        p = test.p()
        made.append(Verdict(kind, pairs, family, low, high, level, p, p_adjusted, p_equivalent, alpha, decided_at))
    return made


def _test(pairs: Pairs) -> SignFlips:
    worst = -math.inf if pairs.better == "larger" else math.inf
    first, second, _ = pairs.diverged
    return sign_flips([*pairs.finite, *[worst] * first, *[-worst] * second])


def step_down(hypotheses: Sequence[Sequence[float]], alpha: float) -> tuple[list[list[float]], list[list[int]]]:
    """Holm's method for comparisons with several hypotheses each, of which one at most is true.

    hypotheses: the p values of each comparison. Returns, in the same shape, the adjusted p values, which reject if they
    are at most alpha, and the divisor of alpha with which each p value is compared: the number of comparisons of which
    a hypothesis is left. Where the method stops, all that are left have the divisor of the first that was not rejected.
    """
    order = sorted((p, i, j) for i, own in enumerate(hypotheses) for j, p in enumerate(own))
    adjusted = [[1.0] * len(own) for own in hypotheses]
    divisors = [[0] * len(own) for own in hypotheses]
    left = [len(own) for own in hypotheses]
    highest, divisor = 0.0, 0
    for p, i, j in order:
        if highest <= alpha:
            divisor = sum(map(bool, left))
        highest = min(1.0, max(highest, p * sum(map(bool, left))))
        adjusted[i][j], divisors[i][j] = highest, divisor
        left[i] -= 1
    return adjusted, divisors
