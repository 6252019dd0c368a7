"""Rows of a table: seeds or rows trained on different data, and values that are not finite."""

import pytest
import yaml
from scipy import stats

from novobench.suite.experiment import load_experiment
from novobench.suite.plots import write_figure
from novobench.suite.results import Results
from novobench.suite.table_rows import table_rows
from tests.suite.finished import collected, finished, written_table


def record(row, seed, top1, fingerprint):
    collected(finished("small", row, {"test": {"top1": top1}}, seed=seed, fingerprint=fingerprint))


def figure():
    """The SVG of the small experiment."""
    experiment = load_experiment("small")
    return write_figure(experiment, "laptop", table_rows(experiment, Results.load("laptop"))).read_text()


def test_seeds_trained_on_different_data_are_not_averaged(results):
    for seed, top1, fingerprint in ((0, 60.0, "digits:aa"), (1, 80.0, "digits:bb"), (2, 70.0, "digits:aa")):
        record("sgd", seed, top1, fingerprint)
    rows, markdown = written_table()
    assert [rows["sgd"][f"top1{part}"] for part in ("", "_sd", "_low", "_high")] == ["", "", "", ""]
    warning = (
        "its seeds were trained on different data and are not averaged: seeds 0, 2 on digits:aa; seed 1 on digits:bb"
    )
    assert rows["sgd"]["warnings"] == warning
    assert f"**Warning**: {warning}." in markdown
    (line,) = [line for line in markdown.splitlines() if line.startswith("| SGD [")]
    assert "| not averaged |" in line
    assert "70.00" not in markdown  # their mean


def test_rows_of_one_data_config_on_different_data(results):
    record("sgd", 0, 60.0, "digits:aa")
    record("novograd", 0, 80.0, "digits:bb")
    rows, _ = written_table()
    assert (rows["sgd"]["top1"], rows["novograd"]["top1"]) == ("60", "80")
    warning = "trained on other data (digits:bb) than SGD, SGD, the same training, under the same name"
    assert rows["novograd"]["warnings"] == warning
    assert rows["sgd"]["warnings"] == "trained on other data (digits:aa) than NovoGrad, under the same name"


def test_rows_of_different_data_configs_may_differ(results, workspace):
    path = workspace / "experiments" / "small.yaml"
    content = yaml.safe_load(path.read_text())
    content["rows"][2]["laptop"]["data.name"] = "digits-plain"
    path.write_text(yaml.safe_dump(content))
    record("sgd", 0, 60.0, "digits:aa")
    record("novograd", 0, 80.0, "digits:bb")
    assert {line["warnings"] for line in written_table()[0].values()} == {""}


def test_a_figure_says_that_seeds_had_different_data(results, workspace):
    path = workspace / "experiments" / "small.yaml"
    content = yaml.safe_load(path.read_text())
    content["figure"] = [{"x": "update", "y": ["train/loss"], "x_label": "update", "y_label": "loss"}]
    path.write_text(yaml.safe_dump(content))
    record("sgd", 0, 60.0, "digits:aa")
    record("sgd", 1, 60.0, "digits:aa")
    assert "different data" not in figure()
    record("sgd", 1, 60.0, "digits:bb")
    assert "SGD, seeds on different data" in figure()


# ------------------------------------------------------------------------------------ seed noise


def test_seed_noise_is_pooled_over_trainings(results):
    """Row `sgd_again` has the cells of row `sgd`: they count once."""
    values = {"sgd": [60.0, 64.0, 62.0], "novograd": [80.0, 81.0]}
    for row, of_seeds in values.items():
        for seed, top1 in enumerate(of_seeds):
            record(row, seed, top1, "digits:aa")
    rows, markdown = written_table()
    pooled = (sum(stats.tvar(of_seeds) * (len(of_seeds) - 1) for of_seeds in values.values()) / 3) ** 0.5
    (shown,) = {line["top1_pooled_sd"] for line in rows.values()}
    assert float(shown) == pytest.approx(pooled, rel=1e-5)
    noise = f"Seed noise of top-1: a standard deviation of {pooled:.2g}, pooled within rows."
    assert f"- {noise} 17 seeds per row detect a difference of that size" in markdown


def test_one_seed_has_no_seed_noise(results):
    record("sgd", 0, 60.0, "digits:aa")
    rows, markdown = written_table()
    assert "top1_pooled_sd" not in rows["sgd"]
    assert "Seed noise" not in markdown


# ------------------------------------------------------------------------------------ not finite


def test_means_leave_out_values_that_are_not_finite_and_say_so(results):
    for seed, value in enumerate((10.0, None, 30.0, 26.0)):
        collected(finished("small", "sgd", {"test": {"top1": value, "loss": 1.0}}, seed=seed))
    collected(finished("small", "novograd", {"test": {"top1": None, "loss": None}}))
    rows, markdown = written_table()
    low, high = stats.t.interval(0.95, 2, loc=22, scale=stats.sem([10, 30, 26]))
    values = [float(rows["sgd"][key]) for key in ("top1", "top1_low", "top1_high")]
    assert values == pytest.approx([22, low, high], rel=1e-5)
    assert rows["sgd"]["warnings"] == "not finite, so left out of means and intervals: test top1 (1 of 4 seeds)"
    assert (rows["novograd"]["top1"], rows["novograd"]["top1_sd"]) == ("nan", "")
    assert "test top1, test loss (1 of 1 seeds)" in rows["novograd"]["warnings"]
    (line,) = [line for line in markdown.splitlines() if line.startswith("| NovoGrad")]
    assert "| not finite |" in line
    warning = "not finite, so left out of means and intervals: test top1, test loss (1 of 1 seeds)"
    assert f"**Warning**: {warning}." in markdown
    assert "top1,nan,597" in (results / "records.csv").read_text()


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
