"""Numbers that are NaN or infinite: they win nothing, level nothing, average nothing, and are told."""

import csv
import json
import math
from types import SimpleNamespace

import pytest
import yaml
from matplotlib.figure import Figure
from scipy import stats

from novobench.errors import NovobenchError
from novobench.files import json_text, number, write_json
from novobench.suite import search
from novobench.suite.curves import Point, value_at_equal_level
from novobench.suite.experiment import Panel, load_experiment
from novobench.suite.plots import draw
from novobench.tasks.metric import Metric
from novobench.training.metrics_log import MetricsLog
from novobench.training.run_folder import RunFolder
from tests.suite.finished import collected, config_of, finished, written_table

NAN, INF = math.nan, math.inf


def strict(text):
    """As readers in other languages take it: without the words that Python's reader knows besides JSON."""

    def refuse(word):
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


# ------------------------------------------------------------------------------------ JSON


def test_json_has_null_for_what_is_not_finite(tmp_path):
    content = {"a": [1.5, NAN, {"b": INF}], "c": (-INF, 2), "d": "NaN", "e": None}
    expected = {"a": [1.5, None, {"b": None}], "c": [None, 2], "d": "NaN", "e": None}
    assert strict(json_text(content)) == expected
    write_json(tmp_path / "a.json", content)
    assert strict((tmp_path / "a.json").read_text()) == expected


def test_every_file_of_a_run_is_json(tmp_path):
    folder = RunFolder(tmp_path)
    metrics = MetricsLog(folder.metrics)
    metrics.append(1, "train", {"loss": 2.0, "epoch": 0.5})
    metrics.append(2, "train", {"loss": NAN, "epoch": 1.0})
    metrics.append(3, "train", {"loss": INF})
    assert [strict(line)["loss"] for line in folder.metrics.read_text().splitlines()] == [2.0, None, None]
    folder.write_predictions("test", [{"index": 0, "score": -INF}])
    assert folder.read_predictions("test") == [{"index": 0, "score": None}]


def test_numbers_are_read_back():
    assert [number(x) for x in (1, 2.5, "3", "1e3")] == [1.0, 2.5, 3.0, 1000.0]
    assert all(math.isnan(number(x)) for x in (None, "nan", "inf", "-Infinity", NAN, -INF))
    for wrong in ("", "abc", True, [1], {}):
        with pytest.raises(ValueError, match=r".*"):
            number(wrong)


# ------------------------------------------------------------------------------------ search


def searched(values, better="larger"):
    """Which of the trials wins; each has the values of its seeds, None for a failed training."""
    experiment = load_experiment("small")
    object.__setattr__(experiment.columns[0], "better", better)
    row = experiment.row("sgd")

    def cell(trial, seed, value):
        metrics = {"search": {"top1": Metric(value, 160, "%")}}
        record = SimpleNamespace(search_split="search", metrics=metrics, fingerprint="digits:0123")
        folder = SimpleNamespace(finished=value is not None, read_record=lambda: record)
        return SimpleNamespace(id=f"{trial}-{seed}", config=config_of("small", "sgd", seed=seed), folder=folder)

    trials = [
        search.Trial(
            "key", row, i, {"optimizer.lr": i + 1.0}, [cell(i, seed, value) for seed, value in enumerate(seeds)]
        )
        for i, seeds in enumerate(values)
    ]
    return search.conclude(experiment, "laptop", trials, "command")["key"].number


@pytest.mark.parametrize("bad", [NAN, INF, -INF, None], ids=["nan", "inf", "-inf", "failed"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_trial_that_is_not_finite_cannot_win(results, workspace, bad, place):
    """One of its two seeds is enough. The table of trials says `nan`, and nothing where the training failed."""
    (workspace / "configs" / "image" / "tuned-laptop.yaml").unlink()
    good = [(40.0, 42.0), (50.0, 50.0)]
    for better, best in (("larger", (50.0, 50.0)), ("smaller", (40.0, 42.0))):
        trials = [*good[:place], (45.0, bad), *good[place:]]
        assert trials[searched(trials, better)] == best
    with (results / "search.csv").open(newline="") as file:
        values = [line["value"] for line in csv.DictReader(file) if line["trial"] == str(place)]
    assert values == ["45", "" if bad is None else "nan"]


def test_no_trial_is_finite(results):
    with pytest.raises(NovobenchError, match="Every trial of key failed or ended in a top1 that is not finite"):
        searched([(NAN,), (INF,), (None,)])
    assert not (results / "search.csv").exists()


def test_other_searches_are_never_lost(workspace, results):
    """`search.csv` is written again with the trials of other keys, so it is checked before."""
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
    for damage, told in (
        ([*lines, other[0]], "lacks the chosen trial of other"),
        ([line.replace(",value", "") for line in lines], r"its header lacks \['value'\]"),
        ([*lines[:2], "<<<<<<< HEAD", *lines[2:]], "line 3 is a merge conflict marker"),
        ([*lines[:-1], lines[-1].replace(",2,", ",two,")], "line 3 has 'two' as value"),
    ):
        path.write_text("\n".join(damage) + "\n")
        before = path.read_bytes(), tuned.read_bytes()
        with pytest.raises(NovobenchError, match=told):
            searched([(4.0,), (5.0,)])
        assert (path.read_bytes(), tuned.read_bytes()) == before


# ------------------------------------------------------------------------------------ curves


def curve(*values):
    return [Point(update, update / 10, None, value) for update, value in enumerate(values, 1)]


def test_a_cell_that_ended_in_nan_levels_nothing():
    """The level is 3.0, the worse of 3.0 and 2.0; the third cell passes it halfway from 4 to 2."""
    cells = {
        "diverged": {"t/loss": curve(9, NAN), "v/loss": curve(9, NAN)},
        "one": {"t/loss": curve(9, 5, 3), "v/loss": curve(9, 6, 5)},
        "two": {"t/loss": curve(8, 4, 2), "v/loss": curve(8, 5, 4)},
    }
    for order in (list(cells), list(cells)[::-1]):
        found = value_at_equal_level({cell: cells[cell] for cell in order}, "t/loss", "v/loss")
        assert math.isnan(found.pop("diverged"))
        assert found == pytest.approx({"one": 5.0, "two": 4.5})


def test_a_nan_on_the_way_is_skipped():
    cells = {
        "one": {"t/loss": curve(5, NAN, 1), "v/loss": curve(6, NAN, 4)},
        "two": {"t/loss": curve(8, 3), "v/loss": curve(8, 5)},
    }
    assert value_at_equal_level(cells, "t/loss", "v/loss") == {"one": 5.0, "two": 5.0}  # 3 lies halfway from 5 to 1


def test_no_cell_reached_a_level():
    found = value_at_equal_level({"one": {"t/l": curve(5, NAN), "v/l": curve(5, 4)}}, "t/l", "v/l")
    assert list(map(str, found.values())) == ["nan"]


def test_a_curve_breaks_where_it_is_not_finite():
    """Drawn with a gap; a first seed that shows nothing leaves the row's name to the second."""
    axes = Figure().subplots()
    rows = [("one", [{"v/loss": curve(NAN, NAN)}, {"v/loss": curve(4, NAN, 2)}]), ("two", [{"v/loss": curve(NAN)}])]
    draw(axes, Panel("update", ["v/loss"], "update", "loss", logarithmic=True), rows)
    (line,) = axes.get_lines()
    assert [str(y) for y in line.get_ydata()] == ["4.0", "nan", "2.0"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one"]


# ------------------------------------------------------------------------------------ tables


def test_means_leave_out_what_is_not_finite_and_say_so(results):
    for seed, value in enumerate((10.0, None, 30.0, 26.0)):
        collected(finished("small", "sgd", {"test": {"top1": value, "loss": 1.0}}, seed=seed))
    collected(finished("small", "novograd", {"test": {"top1": None, "loss": None}}))
    rows, markdown = written_table()
    low, high = stats.t.interval(0.95, 2, loc=22, scale=stats.sem([10, 30, 26]))
    found = [float(rows["sgd"][key]) for key in ("top1", "top1_low", "top1_high")]
    assert found == pytest.approx([22, low, high], rel=1e-5)
    assert rows["sgd"]["warnings"] == "not finite, so left out of means and intervals: test top1 (1 of 4 seeds)"
    assert (rows["novograd"]["top1"], rows["novograd"]["top1_sd"]) == ("nan", "")
    assert "test top1, test loss (1 of 1 seeds)" in rows["novograd"]["warnings"]
    (line,) = [line for line in markdown.splitlines() if line.startswith("| NovoGrad")]
    assert "| not finite |" in line
    warning = "not finite, so left out of means and intervals: test top1, test loss (1 of 1 seeds)"
    assert f"**Warning**: {warning}." in markdown
    recorded = (results / "records.csv").read_text()
    assert "top1,nan,597" in recorded


def test_an_accuracy_whose_loss_is_not_finite_is_flagged(results):
    collected(finished("small", "sgd", {"test": {"top1": 9.38, "loss": None}}))
    rows, _ = written_table()
    assert rows["sgd"]["top1"] == "9.38"
    assert "not finite, so left out of means and intervals: test loss (1 of 1 seeds)" in rows["sgd"]["warnings"]


def test_one_row_that_is_not_finite_leaves_the_others_their_column(results):
    collected(finished("small", "sgd", {"test": {"top1": 60.0}}))
    collected(finished("small", "novograd", {"test": {"top1": None}}))
    rows, _ = written_table()
    assert (rows["sgd"]["top1"], rows["sgd"]["warnings"]) == ("60", "")


def test_an_overridden_run_prints_it_too(results, novobench, monkeypatch):
    from novobench.suite import runner

    def trained(cells, *_):
        for cell in cells:
            folder = finished("small", "sgd", {"test": {"top1": None}})
            cell.folder.path.mkdir(parents=True)
            cell.folder.record.write_text(folder.record.read_text())
        return {}

    monkeypatch.setattr(runner, "train", trained)
    code, out, err = novobench("run", "small", "--rows", "sgd", "--set", "optimizer.lr=0.7")
    assert (code, err) == (0, "")
    assert "test: top1 not finite" in out
