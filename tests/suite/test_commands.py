"""The commands plan, run and search on an experiment that takes seconds."""

import csv
import json

import pytest
import yaml

from novobench.places import display_path
from novobench.suite.results import Results


@pytest.fixture
def tuned(workspace):
    path = workspace / "configs" / "image" / "tuned-laptop.yaml"
    path.write_text("novograd-b32: {optimizer.lr: 0.02, optimizer.weight_decay: 0.001}\n")
    return workspace


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_plan_shows_size_and_cost_and_trains_nothing(tuned, novobench):
    code, out, err = novobench("plan", "small")
    assert (code, err) == (0, "")
    assert "2 cells, 2 to do" in out
    assert "small/sgd small/sgd_again" in out  # one training for two rows
    assert "32 = 16 × 1 × 2" in out
    assert "the paper quotes these rows, they are not run: elsewhere" in out
    assert not (tuned / "runs").exists()


def test_only_some_rows(tuned, novobench):
    code, out, _ = novobench("plan", "small", "--rows", "sgd_again")
    assert code == 0
    assert "1 cell, 1 to do" in out
    assert "small/sgd_again" in out
    assert "small/sgd " not in out


def test_plan_at_paper_scale_needs_no_data(novobench):
    code, out, _ = novobench("plan", "table3", "--scale", "full")
    assert code == 0
    for number in ("25,549,352", "112,590", "1,251", "156", "39", "3,510", "32768 = 128 × 1 × 256"):
        assert number in out, number
    assert "ResNet-50 v1.5 on one A100" in out


def test_run_trains_records_and_writes_a_table(tuned, novobench):
    code, out, err = novobench("run", "small", "--seeds", "2", "--jobs", "2")
    assert (code, err) == (0, "")
    assert "4 cells: 0 already finished, 4 to train." in out
    results = tuned / "results" / "laptop"
    rows = {line["row"]: line for line in lines(results / "small.csv")}
    recorded = [
        float(line["value"])
        for line in lines(results / "records.csv")
        if line["optimizer"] == "sgd" and (line["split"], line["metric"]) == ("test", "top1")
    ]
    assert len(recorded) == 2
    assert float(rows["sgd"]["top1"]) == pytest.approx(sum(recorded) / 2, abs=1e-4)
    assert float(rows["sgd"]["top1_sd"]) == pytest.approx(abs(recorded[0] - recorded[1]) / 2**0.5, rel=1e-4, abs=1e-4)
    assert rows["sgd"]["top1_paper"] == "76.5"
    assert rows["sgd_again"]["top1"] == rows["sgd"]["top1"]
    assert rows["elsewhere"]["top1"] == ""
    assert rows["elsewhere"]["top1_paper"] == "12.5"
    assert rows["later"]["top1"] == ""
    text = (results / "small.md").read_text()
    assert "| SGD | 0.05 | 32 | 2 |" in text
    assert "76.50" in text
    assert "The paper quotes this value from Somebody (2000); it is not run here." in text
    cells = json.loads((results / "cells.json").read_text())
    assert len(cells["cells"]) == 4
    assert all("path" not in training["config"]["data"] for training in cells["trainings"].values())
    examples = json.loads((results / "examples.json").read_text())
    assert [len(entry["test"]) for entry in examples.values()] == [10, 10]  # of one seed per training
    curves = Results.load("laptop").curves(min(cells["cells"]))
    assert {"train/loss", "train/lr", "search/top1"} <= curves.keys()

    before = {path.name: path.read_bytes() for path in results.iterdir()}
    code, out, _ = novobench("run", "small", "--seeds", "2")
    assert code == 0
    assert "4 already finished, 0 to train" in out
    assert {path.name: path.read_bytes() for path in results.iterdir()} == before


def test_after_an_interrupt_finished_cells_are_in_the_table(tuned, novobench, monkeypatch):
    from novobench.suite import runner

    class Interrupted(runner._Display):
        def on_event(self, event):
            super().on_event(event)
            if event.kind == "finished":
                raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_Display", Interrupted)
    code, _, err = novobench("run", "small", "--jobs", "1")
    assert code == 130
    assert "Run the same command again" in err
    results = tuned / "results" / "laptop"
    assert len({line["cell"] for line in lines(results / "records.csv")}) == 1
    assert sum(line["top1"] != "" for line in lines(results / "small.csv")) >= 1


def test_results_do_not_need_runs_and_keep_other_cells(tuned, novobench):
    import shutil

    assert novobench("run", "small")[0] == 0
    old = lines(tuned / "results" / "laptop" / "records.csv")
    shutil.rmtree(tuned / "runs")
    path = tuned / "configs" / "image" / "tuned-laptop.yaml"
    path.write_text(path.read_text().replace("0.02", "0.03"))
    code, out, _ = novobench("plan", "small")
    assert "samples" not in out
    assert "finished cells" in out  # the forecast knows the speed from results alone
    assert novobench("run", "small")[0] == 0
    new = lines(tuned / "results" / "laptop" / "records.csv")
    assert {line["cell"] for line in old} < {line["cell"] for line in new}
    assert code == 0


def test_an_overridden_recipe_stays_out_of_the_table(tuned, novobench):
    code, out, _ = novobench("run", "small", "--set", "optimizer.lr=0.07")
    assert code == 0
    assert "test: top1" in out
    assert "small.md" not in out
    assert not list((tuned / "results").rglob("*.*"))


def test_cells_share_a_gpu_and_a_notice_says_so(tuned, novobench, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # without a GPU, `auto` takes the CPU
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tuned))
    settings = ("runtime.accelerator=auto", "budget=1steps")
    code, out, err = novobench("run", "small", "--jobs", "2", "--set", *settings)
    assert (code, err) == (0, "")
    assert "Up to 2 cells share a GPU and take turns on it." in out
    assert "[2/2]" in out
    configs = [yaml.safe_load(path.read_text()) for path in tuned.glob("runs/laptop/*/config.yaml")]
    assert [config["runtime"]["cells_per_gpu"] for config in configs] == [2, 2]


def test_any_class_is_an_optimizer(tuned, novobench):
    code, out, err = novobench(
        "run", "small", "--set", "optimizer.name=torch.optim:RMSprop", "optimizer.lr=0.002", "optimizer.options={}"
    )
    assert (code, err) == (0, "")
    assert "image-RMSprop-s100-" in out


def test_a_failed_cell_is_reported_and_stops_no_other(tuned, novobench):
    path = tuned / "experiments" / "small.yaml"
    content = yaml.safe_load(path.read_text())
    content["rows"][1]["laptop"] |= {"optimizer.lr": 1e38, "runtime.max_nonfinite": 2}
    path.write_text(yaml.safe_dump(content))
    code, out, err = novobench("run", "small")
    assert code == 1
    assert "FAILED" in out
    assert (out + err).count("Gradients were not finite in 2 updates in a row") == 1
    assert "1 of 3 cells failed; the others are finished and kept" in err
    rows = {line["row"]: line for line in lines(tuned / "results" / "laptop" / "small.csv")}
    assert rows["sgd"]["top1"] == ""
    assert rows["novograd"]["top1"] != ""
    assert "not run" in (tuned / "results" / "laptop" / "small.md").read_text()


def printed_rows(out):
    """Labels of the table that was printed."""
    return [label for label in ("Quoted", "SGD", "NovoGrad", "Only at full scale") if f" {label} " in out]


def test_after_failures_only_rows_with_numbers_are_printed(tuned, novobench, monkeypatch):
    from novobench.suite import runner
    from tests.suite.finished import finished

    def trained(cells, *_):
        finished("small", "sgd", {"test": {"top1": 40.0}})
        return {cell.id: "first line\n  second line" for cell in cells if not cell.folder.finished}

    monkeypatch.setattr(runner, "train", trained)
    code, out, err = novobench("run", "small")
    assert code == 1
    assert "not run" not in out
    assert printed_rows(out) == ["SGD"]
    failure, summary = err.splitlines()
    assert failure.endswith(" failed: first line second line")
    assert "1 of 2 cells failed" in summary
    assert "not run" in (tuned / "results" / "laptop" / "small.md").read_text()


def test_if_every_cell_fails_no_table_is_printed(tuned, novobench, monkeypatch):
    from novobench.suite import runner

    monkeypatch.setattr(runner, "train", lambda cells, *_: {cell.id: "no\n" * 2000 for cell in cells})
    code, out, err = novobench("run", "small")
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 3  # two cells and the sum
    assert max(map(len, err.splitlines())) < 2100
    assert not list((tuned / "results").rglob("small.*"))


def test_rates_searched_while_cells_train(tuned, novobench, monkeypatch):
    """The table shows the cells that the command planned, and a notice says that the rows have changed since."""
    from novobench.suite import runner
    from tests.suite.finished import finished

    rates = tuned / "configs" / "image" / "tuned-laptop.yaml"
    changes = [
        lambda: rates.write_text("novograd-b32: {optimizer.lr: 0.09}\n"),
        rates.unlink,
        lambda: (tuned / "configs" / "image" / "laptop.yaml").write_text("broken: ["),
    ]
    monkeypatch.setattr(runner, "train", lambda *_: (change(), {})[1])
    for row, value in (("sgd", 40.0), ("novograd", 30.0)):
        finished("small", row, {"test": {"top1": value}})
    for change in [lambda: None, *changes]:
        rates.write_text("novograd-b32: {optimizer.lr: 0.02, optimizer.weight_decay: 0.001}\n")
        code, out, err = novobench("run", "small")
        assert (code, err) == (0, "")
        top1 = {line["row"]: line["top1"] for line in lines(tuned / "results" / "laptop" / "small.csv")}
        assert (top1["sgd"], top1["novograd"]) == ("40", "30")
        assert ("configs of small changed while this command ran" in " ".join(out.split())) == (change in changes)


def test_a_damaged_record_of_an_overridden_recipe_is_named(tuned, novobench):
    arguments = ("run", "small", "--rows", "sgd", "--set", "budget=1steps")
    assert novobench(*arguments)[0] == 0
    (path,) = tuned.glob("runs/laptop/*/record.json")
    path.write_text(path.read_text()[:-30])
    code, _, err = novobench(*arguments)
    assert code == 1
    assert err.startswith(f"novobench: {display_path(path)} of a finished cell is damaged: ")
    assert err.count("\n") == 1


def test_a_search_writes_the_best_rates_and_every_trial(workspace, novobench):
    (workspace / "configs" / "image" / "tuned-laptop.yaml").unlink()
    code, _, err = novobench("search", "small", "--trials", "2", "--seeds", "2", "--jobs", "2")
    assert (code, err) == (0, "")
    searched = lines(workspace / "results" / "laptop" / "search.csv")
    rounds = 1 + max(int(line["round"]) for line in searched)
    assert len(searched) == rounds * 2 * 2
    assert {line["key"] for line in searched} == {"novograd-b32"}
    means = {}
    for line in searched:
        means.setdefault(line["rates"], []).append(float(line["value"]))
    best = max(means, key=lambda rates: sum(means[rates]))
    assert {line["rates"] for line in searched if line["chosen"] == "1"} == {best}
    path = workspace / "configs" / "image" / "tuned-laptop.yaml"
    tuned = yaml.safe_load(path.read_text())["novograd-b32"]
    assert " ".join(f"{key}={value:g}" for key, value in tuned.items()) == best
    assert "novobench search small --scale laptop --trials 2 --seeds 2" in path.read_text()
    for line in searched:
        factor = 4 ** int(line["round"])
        assert 0.001 / factor <= float(line["rates"].split()[0].split("=")[1]) <= 0.1 * factor
    assert not (workspace / "results" / "laptop" / "records.csv").exists()  # trials are in no table
    for record in (workspace / "runs" / "laptop").glob("*/record.json"):
        assert set(json.loads(record.read_text())["metrics"]) == {"search"}
    assert novobench("run", "small")[0] == 0


@pytest.mark.slow
def test_a_search_of_another_recipe_only_prints_its_outcome(tuned, novobench):
    rates = (tuned / "configs" / "image" / "tuned-laptop.yaml").read_bytes()
    count = ("--trials", "2", "--seeds", "1", "--jobs", "2")
    code, out, err = novobench("search", "small", *count, "--set", "budget=2steps")
    assert (code, err) == (0, "")
    assert "novograd-b32: optimizer.lr " in out
    assert "Nothing was written" in out
    assert (tuned / "configs" / "image" / "tuned-laptop.yaml").read_bytes() == rates
    assert not (tuned / "results" / "laptop" / "search.csv").exists()
    assert novobench("search", "small", *count, "--set", "runtime.curve_points=1")[0] == 0  # changes no result
    assert (tuned / "results" / "laptop" / "search.csv").exists()
    code, _, err = novobench("search", "small", "--set", "optimizer.lr=0.1")
    assert code == 2
    assert "--set optimizer.lr: the search of novograd-b32 finds this rate" in err


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("experiments", ["table1", "§4.1", "33 h on 8 A100"]),
        ("optimizers", ["novograd", "os2s", "lars"]),
        ("tasks", ["image"]),
    ],
)
def test_list(what, words, novobench):
    code, out, _ = novobench("list", what)
    assert code == 0
    for word in words:
        assert word in out
