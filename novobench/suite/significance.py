"""Tests of one comparison: sign flips for pairs, Welch's test for unpaired seeds, and both against a margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

_ENUMERATED = 16
"""Pairs up to which all 2ⁿ sign flips are tried; with more, as many are drawn."""


class CenterTest(Protocol):
    """A test of the center of a difference, with the interval that inverts it."""

    def p_above(self, center: float = 0.0) -> float:
        """The one-sided p value against "the difference is at most `center`"."""

    def p_below(self, center: float = 0.0) -> float:
        """The one-sided p value against "the difference is at least `center`"."""

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The centers that the two-sided test does not reject at the level 1 − confidence."""


@dataclass(frozen=True)
class SignFlips:
    """The sign-flip test of the mean: does the center of paired differences differ from a value c?

    If the differences are symmetric about c, each sign of d − c is as likely as the other, and so are all 2ⁿ means that
    flipped signs give. p is the share of them that lie as far out as the mean observed. To flip the pairs of a subset S
    gives a mean as high or higher exactly if mean(S) ≤ c. So the p value for any c, and with it the interval, comes
    from the sorted means of all nonempty subsets (Hartigan, "Using subsample values as typical values", 1969).

    The test is exact for differences that are symmetric about c, whatever their distribution; they need not be equally
    distributed. It is not exact for skewed ones, whose mean then is no center of symmetry.
    """

    means: np.ndarray
    """Means of the subsets in ascending order; infinite where a subset has an infinite difference."""
    undefined: int
    """Subsets with both infinities. They count as extreme on both sides."""
    tolerance: float
    """Means that differ by less are equal: they differ by rounding only."""

    @property
    def flips(self) -> int:
        """The number of sign flips tried, that of no pair included."""
        return len(self.means) + self.undefined + 1

    def p_above(self, center: float = 0.0) -> float:
        smaller = int(np.searchsorted(self.means, center + self.tolerance, side="right"))
        return (1 + self.undefined + smaller) / self.flips

    def p_below(self, center: float = 0.0) -> float:
        larger = len(self.means) - int(np.searchsorted(self.means, center - self.tolerance, side="left"))
        return (1 + self.undefined + larger) / self.flips

    def p(self, center: float = 0.0) -> float:
        """The two-sided p value: twice the smaller one-sided one."""
        return min(1.0, 2 * min(self.p_above(center), self.p_below(center)))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The centers with p above 1 − confidence. Infinite on both sides if there are too few pairs for any p as low.

        It contains a center exactly if the test does not reject it.
        """
        # A one-sided p above (1 - confidence) / 2 takes this many subsets.
        needed = math.floor((1 - confidence) / 2 * self.flips) - self.undefined
        if needed < 1:
            return -math.inf, math.inf
        return float(self.means[needed - 1]) - self.tolerance, float(self.means[-needed]) + self.tolerance


def sign_flips(differences: Sequence[float]) -> SignFlips:
    """The sign-flip test of paired differences.

    differences: one per pair, without NaN. ±inf stands for a pair in which one side has no finite value and so is worse
    than any. With more than 16 pairs, 2¹⁶ subsets are drawn, always the same ones.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n <= _ENUMERATED:
        sums, counts = np.zeros(1), np.zeros(1)
        with np.errstate(invalid="ignore"):  # inf − inf
            for value in values:
                sums, counts = np.concatenate([sums, sums + value]), np.concatenate([counts, counts + 1])
    else:
        generator = np.random.default_rng(n)
        sums, counts = np.zeros(2**_ENUMERATED), np.zeros(2**_ENUMERATED)
        with np.errstate(invalid="ignore"):
            for value in values:
                drawn = np.unpackbits(np.frombuffer(generator.bytes(2**_ENUMERATED // 8), np.uint8))
                sums += np.where(drawn, value, 0.0)
                counts += drawn
        counts[0] = 0  # so that p values have the denominator 2¹⁶
    subsets = counts > 0
    means = np.sort(sums[subsets] / counts[subsets])  # NaN is last
    undefined = int(np.isnan(means).sum())
    size = float(np.max(np.abs(values), where=np.isfinite(values), initial=0.0))
    return SignFlips(means[: len(means) - undefined], undefined, 1e-9 * size)


def attainable(pairs: np.ndarray, level: float) -> np.ndarray:
    """The highest two-sided p value up to `level` that the sign-flip test of so many pairs can have, or 0 for none."""
    flips = 2.0 ** np.minimum(pairs, _ENUMERATED)
    return 2 * np.floor(level / 2 * flips) / flips


@dataclass(frozen=True)
class Welch:
    """Welch's t test of the mean of `first` − `second`: two independent samples, which may differ in variance.

    Each has two values at least, and not all values are equal.
    """

    first: Sequence[float]
    second: Sequence[float]

    def p_above(self, center: float = 0.0) -> float:
        return float(self._test(center, "greater").pvalue)

    def p_below(self, center: float = 0.0) -> float:
        return float(self._test(center, "less").pvalue)

    def p(self, center: float = 0.0) -> float:
        """The two-sided p value."""
        return float(self._test(center, "two-sided").pvalue)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        low, high = self._test(0.0, "two-sided").confidence_interval(confidence)
        return float(low), float(high)

    def _test(self, center: float, alternative: str) -> Any:
        from scipy.stats import ttest_ind  # importing it takes a second

        return ttest_ind(np.asarray(self.first) - center, self.second, equal_var=False, alternative=alternative)


def equivalence(test: CenterTest, margin: float) -> float:
    """The p value against "the difference is `margin` or more, in either direction".

    Two one-sided tests, both of which must reject (Schuirmann, 1987). It is at most a exactly if the interval of
    confidence 1 − 2a lies within ±margin.
    """
    return max(test.p_above(-margin), test.p_below(margin))


def non_inferiority(test: CenterTest, margin: float, better: str) -> float:
    """The p value against "the first is worse by `margin` or more". better: `larger` or `smaller`."""
    return test.p_above(-margin) if better == "larger" else test.p_below(margin)
