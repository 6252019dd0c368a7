"""Which trial of a search wins, when its ranges are widened, and the files that it writes."""

import csv
import math
import shutil
import statistics
from collections import Counter
from dataclasses import replace

import pytest
import yaml

from novobench.errors import NovobenchError
from novobench.suite import search
from novobench.suite.experiment import load_experiment
from novobench.suite.plan import PlannedCell
from novobench.suite.row_configs import row_config
from novobench.suite.search_space import points
from novobench.suite.trials import Trial
from novobench.suite.tuning_curves import write_tuning_curves
from tests.suite.finished import finished, finished_cell, written_table

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


# ---------------------------------------------------------------------------------------------- rounds


@pytest.fixture
def two_keys(workspace, monkeypatch):
    """Search two optimizers whose accuracy falls with the distance of the rate from a best one.

    `two_keys(novograd=0.02)` gives a best rate; returns the lines of `search.csv`. Nothing is trained.
    """
    path = workspace / "experiments" / "small.yaml"
    content = yaml.safe_load(path.read_text())
    content["search"] = {"sgd": {"optimizer.lr": [0.01, 1.0]}, "novograd": {"optimizer.lr": [0.001, 0.1]}}
    content["rows"][1]["laptop"] = {"optimizer.name": "sgd", "tuned": "sgd-b32"}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    (workspace / "configs" / "image" / "tuned-laptop.yaml").unlink()
    best = {}

    def trained(cells, *_):
        for cell in cells:
            optimizer = cell.config.optimizer
            distance = abs(math.log(optimizer.lr / best[optimizer.name]))
            finished_cell(cell.config, {"search": {"top1": 90 - distance}})
        return {}

    monkeypatch.setattr(search, "train", trained)
    monkeypatch.setattr(search, "changed_data_errors", lambda *_: {})

    def run(novograd, study=0, keys=(), experiments=("small",)):
        best.update(sgd=0.13, novograd=novograd)
        shutil.rmtree(workspace / "runs", ignore_errors=True)
        search.search(list(map(load_experiment, experiments)), "laptop", 8, 1, study, None, keys)
        with (workspace / "results" / "laptop" / "search.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    return run


def tried(round):
    """The rates of NovoGrad's trials in a round, in order."""
    return sorted(point["optimizer.lr"] for point in points({"optimizer.lr": [0.001, 0.1]}, 8, 4.0, 0, round))


INSIDE, JUST_OUTSIDE = tried(0)[5], tried(1)[6]


def rounds(lines):
    """Key -> number of trials per round."""
    counts = {}
    for line in lines:
        if line["seed"] == "0":
            counts.setdefault(line["key"], Counter())[line["round"]] += 1
    return {key: list(count.values()) for key, count in counts.items()}


def test_one_round_is_enough_if_no_winner_is_at_an_edge(two_keys, capsys):
    lines = two_keys(novograd=INSIDE)
    assert rounds(lines) == {"sgd-b32": [8], "novograd-b32": [8]}
    out = " ".join(capsys.readouterr().out.split())
    assert "widened" not in out
    assert "sgd-b32: optimizer.lr 0.13; search top1 90; best in round 1 of 1 " in out


def test_one_winner_at_an_edge_widens_the_ranges_of_all(two_keys, workspace, capsys):
    lines = two_keys(novograd=JUST_OUTSIDE)
    assert rounds(lines) == {"sgd-b32": [8, 8], "novograd-b32": [8, 8]}
    rates = [float(line["rates"].partition("=")[2]) for line in lines if line["key"] == "sgd-b32"]
    assert min(rates) <= 0.01 / 2
    assert max(rates) >= 1.0 * 2
    tuned = yaml.safe_load((workspace / "configs" / "image" / "tuned-laptop.yaml").read_text())
    assert tuned["novograd-b32"] == {"optimizer.lr": JUST_OUTSIDE}
    (own,) = {line["round"] for line in lines if line["chosen"] == "1" and line["key"] == "novograd-b32"}
    assert own == "1"
    out = " ".join(capsys.readouterr().out.split())
    assert f"novograd-b32: the best optimizer.lr, {tried(0)[-1]}, is the largest tried." in out
    assert "All ranges are widened 4-fold on both sides." in out
    assert "still" not in out


def test_after_two_widenings_an_edge_is_reported(two_keys, workspace, capsys):
    lines = two_keys(novograd=1000.0)
    assert rounds(lines) == {"sgd-b32": [8, 8, 8], "novograd-b32": [8, 8, 8]}
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("All ranges are widened") == 2
    edge = f"the best optimizer.lr, {tried(2)[-1]:g}, is the largest tried"
    assert f"round 3 of 3; still at an edge: {edge}" in out
    _, markdown = written_table()
    assert f"**Warning**: {edge}, so a better one may lie beyond it." in markdown
    warning = "**Warning**: searched with 8 × 1 trials per round instead of 16 × 2."
    assert markdown.count(warning) == 2


def test_rates_that_were_edited_after_the_search(two_keys, workspace):
    two_keys(keys=["novograd-b32"], novograd=INSIDE)
    path = workspace / "configs" / "image" / "tuned-laptop.yaml"
    edited = path.read_text().replace(f"optimizer.lr: {INSIDE}", "optimizer.lr: 0.05")
    path.write_text(edited + "sgd-b32: {optimizer.lr: 0.1}\n")
    rows, _ = written_table()
    assert rows["novograd"]["warnings"].endswith("; its rates are not those that its search chose")
    assert rows["sgd"]["warnings"] == ""  # `search.csv` has no trials of its own


def test_only_selected_keys_are_widened(two_keys):
    lines = two_keys(keys=["novograd-b32"], novograd=JUST_OUTSIDE)
    assert rounds(lines) == {"novograd-b32": [8, 8]}


def test_a_key_of_two_experiments_is_searched_for_one(two_keys, workspace, capsys):
    """A second search would replace the trials of the first, which its table compares."""
    folder = workspace / "experiments"
    shutil.copy(folder / "small.yaml", folder / "other.yaml")
    lines = two_keys(experiments=["small", "other"], novograd=INSIDE)
    assert {line["experiment"] for line in lines} == {"small"}
    assert rounds(lines) == {"sgd-b32": [8], "novograd-b32": [8]}
    assert two_keys(experiments=["other"], novograd=INSIDE) == lines
    out = " ".join(capsys.readouterr().out.split())
    assert "other: sgd-b32 was searched for small and stays so. --keys sgd-b32 searches it." in out
    lines = two_keys(experiments=["other"], keys=["sgd-b32"], novograd=INSIDE)
    assert {(line["key"], line["experiment"]) for line in lines} == {("sgd-b32", "other"), ("novograd-b32", "small")}
    (folder / "small.yaml").unlink()
    lines = two_keys(experiments=["other"], novograd=INSIDE)
    assert {line["experiment"] for line in lines} == {"other"}


def test_a_search_repeated_in_a_new_round_replaces_its_lines(two_keys):
    assert rounds(two_keys(novograd=JUST_OUTSIDE)) == {"sgd-b32": [8, 8], "novograd-b32": [8, 8]}
    assert rounds(two_keys(novograd=INSIDE)) == {"sgd-b32": [8], "novograd-b32": [8]}


def test_another_study_has_its_own_points_and_sets_no_rates(two_keys, workspace, capsys):
    first = two_keys(novograd=INSIDE)
    tuned = (workspace / "configs" / "image" / "tuned-laptop.yaml").read_bytes()
    capsys.readouterr()
    lines = two_keys(study=1, novograd=INSIDE)
    assert lines[: len(first)] == first
    assert (workspace / "configs" / "image" / "tuned-laptop.yaml").read_bytes() == tuned
    rates = [{(line["key"], line["rates"]) for line in lines if line["study"] == study} for study in "01"]
    assert len(rates[0]) == len(rates[1]) == 16
    assert len(rates[0] & rates[1]) < 8  # two digits can agree by chance
    best = {line["study"]: float(line["value"]) for line in lines if line["key"] == "sgd-b32" and line["chosen"] == "1"}
    spread = f"spread {max(best.values()) - min(best.values()):.4g}"
    out = " ".join(capsys.readouterr().out.split())
    assert f"sgd-b32: best of each study {best['0']:.4g} (study 0), {best['1']:.4g} (study 1); {spread}" in out
    assert "tuned-laptop.yaml" not in out


def test_the_curves_of_a_search(two_keys, results, workspace):
    """The first round only, and one curve per study."""
    two_keys(novograd=JUST_OUTSIDE)
    lines = two_keys(study=1, novograd=JUST_OUTSIDE)
    with (results / "tuning.csv").open(newline="") as file:
        curves = list(csv.DictReader(file))
    assert Counter((line["key"], line["study"]) for line in curves) == {
        (key, study): 8 for key in ("sgd-b32", "novograd-b32") for study in "01"
    }
    for study in "01":
        means = [
            float(line["value"])
            for line in lines
            if (line["key"], line["study"], line["round"]) == ("novograd-b32", study, "0")
        ]
        own = [line for line in curves if (line["key"], line["study"]) == ("novograd-b32", study)]
        assert [line["trials"] for line in own] == [str(n) for n in range(1, 9)]
        assert float(own[0]["value"]) == pytest.approx(statistics.fmean(means), rel=1e-4)
        assert float(own[-1]["value"]) == pytest.approx(max(means), rel=1e-4)
    path = results / "figures" / "tuning_small.svg"
    drawn = path.read_bytes()
    assert b"expected best search top1" in drawn
    assert all(key in drawn for key in (b"sgd-b32", b"novograd-b32"))
    write_tuning_curves([load_experiment("small")], "laptop")
    assert path.read_bytes() == drawn
