"""Expected best values against all choices of trials, and bands against those of opda."""

import itertools
import math
import statistics

import numpy as np
import pytest

from novobench.suite.tuning_curves import expected_best, median_best


@pytest.mark.parametrize("better", ["larger", "smaller"])
@pytest.mark.parametrize("failed", [0, 1, 3, 7])
def test_the_expected_best_is_the_mean_over_all_choices(better, failed):
    values = [41.5, 3.0, 77.0, 77.0, 12.25, 60.0, -4.0][failed:] + [None] * failed
    best = max if better == "larger" else min
    expected = expected_best(values, better)
    assert list(expected) == list(range(failed + 1, len(values) + 1))
    for n, value in expected.items():
        choices = itertools.combinations(values, n)
        bests = [best(value for value in choice if value is not None) for choice in choices]
        assert value == pytest.approx(statistics.fmean(bests))


def test_one_trial_has_the_mean_and_all_have_the_best():
    expected = expected_best([30.0, 10.0, 20.0], "larger")
    assert expected == pytest.approx({1: 20.0, 2: (30 + 30 + 20) / 3, 3: 30.0})


INF = math.inf
TRIALS = [0.31, 0.52, 0.48, 0.77, 0.69, 0.55, 0.12, 0.73]


@pytest.mark.parametrize(
    ("better", "confidence", "low", "median", "high"),
    [
        ("larger", 0.95, [0.12, 0.48, 0.48, 0.52], [0.52, 0.69, 0.73, 0.73], [0.77, INF, INF, INF]),
        ("smaller", 0.95, [0.12, -INF, -INF, -INF], [0.52, 0.48, 0.31, 0.31], [0.77, 0.69, 0.69, 0.55]),
        ("larger", 0.8, [0.31, 0.48, 0.52, 0.52], [0.52, 0.69, 0.73, 0.73], [0.73, INF, INF, INF]),
        ("smaller", 0.8, [0.31, -INF, -INF, -INF], [0.52, 0.48, 0.31, 0.31], [0.73, 0.69, 0.55, 0.55]),
    ],
)
def test_the_band_of_the_median_best_is_that_of_opda(better, confidence, low, median, high):
    """`EmpiricalDistribution.confidence_bands(TRIALS, confidence, method="ks")`, its `quantile_tuning_curve([1, 2, 3,
    4], q=0.5, minimize=…)`, of opda 0.8.0."""
    curve = median_best(TRIALS, better, confidence)
    assert [point.trials for point in curve] == list(range(1, 9))
    assert [point[1:] for point in curve[:4]] == list(zip(median, low, high, strict=True))


def test_a_failed_trial_is_the_worst():
    curve = median_best([0.3, None, None, None], "larger")
    assert [point.median for point in curve] == [-INF, -INF, 0.3, 0.3]
    assert {point.low for point in curve} == {-INF}


def test_the_band_contains_the_whole_curve_as_often_as_it_says():
    """Of values that are uniform in [0, 1], the median best of n is the n-th root of a half."""
    rng = np.random.default_rng(0)
    curves = [median_best(list(rng.random(8)), "larger", 0.8) for _ in range(400)]
    kept = sum(all(point.low <= 0.5 ** (1 / point.trials) <= point.high for point in curve) for curve in curves)
    assert kept / 400 >= 0.8 - 0.06
