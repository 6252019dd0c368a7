"""What tables say about searches."""

from dataclasses import replace

import pytest

from novobench.suite.experiment import load_experiment
from novobench.suite.search_checks import departures
from novobench.suite.search_file import SearchedKey, SearchedTrial
from novobench.suite.search_space import are_points_of, points
from tests.suite.finished import collected, finished, written_table

RANGES = {"optimizer.lr": [0.001, 0.1], "optimizer.weight_decay": [1.0e-4, 1.0e-2]}
"""Those of the small experiment, with 16 × 2 trials."""


def searched(trials=16, seeds=2, rounds=1, best=None, ranges=RANGES, study=0):
    """A search as it is declared, except for the arguments. best: number of the best trial, one inside by default."""
    tried = [(round, point) for round in range(rounds) for point in points(ranges, trials, 4.0, study, round)]
    if best is None:
        inside = {key: sorted(point[key] for _, point in tried)[1:-1] for key in ranges}
        best = next(n for n, (_, point) in enumerate(tried) if all(point[key] in inside[key] for key in ranges))
    trials = [
        SearchedTrial(round, number, point, number == best, [50.0] * seeds)
        for number, (round, point) in enumerate(tried)
    ]
    return SearchedKey("image", "key", "small", study, "novograd", "top1", "search", trials)


@pytest.fixture
def small(workspace):
    return load_experiment("small")


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_search_as_declared_has_no_departure(small, rounds):
    own = searched(rounds=rounds)
    assert departures(own, small, [own, searched(rounds=rounds, study=1)]) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"trials": 4}, "searched with 4 × 2 trials per round instead of 16 × 2"),
        ({"trials": 32}, "searched with 32 × 2 trials per round instead of 16 × 2"),
        ({"seeds": 1}, "searched with 16 × 1 trials per round instead of 16 × 2"),
        ({"ranges": RANGES | {"optimizer.lr": [0.001, 0.2]}}, "searched in other ranges than small declares"),
        ({"ranges": {"optimizer.lr": [0.001, 0.1]}}, "searched in other ranges than small declares"),
        ({"rounds": 1}, "searched in 1 round, other rates of small in 2"),
    ],
)
def test_a_search_that_is_not_as_declared(small, changes, problem):
    own = searched(**{"rounds": 2} | changes)
    assert departures(own, small, [own, searched(rounds=2)]) == [problem]


def test_a_round_that_lost_a_trial(small):
    own = searched(rounds=2)
    lost = replace(own, trials=own.trials[:-1])
    assert departures(lost, small, [lost])[0] == "searched with 15-16 × 2 trials per round instead of 16 × 2"


@pytest.mark.parametrize("study", range(4))
@pytest.mark.parametrize("trials", [1, 8, 64])
def test_points_are_recognized(study, trials):
    tried = points(RANGES, trials, 3.0, study, 1)
    assert are_points_of(RANGES, 3.0, 1, tried)
    assert not are_points_of(RANGES, 9.0, 1, tried) or trials == 1  # one point can be of both
    assert not are_points_of(RANGES, 3.0, 1, [*tried, {**tried[0], "optimizer.lr": 0.0}])


# ---------------------------------------------------------------------------------------------- special cases


@pytest.fixture
def special(workspace):
    """The small experiment, in which SGD is a special case of NovoGrad."""
    path = workspace / "experiments" / "small.yaml"
    path.write_text(path.read_text().replace("label: SGD\n", "label: SGD\n    special_case_of: novograd\n"))
    (workspace / "configs" / "image" / "tuned-laptop.yaml").write_text("novograd-b32: {optimizer.lr: 0.02}\n")


def warning(sgd, novograd):
    """The warning on the row of NovoGrad, for the values of seeds 0, 1, …"""
    for row, values in (("sgd", sgd), ("novograd", novograd)):
        for seed, value in enumerate(values):
            collected(finished("small", row, {"test": {"top1": value}}, seed=seed))
    rows, _ = written_table()
    assert rows["sgd"]["warnings"] == ""
    return rows["novograd"]["warnings"]


def test_a_row_that_loses_to_its_special_case_has_a_failed_search(special):
    """Paired differences 2, 3, 4: mean 3, t = 4.303 at two degrees of freedom, so ± 4.303 / √3."""
    expected = "its search failed: its special case SGD is better by 3.00 ± 2.48"
    assert warning(sgd=[52.0, 63.0, 74.0], novograd=[50.0, 60.0, 70.0]) == expected


@pytest.mark.parametrize(
    ("sgd", "novograd"),
    [
        ([52.0, 63.0, 74.0], [54.0, 66.0, 78.0]),  # better
        ([52.0, 63.0, 69.0], [50.0, 60.0, 70.0]),  # undecided
        ([52.0], [40.0]),  # one seed decides nothing
        ([52.0, 63.0], []),  # not run
    ],
)
def test_without_evidence_there_is_no_alarm(special, sgd, novograd):
    assert warning(sgd, novograd) == ""


def test_where_smaller_is_better_the_alarm_is_the_other_way_round(special, workspace):
    path = workspace / "experiments" / "small.yaml"
    path.write_text(path.read_text().replace("label: top-1}", "label: top-1, better: smaller}"))
    expected = "its search failed: its special case SGD is better by 3.00 ± 2.48"
    assert warning(sgd=[48.0, 57.0, 66.0], novograd=[50.0, 60.0, 70.0]) == expected
