"""Tests of one comparison against SciPy's, statsmodels' and exact counts."""

import math

import numpy as np
import pytest
from scipy import stats

from novobench.suite.significance import Welch, attainable, equivalence, non_inferiority, sign_flips

FIRST, SECOND = [92.4, 91.0, 88.9, 91.9, 91.4, 90.3], [92.9, 92.2, 92.1, 92.2, 91.9]


def samples():
    """Differences with and without ties, zeros and outliers."""
    rng = np.random.default_rng(3)
    return [
        [0.0, 0.0, 0.0],
        [0.5, -0.5, 1.0, 1.0, 0.0, 2.0, -1.0],
        [first - second for first, second in zip(FIRST, SECOND, strict=False)],  # 92.4 − 92.9 is no decimal fraction
        [0.1, 0.2, -0.3, 0.3, 0.1, -0.2],
        *(list(rng.standard_t(2, n)) for n in (2, 6, 9, 11)),
    ]


def scipy_p(differences, center, alternative):
    shifted = np.asarray(differences) - center
    test = stats.permutation_test(
        (shifted,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=alternative
    )
    return test.pvalue


@pytest.mark.parametrize("differences", samples())
def test_p_values_are_those_of_a_permutation_test(differences):
    flips = sign_flips(differences)
    for center in (0.0, -0.5, 0.2, 1.0):
        assert flips.p_above(center) == pytest.approx(scipy_p(differences, center, "greater"))
        assert flips.p_below(center) == pytest.approx(scipy_p(differences, center, "less"))
        assert flips.p(center) == pytest.approx(scipy_p(differences, center, "two-sided"))


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("differences", [each for each in samples() if len(each) > 8])
def test_the_interval_has_the_centers_that_the_permutation_test_does_not_reject(differences, confidence):
    low, high = sign_flips(differences).interval(confidence)
    for center in (low + 1e-6, (low + high) / 2, high - 1e-6):
        assert scipy_p(differences, center, "two-sided") > 1 - confidence
    for center in (low - 1e-6, high + 1e-6):
        assert scipy_p(differences, center, "two-sided") <= 1 - confidence


@pytest.mark.parametrize(("n", "confidence"), [(0, 0.5), (1, 0.5), (5, 0.95), (8, 1 - 0.05 / 8)])
def test_too_few_pairs_have_no_interval(n, confidence):
    differences = list(np.random.default_rng(n).normal(5, 1, n + 1))
    assert sign_flips(differences[:n]).interval(confidence) == (-math.inf, math.inf)
    assert math.isfinite(sum(sign_flips(differences).interval(confidence))) or n < 2


def test_a_value_at_the_end_of_the_interval_is_not_rejected():
    """Differences in steps of 0.1, which floats do not have: rounding decides nothing."""
    differences = [0.3, 0.1 + 0.2, 0.4 - 0.1, 0.9 - 0.6, 0.3, 0.3]
    flips = sign_flips(differences)
    low, high = flips.interval()
    assert (low, high) == pytest.approx((0.3, 0.3))
    assert flips.p(0.3) == 1.0
    assert flips.p(0.2) == flips.p(0.4) == 2 / 64


def test_many_pairs_are_tried_with_a_sample_of_flips():
    """Against all 2³⁰ flips, counted by convolution, which integers allow."""
    differences = np.random.default_rng(1).integers(-3, 6, 30)
    counts = np.ones(1)
    for difference in differences:
        size = 2 * abs(difference)
        counts = np.pad(counts, (0, size)) + np.pad(counts, (size, 0))
    sums = np.arange(len(counts)) - np.abs(differences).sum()
    exact = counts[sums >= differences.sum()].sum() / 2.0**30
    flips = sign_flips(list(map(float, differences)))
    assert 0.001 < exact < 0.05
    assert flips.p_above() == pytest.approx(exact, abs=4 * math.sqrt(exact / 2**16))
    assert flips.means.tolist() == sign_flips(list(map(float, differences))).means.tolist()


def test_infinite_differences_are_beyond_all_others():
    """Six pairs of which the first side is worse without limit: the p values are those of six equal signs. One such
    pair in nine says nothing against "the first is better", in which half of all flips then lie as far out."""
    assert sign_flips([-math.inf] * 6).p() == 2 / 64
    flips = sign_flips([-math.inf, *range(1, 9)])
    assert flips.p_above() >= 0.5
    assert flips.p_below() >= 0.5 - 1 / 2**9
    low, high = flips.interval(0.9)
    assert low == -math.inf
    assert math.isfinite(high)
    both = sign_flips([-math.inf, math.inf, *range(1, 9)])
    assert min(both.p_above(), both.p_below()) >= 0.25


def test_the_test_of_unpaired_seeds_is_that_of_welch():
    test = Welch(FIRST, SECOND)
    squares = [np.var(values, ddof=1) / len(values) for values in (FIRST, SECOND)]
    freedom = sum(squares) ** 2 / sum(each**2 / (len(v) - 1) for each, v in zip(squares, (FIRST, SECOND), strict=True))
    distribution = stats.t(freedom, np.mean(FIRST) - np.mean(SECOND), math.sqrt(sum(squares)))
    assert test.interval(0.9) == pytest.approx(distribution.interval(0.9))
    for center in (0.0, -2.0):
        assert test.p_above(center) == pytest.approx(distribution.cdf(center))
        assert test.p_below(center) == pytest.approx(distribution.sf(center))
        assert test.p(center) == pytest.approx(2 * min(distribution.cdf(center), distribution.sf(center)))


def test_equivalence_of_unpaired_seeds_is_that_of_statsmodels():
    """`statsmodels.stats.weightstats.ttost_ind(FIRST, SECOND, -3, 3, usevar="unequal")`, and -1.5, 2.5, of 0.15."""
    assert Welch(FIRST, SECOND).p_above(-1.5) == pytest.approx(0.34619553055388663)
    assert Welch(FIRST, SECOND).p_below(2.5) == pytest.approx(0.0001990397424163978)
    assert equivalence(Welch(FIRST, SECOND), 3.0) == pytest.approx(0.009131571570656805)


@pytest.mark.parametrize("margin", [0.1, 1.0, 4.0])
def test_equivalence_of_pairs_is_that_of_two_permutation_tests(margin):
    for differences in samples():
        test = sign_flips(differences)
        lower, upper = scipy_p(differences, -margin, "greater"), scipy_p(differences, margin, "less")
        assert equivalence(test, margin) == pytest.approx(max(lower, upper))
        assert non_inferiority(test, margin, "larger") == pytest.approx(lower)
        assert non_inferiority(test, margin, "smaller") == pytest.approx(upper)
        low, high = test.interval(1 - 2 * 0.05)
        assert (equivalence(test, margin) <= 0.05) == (-margin < low and high < margin)


def test_attainable_levels():
    assert attainable(np.array([4, 5, 6, 7, 8]), 0.05).tolist() == [0.0, 0.0, 2 / 64, 6 / 128, 12 / 256]
