"""The points that a search tries, and the ranges that an experiment may declare."""

import math
from dataclasses import replace

import pytest
import yaml

from novobench.errors import ConfigError
from novobench.suite.experiment import load_experiment
from novobench.suite.search_space import Search, edges, points
from novobench.suite.trials import check_ranges, rows_to_search

RANGES = {"optimizer.lr": [0.01, 0.5], "optimizer.weight_decay": [1.0e-5, 1.0e-3]}


def test_points_stay_what_they_were():
    """Results of earlier versions have these trials; other points would retrain all of them."""
    first = [tuple(point.values()) for point in points(RANGES, 16, 4.0, study=0, round=0)]
    assert first[:4] == [(0.05, 0.00085), (0.17, 1.6e-05), (0.34, 0.00011), (0.023, 6.7e-05)]
    assert first[-1] == (0.059, 3.8e-05)
    one_range = points({"optimizer.lr": [0.01, 0.16]}, 8, 4.0, study=0, round=0)
    assert [point["optimizer.lr"] for point in one_range[:6]] == [0.031, 0.081, 0.047, 0.015, 0.011, 0.067]


@pytest.mark.parametrize(("study", "round"), [(0, 0), (0, 1), (0, 2), (3, 1)])
@pytest.mark.parametrize("number", [1, 2, 8, 32])
def test_each_slice_of_a_range_has_one_point(study, round, number):
    """Sobol points whose number is a power of two lie in different slices of each range, equal in logarithm."""
    tried = points(RANGES, number, 3.0, study, round)
    for key, (low, high) in RANGES.items():
        low, high = math.log(low / 3**round), math.log(high * 3**round)
        places = sorted((math.log(point[key]) - low) / (high - low) * number for point in tried)
        rounding = 0.05 / (high - low) * number
        assert all(slice - rounding <= place <= slice + 1 + rounding for slice, place in enumerate(places))


def test_no_two_studies_or_rounds_have_the_same_points():
    unwidened = [tuple(p["optimizer.lr"] for p in points(RANGES, 8, 1.0, s, r)) for s in range(3) for r in range(3)]
    assert len(set(unwidened)) == 9


def test_fewer_trials_are_the_first_ones():
    """A quick try with fewer trials trains nothing in vain."""
    assert points(RANGES, 4, 4.0, 0, 1) == points(RANGES, 16, 4.0, 0, 1)[:4]


def test_an_edge_is_the_smallest_or_largest_value_of_a_key():
    tried = [{"lr": 1.0, "wd": 0.1}, {"lr": 3.0, "wd": 0.3}, {"lr": 2.0, "wd": 0.2}, {"lr": 1.5, "wd": 0.3}]
    assert edges(tried[0], tried) == {"lr": "smallest", "wd": "smallest"}
    assert edges(tried[1], tried) == {"lr": "largest", "wd": "largest"}
    assert edges(tried[2], tried) == {}
    assert edges(tried[3], tried) == {"wd": "largest"}  # as large as another


# ---------------------------------------------------------------------------------------------- declarations


def declared(workspace, **search):
    path = workspace / "experiments" / "small.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "search": search}, sort_keys=False))
    return load_experiment("small").search


SGD, ADAM = {"optimizer.lr": [0.01, 1.0]}, {"optimizer.lr": [0.0003, 0.03]}


def test_equal_ranges_need_no_reason(workspace):
    """They may lie anywhere, and bounds are written with few digits."""
    search = declared(workspace, sgd=SGD, adam=ADAM, novograd={"optimizer.lr": [0.0031, 0.3]})
    assert search == replace(Search(), ranges=search.ranges)
    assert search.ranges_of("adam") == ADAM
    assert set(search.ranges_of("torch.optim:RMSprop")) == {"optimizer.lr", "optimizer.weight_decay"}  # the registry's


@pytest.mark.parametrize(
    ("adam", "problem"),
    [
        ({"optimizer.lr": [0.001, 0.01]}, r"high/low is 10 in adam.optimizer.lr and 100 in sgd.optimizer.lr\."),
        (RANGES, r"the optimizers differ in the number of ranges: sgd has 1, adam 2\."),
    ],
)
def test_unequal_ranges_need_a_reason(workspace, adam, problem):
    with pytest.raises(ConfigError, match=f"small.yaml: 'search': {problem}.* or say why not in `reason`"):
        declared(workspace, sgd=SGD, adam=adam)
    assert declared(workspace, sgd=SGD, adam=adam, reason="Adam's rate is well known.").trials == 16


def test_ranges_of_the_registry_must_be_equal_too(workspace):
    path = workspace / "experiments" / "small.yaml"
    path.write_text(
        path.read_text().replace("optimizer.name: sgd, optimizer.lr: 0.05}", "optimizer.name: sgd, tuned: a}")
    )
    experiment = load_experiment("small")
    rows = rows_to_search(experiment, "laptop")
    with pytest.raises(ConfigError, match="high/low is 100 in novograd-b32.optimizer.lr and 32 in a.optimizer.lr"):
        check_ranges(experiment, rows, "laptop")
    check_ranges(experiment, {"novograd-b32": rows["novograd-b32"]}, "laptop")


def test_a_config_that_only_the_widest_ranges_reach_is_checked_first(workspace):
    declared(workspace, novograd={"optimizer.lr": [0.01, 1.0], "optimizer.options.betas[1]": [0.05, 0.5]})
    experiment = load_experiment("small")
    with pytest.raises(ConfigError, match=r"betas\[1\]"):
        check_ranges(experiment, rows_to_search(experiment, "laptop"), "laptop")
