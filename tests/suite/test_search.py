"""Which trial of a search wins, and the files that a search writes."""

import csv
import math
import shutil
from dataclasses import replace

import pytest
import yaml

from novobench.errors import NovobenchError
from novobench.suite import search
from novobench.suite.experiment import load_experiment, row_config
from novobench.suite.plan import PlannedCell
from novobench.suite.trials import Trial
from tests.suite.finished import finished

NAN, INF = math.nan, math.inf


@pytest.fixture
def searched(workspace, results):
    """Conclude a search, `searched(values, better="larger")`; returns the number of the winning trial.

    values: for each trial the values of its seeds, None for a failed training.
    """
    small = load_experiment("small")

    def conclude(values, better="larger"):
        shutil.rmtree(workspace / "runs", ignore_errors=True)
        experiment = replace(small, columns=[replace(small.columns[0], better=better)])
        trials = []
        for number, values_of_seeds in enumerate(values):
            rates = {"optimizer.lr": number + 1.0}
            cells = []
            for seed, value in enumerate(values_of_seeds):
                cells.append(PlannedCell(row_config(experiment, experiment.row("sgd"), "laptop", seed, rates)))
                if value is not None:
                    finished("small", "sgd", {"search": {"top1": value}}, seed=seed, overrides=rates)
            trials.append(Trial("key", experiment.row("sgd"), 0, 0, number, rates, cells))
        return search.conclude(experiment, "laptop", trials, "command")["key"].number

    return conclude


@pytest.mark.parametrize("bad", [NAN, INF, -INF, None], ids=["nan", "inf", "-inf", "failed"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_trial_that_is_not_finite_cannot_win(searched, results, workspace, bad, place):
    """One bad seed of two is enough. `search.csv` says `nan`, or nothing if the training failed."""
    (workspace / "configs" / "image" / "tuned-laptop.yaml").unlink()
    good = [(40.0, 42.0), (50.0, 50.0)]
    for better, best in (("larger", (50.0, 50.0)), ("smaller", (40.0, 42.0))):
        trials = [*good[:place], (45.0, bad), *good[place:]]
        assert trials[searched(trials, better)] == best
    with (results / "search.csv").open(newline="") as file:
        values = [line["value"] for line in csv.DictReader(file) if line["trial"] == str(place)]
    assert values == ["45", "" if bad is None else "nan"]


def test_no_trial_is_finite(searched, results):
    with pytest.raises(NovobenchError, match="Every trial of key failed or ended in a top1 that is not finite"):
        searched([(NAN,), (INF,), (None,)])
    assert not (results / "search.csv").exists()


def test_other_searches_are_never_lost(searched, workspace, results):
    """`search.csv` is rewritten with the trials of other keys, so it is checked first."""
    tuned = workspace / "configs" / "image" / "tuned-laptop.yaml"
    tuned.unlink()
    searched([(1.0,), (2.0,)])
    path = results / "search.csv"
    lines = path.read_text().splitlines()
    other = [line.replace(",key,", ",other,") for line in lines[1:]]
    path.write_text("\n".join([*lines, *other]) + "\n")
    tuned.write_text(tuned.read_text() + "other: {optimizer.lr: 2.0}\n")
    searched([(4.0,), (3.0,)])
    assert [line.split(",")[1] for line in path.read_text().splitlines()] == ["key", "other", "other", "key", "key"]
    assert yaml.safe_load(tuned.read_text()) == {"key": {"optimizer.lr": 1.0}, "other": {"optimizer.lr": 2.0}}
    path.write_text("\n".join(lines) + "\n")
    assert search.untraced("image", "laptop") == ["other"]
    for damage, message in (
        ([*lines, other[0]], "lacks the chosen trial of other"),
        ([line.replace(",value", "") for line in lines], r"its header lacks \['value'\]"),
        ([*lines[:2], "<<<<<<< HEAD", *lines[2:]], "line 3 is a merge conflict marker"),
        ([*lines[:-1], lines[-1].replace(",2,", ",two,")], "line 3 has 'two' as value"),
    ):
        path.write_text("\n".join(damage) + "\n")
        before = path.read_bytes(), tuned.read_bytes()
        with pytest.raises(NovobenchError, match=message):
            searched([(4.0,), (5.0,)])
        assert (path.read_bytes(), tuned.read_bytes()) == before
