"""Tables say where their seeds were trained, and warn of pairs whose trainings differ in more than the optimizer."""

import csv

import pytest
import yaml

from novobench.suite.origin import pair_problems
from novobench.suite.results import Results
from tests.suite.finished import TOP1, collected, finished, written_table

OURS = {"hardware": "EPYC (family 25, model 1), 2 cores", "code": "aaa"}


def cells(row, **by_seed):
    """Collect cells of a row; returns their ids. by_seed: `s100={...}`, what differs from `OURS`."""
    folders = [
        finished("small", row, TOP1, seed=int(seed[1:]), **{**OURS, **changes}) for seed, changes in by_seed.items()
    ]
    assert collected(*folders) == []
    return [folder.path.name for folder in folders]


@pytest.mark.usefixtures("results")
def test_pairs_of_one_origin_have_no_problem():
    first = cells("sgd", s100={}, s101={"code": "bbb"}, s102={})
    second = cells("novograd", s100={"hardware": "EPYC (family 25, model 1), 64 cores"}, s101={"code": "bbb"})
    assert pair_problems(Results.load("laptop"), first, second) == {}


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"hardware": "EPYC (family 26, model 2), 2 cores"},
            "trained on different processors (EPYC (family 25, model 1), EPYC (family 26, model 2))",
        ),
        ({"hardware": "EPYC, 2 cores"}, "trained on different processors (EPYC, EPYC (family 25, model 1))"),
        ({"code": "bbb"}, "trained with different code (aaa, bbb)"),
        ({"dirty": True}, "trained with uncommitted changes to the code"),
        (
            {"dirty": True, "code": "bbb"},
            "trained with different code (aaa, bbb); trained with uncommitted changes to the code",
        ),
    ],
)
def test_pairs_of_two_origins(changes, problem):
    for one, other in (({}, changes), (changes, {})):
        first, second = cells("sgd", s100=one, s101={}, s7=changes), cells("novograd", s100=other, s101={})
        assert pair_problems(Results.load("laptop"), first, second) == {100: problem}


def test_a_table_says_which_seeds_were_trained_where(results):
    for row in ("sgd", "novograd"):
        cells(row, s100={}, s101={}, s102={}, s110={"code": "bbb", "dirty": True})
    _, text = written_table()
    machine = "EPYC (family 25, model 1), 2 cores"
    first, other = f"{machine}, code aaa", f"{machine}, code bbb with uncommitted changes"
    assert f"\n- Seeds 100-102: {first}; seed 110: {other}.\n" in text


def test_a_table_without_cells(results):
    assert "- Nothing has been trained yet.\n" in written_table()[1]


def test_a_table_warns_of_pairs_that_differ_in_origin(workspace, results):
    path = workspace / "experiments" / "small.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "comparisons": [{"row": "novograd", "to": ["sgd", "sgd_again"]}]}))
    cells("sgd", s100={}, s101={"code": "bbb"}, s102={"code": "bbb"})
    cells("novograd", s100={}, s101={}, s102={})
    _, text = written_table()
    warning = "in all differences, seeds 101, 102: trained with different code (aaa, bbb)"
    assert f"\n**Warning**: {warning}.\n" in text
    with (results / "small_differences.csv").open(newline="") as file:
        assert [line["warnings"] for line in csv.DictReader(file)] == [warning.partition(", ")[2]] * 2
    cells("sgd", s101={}, s102={})
    assert "different code" not in written_table()[1]
