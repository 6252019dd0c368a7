"""Expected best values against all choices of trials, and the files that show them."""

import itertools
import statistics

import pytest

from novobench.suite.tuning_curves import expected_best


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
