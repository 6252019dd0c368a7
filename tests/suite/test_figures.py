"""Curves, gaps and figures, and a search where smaller is better."""

import csv
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure

from novobench.suite.curves import Point, value_at_equal_level
from novobench.suite.experiment import Panel, load_experiment
from novobench.suite.plots import draw, write_figure
from novobench.suite.results import Results
from novobench.suite.stored_cell import CurveLine, StoredCell
from novobench.suite.table_rows import TableRow, table_rows
from novobench.suite.tables import one_line

EXPERIMENT = Path(__file__).with_name("small_figure.yaml")


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def curve(*values):
    return [Point(update, update / 10, update * 2.0, value) for update, value in enumerate(values, 1)]


# ------------------------------------------------------------------------------------ at equal training loss


def test_validation_is_read_where_the_training_loss_was_equal():
    cells = {
        "far": {"t/loss": curve(5, 3, 1), "v/loss": curve(5.5, 4.5, 4.0)},
        "near": {"t/loss": curve(5, 4, 2.5), "v/loss": curve(5.5, 4.4, 3.0)},
    }
    # The level is 2.5; `far` passed it a quarter of the way from 3 to 1.
    assert value_at_equal_level(cells, "t/loss", "v/loss") == pytest.approx({"far": 4.375, "near": 3.0})


def test_a_cell_that_began_below_the_level_is_left_out():
    cells = {
        "fast": {"t/loss": curve(2, 1), "v/loss": curve(3, 2)},
        "slow": {"t/loss": curve(5, 4), "v/loss": curve(6, 5)},
    }
    assert value_at_equal_level(cells, "t/loss", "v/loss") == {"slow": 5}
    assert value_at_equal_level({"other": {"v/loss": curve(1)}}, "t/loss", "v/loss") == {}


def test_points_without_a_partner_are_skipped():
    cells = {"one": {"t/loss": curve(5, 3, 1), "v/loss": curve(5.5, 4.5, 4.0)[::2]}}
    assert value_at_equal_level(cells, "t/loss", "v/loss") == {"one": 4.0}


# ------------------------------------------------------------------------------------ one panel


def drawn(panel, rows):
    axes = Figure().subplots()
    draw(axes, panel, rows)
    return axes


def test_the_diagonal_leaves_the_frame_to_the_curves():
    panel = Panel("t/loss", ["v/loss"], "train", "valid", diagonal=True)
    axes = drawn(panel, [("one", [{"t/loss": curve(4.4, 3.2), "v/loss": curve(4.5, 3.4)}])])
    assert axes.get_xlim() == pytest.approx((3.14, 4.46))  # matplotlib's margin is 5 % on either side
    assert axes.get_ylim() == pytest.approx((3.345, 4.555))


def test_no_two_lines_look_alike_without_colour():
    cell = {"v/ppl": curve(9, 8), "t/ppl": curve(7, 6)}
    rows = [(name, [cell]) for name in ("one", "two", "three", "four", "five", "six")]
    axes = drawn(Panel("update", ["v/ppl", "t/ppl"], "update", "ppl"), rows)
    looks = [(line.get_linestyle(), line.get_marker()) for line in axes.get_lines()]
    assert len(looks) == len(set(looks)) == 12


def test_a_legend_shows_whatever_words_there_are(workspace):
    """Underscores and dollars mean something to matplotlib, some signs are in no font of its, and XML lacks others."""
    labels = ["_hidden", "$unclosed", "$x^2$", "\\alpha", "日本語 🚀", "[b]", "<&>", "same", "same", "\x1b[31m \ud800"]
    shown = [*labels[:-1], "[31m"]
    axes = drawn(
        Panel("update", ["v/loss"], "$", "_"), [(one_line(label), [{"v/loss": curve(3, 2)}]) for label in labels]
    )
    assert [text.get_text() for text in axes.get_legend().get_texts()] == shown

    experiment = load_experiment("small")
    points = [CurveLine("1", "one", "v/loss", str(update), "0.5", "", "2.0") for update in (1, 2)]
    results = Results("laptop", {"one": StoredCell(curves=points, entry={"fingerprint": ""})})
    rows = [TableRow(replace(experiment.rows[0], label=label), None, False, results, ["one"]) for label in labels]
    panel = Panel("update", ["v/loss"], "$x", "a\nb")
    path = write_figure(replace(experiment, title="$ _ \x00", figure=[panel]), "laptop", rows)
    words = [element.text for element in ElementTree.fromstring(path.read_bytes()).iter() if element.text]
    assert [word for word in words if word in shown] == shown
    assert {"$ _ (laptop scale)", "$x", "a b"} <= set(words)


@pytest.mark.parametrize("x", ["update", "epoch", "seconds", "t/loss"])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_cell_without_curves(workspace, x, logarithmic):
    experiment = load_experiment("small")
    results = Results("laptop", {"one": StoredCell(entry={"fingerprint": ""})})
    rows = [TableRow(row, None, False, results, ["one"]) for row in experiment.rows]
    panel = Panel(x, ["v/loss", "t/loss"], "x", "y", difference_to="t/loss", logarithmic=logarithmic, diagonal=True)
    path = write_figure(replace(experiment, figure=[panel]), "laptop", rows)
    assert ElementTree.fromstring(path.read_bytes()).tag.endswith("svg")


# ------------------------------------------------------------------------------------ an experiment of seconds


def test_search_table_and_figure(workspace, novobench, monkeypatch):
    shutil.copy(EXPERIMENT, workspace / "experiments" / EXPERIMENT.name)
    (workspace / "configs" / "language" / "tuned-laptop.yaml").unlink(missing_ok=True)
    code, _, err = novobench("search", "small_figure", "--budget", "3", "--seeds", "1", "--jobs", "2")
    assert (code, err) == (0, "")
    results = workspace / "results" / "laptop"
    trials = lines(results / "search.csv")
    assert {(line["split"], line["metric"]) for line in trials} == {("valid", "ppl")}
    (chosen,) = [line for line in trials if line["chosen"] == "1"]
    assert float(chosen["value"]) == min(float(line["value"]) for line in trials)  # smaller is better
    tuned = yaml.safe_load((workspace / "configs" / "language" / "tuned-laptop.yaml").read_text())
    assert chosen["rates"] == f"optimizer.lr={tuned['sgd']['optimizer.lr']:g}"

    code, out, err = novobench("run", "small_figure", "--seeds", "2", "--jobs", "2")
    assert (code, err) == (0, "")
    assert "figures/small_figure.svg" in out
    rows = {line["row"]: line for line in lines(results / "small_figure.csv")}
    recorded = {
        (line["seed"], line["split"]): float(line["value"])
        for line in lines(results / "records.csv")
        if line["optimizer"] == "adam" and line["metric"] == "loss"
    }
    gaps = [recorded[seed, "valid"] - recorded[seed, "probe"] for seed in "01"]
    assert float(rows["adam"]["gap"]) == pytest.approx(sum(gaps) / 2, rel=1e-4)
    assert rows["sgd"]["equal"] != ""
    assert "Without training: word frequencies " in (results / "small_figure.md").read_text()
    timed = [line for line in lines(results / "curves.csv") if line["series"] == "valid/ppl"]
    assert len(timed) == 4 * 4  # rows × seeds, evaluations
    assert all(float(line["seconds"]) > 0 for line in timed)

    path = results / "figures" / "small_figure.svg"
    first = path.read_bytes()
    drawn = ElementTree.fromstring(first)
    words = {element.text for element in drawn.iter() if element.text and element.text.strip()}
    assert {"perplexity", "seconds", "train loss", "valid loss", "Adam", "SGD", "Adam, probe"} <= words
    shutil.rmtree(workspace / "runs", ignore_errors=True)  # results alone are needed
    experiment = load_experiment("small_figure")
    write_figure(experiment, "laptop", table_rows(experiment, Results.load("laptop")))
    assert path.read_bytes() == first
