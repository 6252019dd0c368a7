"""Intervals against SciPy's own."""

import math

import pytest
from scipy import stats

from novobench.suite.statistics import estimate


def test_the_interval_is_students():
    values = [76.1, 76.9, 75.8, 76.4, 77.0]
    found = estimate(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=stats.tmean(values), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((stats.tmean(values), low, high))
    assert found.sd == pytest.approx(stats.tstd(values))
    assert str(found) == f"{found.mean:.2f} ± {high - found.mean:.2f}"


def test_one_seed_has_no_interval():
    found = estimate([3.14159])
    assert (found.mean, found.sd, found.low, found.high) == (3.14159, None, None, None)
    assert str(found) == "3.14"


def test_equal_seeds_have_an_interval_of_nothing():
    found = estimate([2.0, 2.0, 2.0])
    assert found.low == found.high == 2.0
    assert not math.isnan(found.sd)
