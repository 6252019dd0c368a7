"""Rows whose seeds, or which among each other, were trained on different data: told, and never averaged."""

import yaml

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


def test_seeds_that_saw_different_data_are_not_averaged(results):
    for seed, top1, fingerprint in ((0, 60.0, "digits:aa"), (1, 80.0, "digits:bb"), (2, 70.0, "digits:aa")):
        record("sgd", seed, top1, fingerprint)
    rows, markdown = written_table()
    assert [rows["sgd"][f"top1{part}"] for part in ("", "_sd", "_low", "_high")] == ["", "", "", ""]
    told = "its seeds were trained on different data and are not averaged: seeds 0, 2 on digits:aa; seed 1 on digits:bb"
    assert rows["sgd"]["warnings"] == told
    assert f"**Warning**: {told}." in markdown
    (line,) = [line for line in markdown.splitlines() if line.startswith("| SGD [")]
    assert "| not averaged |" in line
    assert "70.00" not in markdown  # their mean


def test_rows_of_one_data_config_on_different_data(results):
    record("sgd", 0, 60.0, "digits:aa")
    record("novograd", 0, 80.0, "digits:bb")
    rows, _ = written_table()
    assert (rows["sgd"]["top1"], rows["novograd"]["top1"]) == ("60", "80")
    told = "trained on other data (digits:bb) than SGD, SGD, the same training, under the same name"
    assert rows["novograd"]["warnings"] == told
    assert rows["sgd"]["warnings"] == "trained on other data (digits:aa) than NovoGrad, under the same name"


def test_rows_of_different_data_configs_may_differ(results, workspace):
    path = workspace / "experiments" / "small.yaml"
    content = yaml.safe_load(path.read_text())
    content["rows"][2]["laptop"]["data.name"] = "digits-plain"
    path.write_text(yaml.safe_dump(content))
    record("sgd", 0, 60.0, "digits:aa")
    record("novograd", 0, 80.0, "digits:bb")
    assert {line["warnings"] for line in written_table()[0].values()} == {""}


def test_a_figure_says_so(results, workspace):
    path = workspace / "experiments" / "small.yaml"
    content = yaml.safe_load(path.read_text())
    content["figure"] = [{"x": "update", "y": ["train/loss"], "x_label": "update", "y_label": "loss"}]
    path.write_text(yaml.safe_dump(content))
    record("sgd", 0, 60.0, "digits:aa")
    record("sgd", 1, 60.0, "digits:aa")
    assert "different data" not in figure()
    record("sgd", 1, 60.0, "digits:bb")
    assert "SGD, seeds on different data" in figure()
