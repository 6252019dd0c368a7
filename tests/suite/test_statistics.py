"""Means, deviations and intervals against those of SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from novobench.suite.statistics import Estimate, bca_interval, estimate, paired_difference, pooled_sd


def test_the_interval_is_that_of_student():
    values = [76.1, 76.9, 75.8, 76.4, 77.0]
    result = estimate(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=stats.tmean(values), scale=stats.sem(values))
    assert (result.mean, result.low, result.high) == pytest.approx((stats.tmean(values), low, high))
    assert result.sd == pytest.approx(stats.tstd(values))
    assert str(result) == f"{result.mean:.2f} ± {high - result.mean:.2f}"


def test_one_seed_has_no_interval():
    result = estimate([3.14159])
    assert (result.mean, result.sd, result.low, result.high) == (3.14159, None, None, None)
    assert str(result) == "3.14"
    assert not result.excludes_zero


def test_equal_seeds_have_an_interval_of_width_zero():
    result = estimate([2.0, 2.0, 2.0])
    assert result.low == result.high == 2.0
    assert result.sd == 0.0
    assert str(result) == "2.00 ± 0.00"


def test_a_narrow_interval_is_shown():
    assert str(Estimate(0.04321, 5, 0.001, 0.04321 - 0.0042, 0.04321 + 0.0042)) == "0.043 ± 0.004"


def test_paired_differences_agree_with_the_paired_t_test():
    first, second = {0: 92.4, 1: 91.0, 2: 88.9, 4: 91.4, 7: 90.0}, {0: 93.3, 1: 93.4, 2: 93.2, 3: 93.3, 4: 93.6}
    common = [0, 1, 2, 4]
    test = stats.ttest_rel([first[seed] for seed in common], [second[seed] for seed in common])
    result = paired_difference(first, second)
    interval = test.confidence_interval()
    assert (result.n, result.low, result.high) == (4, pytest.approx(interval.low), pytest.approx(interval.high))
    assert result.excludes_zero == (test.pvalue < 0.05)


def test_a_value_that_is_not_finite_makes_no_pair():
    assert paired_difference({0: 1.0, 1: math.nan, 2: 5.0}, {0: 3.0, 1: 2.0, 2: math.inf}) == Estimate(-2.0, 1)
    nothing = paired_difference({0: 1.0, 1: math.nan}, {1: 2.0})
    assert (nothing.n, math.isnan(nothing.mean), nothing.excludes_zero) == (0, True, False)


@pytest.mark.parametrize(("values", "excludes"), [([1.0, 1.1], True), ([-1.0, -1.1], True), ([-1.0, 2.0], False)])
def test_the_interval_of_a_difference_on_either_side_of_zero(values, excludes):
    assert estimate(values).excludes_zero is excludes


def test_the_pooled_deviation_is_that_of_an_analysis_of_variance():
    groups = [[92.9, 92.2, 92.1, 92.2, 91.9], [93.3, 93.4, 93.2], [92.4, 91.0, 88.9, 91.9]]
    one_hot = np.repeat(np.eye(3), [5, 3, 4], axis=0)
    _, residual, _, _ = np.linalg.lstsq(one_hot, np.concatenate(groups), rcond=None)
    pooled = pooled_sd([*groups, [50.0], [], [math.nan, 1.0]])
    assert pooled == pytest.approx(math.sqrt(residual[0] / (12 - 3)))
    assert pooled_sd([[1.0], [2.0]]) is None


def test_the_bootstrap_interval_is_that_of_paired_samples():
    """`scipy.stats.bootstrap` of the two samples, paired: the same interval up to the noise of its resamples."""
    first, second = [92.4, 91.0, 88.9, 91.9, 91.4, 90.0, 91.1], [92.9, 92.2, 92.1, 92.2, 91.9, 90.5, 93.0]
    low, high = bca_interval([one - other for one, other in zip(first, second, strict=True)])
    interval = stats.bootstrap(
        (first, second),
        lambda one, other, axis: np.mean(one, axis=axis) - np.mean(other, axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=50_000,
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert (low, high) == (pytest.approx(interval.low, abs=0.03), pytest.approx(interval.high, abs=0.03))
    assert (low, high) == bca_interval([one - other for one, other in zip(first, second, strict=True)])


@pytest.mark.parametrize("values", [[], [1.0], [0.0, 0.0, 0.0]])
def test_equal_values_have_no_bootstrap_interval(values):
    assert bca_interval(values) is None


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.0, 0.0, 1e-200], [1e200, 0.0, -1e200]])
def test_few_values_have_a_bootstrap_interval_within_them(values):
    low, high = bca_interval(values)
    assert min(values) <= low < high <= max(values)
