"""Intervals against those of SciPy."""

import pytest
from scipy import stats

from novobench.suite.statistics import estimate


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


def test_equal_seeds_have_an_interval_of_width_zero():
    result = estimate([2.0, 2.0, 2.0])
    assert result.low == result.high == 2.0
    assert result.sd == 0.0
