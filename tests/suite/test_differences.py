"""Comparisons of rows: differences by seed, verdicts, and the experiment's mistakes."""

import csv

import pytest
import yaml
from scipy import stats

from novobench.errors import ConfigError
from novobench.suite.experiment import load_experiment
from tests.suite.finished import collected, finished, written_table

SGD = {0: 92.9, 1: 92.2, 2: 92.1, 3: 92.2, 4: 91.9}
NOVOGRAD = {0: 92.4, 1: 91.0, 2: 88.9, 3: 91.9, 4: 91.4}


def rewrite(workspace, **keys):
    """Change top-level keys of the small experiment."""
    path = workspace / "experiments" / "small.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))


def compared(workspace, row="novograd", to=("sgd",), **keys):
    """Let the small experiment compare a row with others."""
    rewrite(workspace, comparisons=[{"row": row, "to": list(to)}], **keys)


def record(row, values, metric="top1"):
    for seed, value in values.items():
        collected(finished("small", row, {"test": {metric: value}}, seed=seed))


def written(results):
    """The lines of the CSV of differences, and the Markdown."""
    _, markdown = written_table()
    with (results / "small_differences.csv").open(newline="") as file:
        return list(csv.DictReader(file)), markdown


def cells_below_differences(markdown):
    """The cells of the Markdown table of differences, without its head."""
    lines = markdown.split("Differences")[1].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][2:]


def test_an_undecided_difference_says_what_would_decide_it(results, workspace):
    compared(workspace)
    record("sgd", SGD)
    record("novograd", NOVOGRAD)
    (line,), markdown = written(results)
    interval = stats.ttest_rel([*NOVOGRAD.values()], [*SGD.values()]).confidence_interval()
    assert (line["row"], line["other"], line["column"], line["seeds"]) == ("novograd", "sgd", "top1", "5")
    assert float(line["low"]) == pytest.approx(interval.low, rel=1e-5)
    assert float(line["high"]) == pytest.approx(interval.high, rel=1e-5)
    assert line["verdict"] == "undecided"
    effect = abs(float(line["difference"])) / float(line["sd"])
    power = [stats.nct(n - 1, effect * n**0.5).sf(stats.t.isf(0.025, n - 1)) for n in range(2, 30)]
    assert int(line["seeds_to_decide"]) == 2 + next(n for n, value in enumerate(power) if value >= 0.8)
    difference = f"{float(line['difference']):.2f} ± {(interval.high - interval.low) / 2:.2f}"
    assert cells_below_differences(markdown) == [
        ["NovoGrad", "SGD", difference, "5", "undecided", line["seeds_to_decide"]]
    ]
    assert "Differences in top-1 (larger is better):" in markdown
    assert "seeds to decide” says" in markdown


@pytest.mark.parametrize(("better", "shift", "verdict"), [("larger", 9, "better"), ("larger", -9, "worse"),
    ("smaller", 9, "worse"), ("smaller", -9, "better")])  # fmt: skip
def test_a_decided_difference(results, workspace, better, shift, verdict):
    columns = [{"key": "top1", "split": "test", "metric": "top1", "label": "top-1", "better": better}]
    compared(workspace, columns=columns)
    record("sgd", SGD)
    record("novograd", {seed: value + shift for seed, value in NOVOGRAD.items()})
    (line,), markdown = written(results)
    assert (line["verdict"], line["seeds_to_decide"]) == (verdict, "")
    assert "seeds to decide” says" not in markdown
    assert "paired by seed" in markdown
    assert cells_below_differences(markdown)[0][4:] == [verdict, ""]


def test_one_common_seed_decides_nothing(results, workspace):
    compared(workspace)
    record("sgd", {0: 90.0, 1: 91.0, 2: 90.0})
    record("novograd", {0: None, 1: 99.0, 3: 99.0})
    (line,), markdown = written(results)
    assert (line["seeds"], line["difference"], line["low"], line["high"]) == ("1", "8", "", "")
    assert (line["verdict"], line["seeds_to_decide"]) == ("undecided (one seed)", "")
    assert cells_below_differences(markdown) == [["NovoGrad", "SGD", "8.00", "1", "undecided (one seed)", ""]]


def test_rows_of_one_cell_are_the_same_training(results, workspace):
    compared(workspace, "sgd_again")
    record("sgd", SGD)
    (line,), _ = written(results)
    assert (line["difference"], line["verdict"], line["seeds_to_decide"]) == ("0", "the same training", "")


def test_rows_without_a_common_seed_are_not_compared(results, workspace):
    """Nor are rows of mixed data. A file of earlier differences goes."""
    compared(workspace)
    record("sgd", {0: 90.0, 1: 91.0})
    record("novograd", {0: 90.0, 1: 93.0})
    written(results)
    collected(finished("small", "sgd", {"test": {"top1": 90.0}}, seed=1, fingerprint="digits:other"))
    _, markdown = written_table()
    assert "Differences" not in markdown
    assert not (results / "small_differences.csv").exists()


def test_rows_with_one_label_are_told_apart_by_their_settings(results, workspace):
    content = yaml.safe_load((workspace / "experiments" / "small.yaml").read_text())
    content["rows"][3] |= {"label": "SGD", "laptop": {"optimizer.name": "sgd", "optimizer.lr": 0.1}}
    compared(workspace, to=["sgd", "sgd_again"], rows=content["rows"])
    for row in ("sgd", "novograd", "sgd_again"):
        record(row, {0: 90.0, 1: 92.0})
    _, markdown = written(results)
    pairs = [cells[:2] for cells in cells_below_differences(markdown)]
    assert pairs == [["NovoGrad", "SGD (LR 0.05)"], ["NovoGrad", "SGD (LR 0.1)"]]


def test_differences_of_several_columns_name_them(results, workspace):
    columns = [
        {"key": "top1", "split": "test", "metric": "top1", "label": "top-1"},
        {"key": "loss", "split": "test", "metric": "loss", "label": "loss", "better": "smaller"},
    ]
    comparisons = [{"row": "novograd", "to": ["sgd"], "column": column} for column in ("top1", "loss")]
    rewrite(workspace, columns=columns, comparisons=comparisons)
    for row, value in (("sgd", 1.0), ("novograd", 3.0)):
        for seed in (0, 1):
            collected(finished("small", row, {"test": {"top1": value, "loss": value}}, seed=seed))
    lines, markdown = written(results)
    assert [(line["column"], line["verdict"]) for line in lines] == [("top1", "better"), ("loss", "worse")]
    assert [cells[2] for cells in cells_below_differences(markdown)] == ["top-1", "loss"]


@pytest.mark.parametrize(
    ("comparison", "message"),
    [
        ({"row": "sdg", "to": ["sgd"]}, "'comparisons[0]' names 'sdg', which is no row. Did you mean 'sgd'?"),
        ({"row": "sgd", "to": ["novogard"]}, "'comparisons[0]' names 'novogard', which is no row."),
        ({"row": "sgd", "to": ["sgd"]}, "'comparisons[0].to' has the row 'sgd' itself."),
        ({"row": "sgd", "to": []}, "'comparisons[0].to'"),
        (
            {"row": "sgd", "to": ["novograd"], "column": "top5"},
            "'comparisons[0].column' is 'top5'",
        ),
    ],
)
def test_mistakes_in_comparisons_are_named(workspace, comparison, message):
    rewrite(workspace, comparisons=[comparison])
    with pytest.raises(ConfigError) as error:
        load_experiment("small")
    assert message in str(error.value)
    assert "small.yaml" in str(error.value)
