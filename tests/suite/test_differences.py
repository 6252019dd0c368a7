"""Comparisons of rows: differences by seed, verdicts, and the experiment's mistakes."""

import csv
import statistics

import pytest
import yaml

from novobench.errors import ConfigError
from novobench.suite.experiment import load_experiment
from tests.suite.finished import collected, finished, written_table

SGD = {0: 92.9, 1: 92.2, 2: 92.1, 3: 92.2, 4: 91.9}
NOVOGRAD = {0: 92.4, 1: 91.0, 2: 88.9, 3: 91.9, 4: 91.4}


def rewrite(workspace, **keys):
    """Change top-level keys of the small experiment."""
    path = workspace / "experiments" / "small.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))


def rewrite_row(workspace, row, laptop):
    """Let a row train with these settings, under SGD's label."""
    rows = yaml.safe_load((workspace / "experiments" / "small.yaml").read_text())["rows"]
    (only,) = [each for each in rows if each["id"] == row]
    only |= {"label": "SGD", "laptop": laptop}
    rewrite(workspace, rows=rows)


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
    """The p value is twice the share of the 32 sign flips with a mean as low: with 5 seeds, none decides anything."""
    compared(workspace)
    record("sgd", SGD)
    record("novograd", NOVOGRAD)
    (line,), markdown = written(results)
    differences = [NOVOGRAD[seed] - SGD[seed] for seed in SGD]
    assert (line["row"], line["other"], line["column"], line["seeds"]) == ("novograd", "sgd", "top1", "5")
    assert float(line["difference"]) == pytest.approx(statistics.fmean(differences))
    assert float(line["sd"]) == pytest.approx(statistics.stdev(differences), rel=1e-5)
    assert (line["p"], line["p_holm"], line["level"]) == (f"{2 / 32}", f"{2 / 32}", "0.95")
    assert (line["low"], line["high"]) == ("-inf", "inf")
    verdict = f"undecided (about {line['more_seeds']} more seeds; 5 pairs cannot decide 1 comparison)"
    assert line["verdict"] == verdict
    bca = f"[{float(line['bca_low']):.2f}, {float(line['bca_high']):.2f}]"
    assert min(differences) < float(line["bca_low"]) < float(line["bca_high"]) < max(differences)
    assert cells_below_differences(markdown) == [["NovoGrad", "SGD", "-1.14", "–", bca, "5", verdict]]
    assert "Differences in top-1 (larger is better):" in markdown
    assert "With about as many more seeds" in markdown


@pytest.mark.parametrize(("better", "shift", "verdict"), [("larger", 9, "better"), ("larger", -9, "worse"),
    ("smaller", 9, "worse"), ("smaller", -9, "better")])  # fmt: skip
def test_a_decided_difference(results, workspace, better, shift, verdict):
    """Six seeds of one sign: the interval reaches from the smallest to the largest difference."""
    columns = [{"key": "top1", "split": "test", "metric": "top1", "label": "top-1", "better": better}]
    compared(workspace, columns=columns)
    record("sgd", SGD | {5: 90.0})
    record("novograd", {seed: value + shift for seed, value in (NOVOGRAD | {5: 90.0}).items()})
    (line,), markdown = written(results)
    assert (line["verdict"], line["more_seeds"], line["p"]) == (verdict, "", f"{2 / 64}")
    assert (float(line["low"]), float(line["high"])) == pytest.approx((shift - 3.2, shift))
    assert "With about as many more seeds" not in markdown
    assert "paired by seed" in markdown
    cells = cells_below_differences(markdown)[0]
    assert cells[3] == f"[{shift - 3.2:.2f}, {shift:.2f}]"
    assert cells[5:] == ["6", verdict]


def test_the_differences_of_a_column_are_a_family(results, workspace):
    """Six seeds decide one comparison, but not two."""
    compared(workspace, to=["sgd", "sgd_again"])
    rewrite_row(workspace, "sgd_again", {"optimizer.name": "sgd", "optimizer.lr": 0.1})
    for row, value in (("sgd", 90.0), ("sgd_again", 80.0), ("novograd", 99.0)):
        record(row, {seed: value + seed for seed in range(6)})
    lines, _ = written(results)
    text = "undecided (at least 1 more seed; 6 pairs cannot decide 2 comparisons)"
    assert [line["verdict"] for line in lines] == [text, text]
    assert {(line["p"], line["p_holm"]) for line in lines} == {("0.03125", "0.0625")}
    for row, value in (("sgd", 90.0), ("sgd_again", 80.0), ("novograd", 99.0)):
        record(row, {6: value})
    lines, _ = written(results)
    assert [line["verdict"] for line in lines] == ["better", "better"]


def test_a_training_that_diverged_is_not_forgotten(results, workspace):
    compared(workspace)
    record("sgd", dict.fromkeys(range(10), 90.0))
    record("novograd", {0: None} | {seed: 91.0 + seed for seed in range(1, 10)})
    (line,), markdown = written(results)
    assert (line["seeds"], line["left_out"], line["low"]) == ("10", "1", "-inf")
    assert line["verdict"] == "undecided (a training diverged in 1 of 10 pairs)"
    assert "counts as worse than any other: in top-1, NovoGrad diverged in 1 of 10 pairs." in markdown


def test_one_common_seed_decides_nothing(results, workspace):
    compared(workspace)
    record("sgd", {0: 90.0, 1: 91.0, 2: 90.0})
    record("novograd", {1: 99.0, 3: 99.0})
    (line,), markdown = written(results)
    assert (line["seeds"], line["difference"], line["sd"], line["bca_low"]) == ("1", "8", "", "")
    verdict = "undecided (at least 5 more seeds; 1 pair cannot decide 1 comparison)"
    assert (line["verdict"], line["more_seeds"]) == (verdict, "5")
    assert cells_below_differences(markdown) == [["NovoGrad", "SGD", "8.00", "–", "–", "1", verdict]]


def test_rows_of_one_cell_are_the_same_training(results, workspace):
    compared(workspace, "sgd_again")
    record("sgd", SGD)
    (line,), markdown = written(results)
    assert (line["difference"], line["verdict"], line["more_seeds"]) == ("0", "the same training", "")
    assert cells_below_differences(markdown)[0][2:] == ["0.00", "–", "–", "5", "the same training"]
    assert "sign-flip" not in markdown


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
    compared(workspace, to=["sgd", "sgd_again"])
    rewrite_row(workspace, "sgd_again", {"optimizer.name": "sgd", "optimizer.lr": 0.1})
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
        for seed in range(7):
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
