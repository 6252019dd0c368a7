"""What a table warns of, and the columns that a scale's data lack."""

import csv
import shutil

import pytest

from novobench.config import ROOT
from novobench.suite.experiment import load_experiment
from novobench.suite.tables import write_table
from tests.suite.finished import collected, finished


@pytest.fixture
def recorded(workspace):
    """Table 4 at gpu scale, whose data have no `other` sets. SGD has a second seed, which collapsed."""
    shutil.copy(ROOT / "experiments" / "table4.yaml", workspace / "experiments" / "table4.yaml")
    for row, seed, wer in (("t4_adam", 0, 20), ("t4_sgd", 0, 30), ("t4_sgd", 1, 99), ("t4_novograd", 0, 25)):
        metrics = {split: {"wer": wer, "collapsed": float(wer == 99)} for split in ("dev-clean", "test-clean")}
        assert collected(finished("table4", row, metrics, scale="gpu", seed=seed), scale="gpu") == []
    return written(load_experiment("table4"))


def written(experiment):
    csv_path, markdown = write_table(experiment, "gpu")
    with csv_path.open(newline="") as file:
        return {line["row"]: line for line in csv.DictReader(file)}, markdown.read_text()


def test_rates_that_no_search_has_found_are_told(recorded, workspace):
    _, markdown = recorded
    assert "- No search has been made at gpu scale for the rates of any row: they were made for other data." in markdown
    rates = workspace / "configs" / "speech" / "tuned-gpu.yaml"
    rates.write_text("{adam: {optimizer.lr: 0.001}, sgd: {optimizer.lr: 0.02}}")
    assert (
        "- No search has been made at gpu scale for the rates of NovoGrad: they"
        in written(load_experiment("table4"))[1]
    )
    rates.write_text("{adam: {optimizer.lr: 0.001}, sgd: {optimizer.lr: 0.02}, novograd: {optimizer.lr: 0.02}}")
    assert "No search" not in written(load_experiment("table4"))[1]


def test_a_collapsed_run_is_flagged(recorded):
    rows, markdown = recorded
    warnings = {row: line["warnings"] for row, line in rows.items()}
    assert warnings["t4_adam"] == warnings["t4_novograd"] == ""
    assert warnings["t4_sgd"] == "collapsed: the network says almost nothing (1 of 2 seeds)"
    (line,) = [line for line in markdown.splitlines() if line.startswith("| SGD")]
    mark = line.split("|")[1].split()[-1]
    assert f"{mark} **Warning**: collapsed: the network says almost nothing (1 of 2 seeds)." in markdown


def test_columns_that_the_data_lack_are_left_out(recorded):
    rows, markdown = recorded
    assert float(rows["t4_sgd"]["test_clean"]) == (30 + 99) / 2
    assert "test_other" not in rows["t4_sgd"]
    assert "test-other" not in markdown
    assert "test-clean" in markdown
