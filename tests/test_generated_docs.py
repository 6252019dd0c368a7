"""What the Makefile, README and headers say about experiments is what the experiments and their results say."""

import dataclasses

import pytest

import renew_docs
from novobench.places import ROOT
from novobench.suite.experiment import experiment_names, load_experiment


@pytest.mark.parametrize("block", renew_docs.BLOCKS, ids=lambda block: block.write.__name__)
def test_the_block_is_up_to_date(block):
    """If this fails, run `make docs`."""
    text = (ROOT / block.file).read_text(encoding="utf-8")
    assert renew_docs.renewed(block, text) == text


def test_a_lead_in_the_list_of_verdicts():
    line = {"lead": "-21.43", "low": "-22.6", "high": "-20.1"}
    assert renew_docs._lead(line) == "−21.43 [−22.60, −20.10]"
    assert renew_docs._lead(line | {"low": "", "high": ""}) == "−21.43"
    assert renew_docs._lead(line | {"lead": ""}) == "–"


@pytest.mark.parametrize("name", experiment_names())
def test_the_header_has_the_seed_noise_of_the_committed_results(name):
    """If this fails, run `make docs`."""
    text = (ROOT / "experiments" / f"{name}.yaml").read_text(encoding="utf-8")
    assert renew_docs.renewed_header(load_experiment(name), text, renew_docs.laptop_table(name)) == text


def test_the_line_on_seed_noise():
    experiment = load_experiment("table1")
    text = "# Table.\n# Seed noise: old\n# Command: make\ntitle: a\n"
    table = [{"seeds": seeds, "top1_pooled_sd": "0.8342"} for seeds in ("5", "1", "5")]
    line = "# Seed noise: test top1 0.83 over 5 seeds at laptop scale; 17 seeds per row detect such a difference.\n"
    assert renew_docs.renewed_header(experiment, text, table) == f"# Table.\n{line}# Command: make\ntitle: a\n"
    table.append({"seeds": "2", "top1_pooled_sd": "0.8342"})
    assert "over 2-5 seeds" in renew_docs.renewed_header(experiment, text, table)
    other = dataclasses.replace(experiment, columns=[dataclasses.replace(experiment.columns[0], key="other")])
    assert renew_docs.renewed_header(other, text, table) == "# Table.\n# Command: make\ntitle: a\n"
