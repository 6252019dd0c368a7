"""Figures, and an experiment with a figure from search to SVG."""

import csv
import math
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure

from novobench.errors import ConfigError
from novobench.suite.curves import Point
from novobench.suite.experiment import Panel, load_experiment
from novobench.suite.markdown_text import one_line
from novobench.suite.plots import draw, rows_of_panels, write_figure
from novobench.suite.results import Results
from novobench.suite.row_configs import row_config
from novobench.suite.stored_cell import CurveLine, RecordLine, StoredCell
from novobench.suite.table_rows import TableRow, table_rows

EXPERIMENT = Path(__file__).with_name("small_figure.yaml")


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def curve(*values):
    return [Point(update, update / 10, update * 2.0, value) for update, value in enumerate(values, 1)]


def drawn(panel, rows):
    axes = Figure().subplots()
    draw(axes, panel, rows)
    return axes


def test_the_diagonal_leaves_the_frame_to_the_curves():
    panel = Panel("t/loss", ["v/loss"], "train", "valid", diagonal=True)
    axes = drawn(panel, [("one", [{"t/loss": curve(4.4, 3.2), "v/loss": curve(4.5, 3.4)}])])
    assert axes.get_xlim() == pytest.approx((3.14, 4.46))  # matplotlib's margin is 5 % on either side
    assert axes.get_ylim() == pytest.approx((3.345, 4.555))


def test_no_two_lines_look_alike_without_color():
    cell = {"v/ppl": curve(9, 8), "t/ppl": curve(7, 6)}
    rows = [(name, [cell]) for name in ("one", "two", "three", "four", "five", "six")]
    axes = drawn(Panel("update", ["v/ppl", "t/ppl"], "update", "ppl"), rows)
    looks = [(line.get_linestyle(), line.get_marker()) for line in axes.get_lines()]
    assert len(looks) == len(set(looks)) == 12


def test_a_legend_shows_any_text(workspace):
    """matplotlib interprets underscores and dollars, its fonts lack some characters, and XML forbids others."""
    labels = ["_hidden", "$unclosed", "$x^2$", "\\alpha", "日本語 🚀", "[b]", "<&>", "same", "same", "\x1b[31m \ud800"]
    shown = [*labels[:-1], "[31m"]
    axes = drawn(
        Panel("update", ["v/loss"], "$", "_"), [(one_line(label), [{"v/loss": curve(3, 2)}]) for label in labels]
    )
    assert [text.get_text() for text in axes.get_legend().get_texts()] == shown

    experiment = load_experiment("small")
    points = [CurveLine("2", "one", "v", str(update), "0.5", "", "loss=2") for update in (1, 2)]
    results = Results("laptop", {"one": StoredCell(curves=points, entry={"fingerprint": ""})})
    rows = [TableRow(replace(experiment.rows[0], label=label), None, False, results, ["one"]) for label in labels]
    panel = Panel("update", ["v/loss"], "$x", "a\nb")
    path = write_figure(replace(experiment, title="$ _ \x00", figure=[panel]), "laptop", rows)
    texts = [element.text for element in ElementTree.fromstring(path.read_bytes()).iter() if element.text]
    assert [text for text in texts if text in shown] == shown
    assert {"$ _ (laptop scale)", "$x", "a b"} <= set(texts)


def test_diagnostic_rows_are_in_no_figure(workspace):
    experiment = load_experiment("small")
    points = [CurveLine("2", "one", "v", str(update), "0.5", "", "loss=2") for update in (1, 2)]
    results = Results("laptop", {"one": StoredCell(curves=points, entry={"fingerprint": ""})})
    regular, diagnostic = (replace(experiment.rows[0], label=label) for label in ("shown", "hidden"))
    rows = [TableRow(replace(diagnostic, diagnostic=True), None, False, results, ["one"])]
    rows.append(TableRow(regular, None, False, results, ["one"]))
    panel = Panel("update", ["v/loss"], "update", "loss")
    text = write_figure(replace(experiment, figure=[panel]), "laptop", rows).read_text()
    assert "shown" in text
    assert "hidden" not in text


@pytest.mark.parametrize("x", ["update", "epoch", "seconds", "t/loss"])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_cell_without_curves(workspace, x, logarithmic):
    experiment = load_experiment("small")
    results = Results("laptop", {"one": StoredCell(entry={"fingerprint": ""})})
    rows = [TableRow(row, None, False, results, ["one"]) for row in experiment.rows]
    panel = Panel(x, ["v/loss", "t/loss"], "x", "y", difference_to="t/loss", logarithmic=logarithmic, diagonal=True)
    path = write_figure(replace(experiment, figure=[panel]), "laptop", rows)
    assert ElementTree.fromstring(path.read_bytes()).tag.endswith("svg")


def test_means_over_a_config_key_with_their_intervals(workspace):
    """Two labels at two rates. By hand: 1 and 3 have the mean 2 and the 95 % interval 2 ± 12.706 · √2 / √2."""
    experiment = load_experiment("small")
    row, config = experiment.row("sgd"), row_config(experiment, experiment.row("sgd"), "laptop", 0)

    def at(rate):
        return replace(config, optimizer=replace(config.optimizer, lr=rate))

    def cell(value):
        line = RecordLine("2", "c", "language", "adam", "0", "test", "ppl", value, "1", "")
        return StoredCell([line], entry={"fingerprint": "", "updates": 4})

    results = Results(
        "laptop", {name: cell(value) for name, value in [("a", "1"), ("b", "3"), ("c", "5"), ("d", "nan")]}
    )
    rows = [
        TableRow(replace(row, label="one"), at(8.0), False, results, ["c"]),
        TableRow(replace(row, label="one"), at(0.5), False, results, ["a", "b", "d"]),
        TableRow(replace(row, label="two"), at(0.5), False, results, ["d"]),
    ]
    panel = Panel("optimizer.lr", ["test/ppl"], "rate", "ppl", logarithmic_x=True)
    axes = drawn(panel, rows_of_panels(replace(experiment, figure=[panel]), rows))
    (bars,) = axes.containers  # nothing is finite in "two"
    line, _, (ranges,) = bars
    assert [*line.get_xdata()] == [0.5, 8.0]
    assert [*line.get_ydata()] == [2.0, 5.0]
    (low, high), (point, same) = ([y for _, y in segment] for segment in ranges.get_segments())
    assert (low, high, point, same) == pytest.approx((2 - 12.706, 2 + 12.706, 5, 5), abs=1e-3)
    assert axes.get_xscale() == "log"
    assert [*axes.get_xticks()] == [0.5, 8.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one"]
    with pytest.raises(ConfigError, match="row 'sgd': a panel's x is 'optimizer.rate', which is – and no number"):
        rows_of_panels(replace(experiment, figure=[replace(panel, x="optimizer.rate")]), rows)


def test_a_line_has_a_gap_where_the_value_is_not_finite():
    """The line has a gap. If the first seed has nothing to draw, the second carries the row's label."""
    rows = [
        ("one", [{"v/loss": curve(math.nan, math.nan)}, {"v/loss": curve(4, math.nan, 2)}]),
        ("two", [{"v/loss": curve(math.nan)}]),
    ]
    axes = drawn(Panel("update", ["v/loss"], "update", "loss", logarithmic=True), rows)
    (line,) = axes.get_lines()
    assert [str(y) for y in line.get_ydata()] == ["4.0", "nan", "2.0"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one"]


def test_search_table_and_figure(workspace, novobench, monkeypatch):
    shutil.copy(EXPERIMENT, workspace / "experiments" / EXPERIMENT.name)
    (workspace / "configs" / "language" / "tuned-laptop.yaml").unlink(missing_ok=True)
    code, _, err = novobench("search", "small_figure", "--trials", "2", "--seeds", "1", "--jobs", "2")
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
    gaps = [recorded[seed, "valid"] - recorded[seed, "probe"] for seed in ("100", "101")]
    assert float(rows["adam"]["gap"]) == pytest.approx(sum(gaps) / 2, rel=1e-4)
    assert "Without training: word frequencies " in (results / "small_figure.md").read_text()
    timed = [line for line in lines(results / "curves.csv") if line["split"] == "valid"]
    assert len(timed) == 4 * 4  # rows × seeds, evaluations
    assert all(float(line["seconds"]) > 0 for line in timed)

    path = results / "figures" / "small_figure.svg"
    first = path.read_bytes()
    drawn = ElementTree.fromstring(first)
    texts = {element.text for element in drawn.iter() if element.text and element.text.strip()}
    assert {"perplexity", "seconds", "train loss", "valid loss", "Adam", "SGD", "Adam, probe"} <= texts
    shutil.rmtree(workspace / "runs", ignore_errors=True)  # figures need only the results
    experiment = load_experiment("small_figure")
    write_figure(experiment, "laptop", table_rows(experiment, Results.load("laptop")))
    assert path.read_bytes() == first
