"""Scores over tasks against rliable's, and profiles against what their definitions say."""

import math

import numpy as np
import pytest

from novobench.suite.aggregates import (
    first_to_reach,
    interquartile_mean,
    median_cost,
    performance_profile,
    probability_of_improvement,
    profile_score,
    ratios_to_best,
)

FIRST = [-0.7, -0.2, 1.7, 0.7, -1.6, 0.0, -0.6, 0.1, -1.6, 0.2, 0.2, 1.6, 0.3, 0.5, -1.5]
SECOND = [2.6, -1.6, 1.4, 0.0, -0.6, -0.4, -0.4, 0.7, 0.2, 1.8, -1.5, 0.3]
"""Of three tasks in turn, over five seeds and over four."""


def test_the_interquartile_mean_is_that_of_rliable():
    """`rliable.metrics.aggregate_iqm` of version 1.2.0, on 15 and on 12 values."""
    for scores, expected in ((FIRST, -0.022222222222222216), (SECOND, 0.06666666666666664)):
        assert interquartile_mean(scores, "larger") == pytest.approx(expected)
        assert interquartile_mean([-score for score in scores], "smaller") == pytest.approx(-expected)


def test_diverged_trainings_are_the_worst_quarter():
    assert interquartile_mean([math.nan, 1.0, 3.0, 9.0], "larger") == 2.0
    assert interquartile_mean([math.nan, 1.0, 3.0, 9.0], "smaller") == 6.0
    assert interquartile_mean([math.nan, math.nan, 3.0, 9.0], "larger") == -math.inf


def test_the_probability_of_improvement_is_that_of_rliable():
    """`rliable.metrics.probability_of_improvement` of version 1.2.0."""
    columns = [{task: values[task::3] for task in range(3)} for values in (FIRST, SECOND)]
    better = dict.fromkeys(range(3), "larger")
    share = probability_of_improvement(*columns, better)
    assert share == pytest.approx(0.4583333333333333)
    assert probability_of_improvement(*columns, dict.fromkeys(range(3), "smaller")) == pytest.approx(1 - share)
    assert probability_of_improvement(*reversed(columns), better) == pytest.approx(1 - share)


def test_a_diverged_training_improves_on_none():
    better = {"image": "smaller"}
    assert probability_of_improvement({"image": [math.nan, 1.0]}, {"image": [2.0, math.inf]}, better) == (0.5 + 2) / 4
    assert math.isnan(probability_of_improvement({"image": [1.0]}, {"speech": [1.0]}, better))


def test_the_first_evaluation_as_good_as_the_target():
    points = [(10, 50.0), (20, math.nan), (30, 70.0), (40, 60.0), (50, 75.0)]
    assert first_to_reach(points, 70.0, "larger") == 30
    assert first_to_reach(points, 70.0, "smaller") == 10
    assert first_to_reach(points, 76.0, "larger") == math.inf


@pytest.mark.parametrize(
    ("costs", "median"),
    [([3.0, 1.0, 2.0], 2.0), ([1.0, math.inf, 2.0], 2.0), ([1.0, math.inf], math.inf), ([], math.inf)],
)
def test_the_median_cost_of_seeds(costs, median):
    assert median_cost(costs) == median


def test_profiles_and_their_area():
    """The area of AlgoPerf by the trapezoids of a fine grid. Neither optimizer reaches the target of `speech`."""
    costs = {
        "novograd": {"image": 100.0, "language": 300.0, "speech": math.inf},
        "adamw": {"image": 150.0, "language": 100.0, "speech": math.inf},
    }
    ratios = ratios_to_best(costs)
    assert ratios["novograd"] == {"image": 1.0, "language": 3.0, "speech": math.inf}
    assert ratios["adamw"] == {"image": 1.5, "language": 1.0, "speech": math.inf}
    assert performance_profile(ratios["novograd"].values(), [1, 2.9, 3, 100]) == [1 / 3, 1 / 3, 2 / 3, 2 / 3]
    grid = np.linspace(1, 4, 30_001)
    for each in ratios.values():
        area = np.trapezoid(performance_profile(each.values(), grid), grid) / 3
        assert profile_score(each.values()) == pytest.approx(area, abs=1e-4)
    assert profile_score([1.0, 1.0]) == 1.0
    assert ratios_to_best({"a": {"image": 0.0}, "b": {"image": 5.0}}) == {"a": {"image": 1.0}, "b": {"image": math.inf}}
