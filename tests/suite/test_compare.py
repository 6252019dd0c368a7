"""`compare` from end to end, with trainings whose results are formulas: what it trains, decides and writes."""

import csv
import math
import shutil

import pytest
import yaml

from novobench.suite import compare, contest, runner
from novobench.suite.compare_report import span
from novobench.suite.executors import Event
from novobench.suite.row_configs import row_config
from tests.suite.finished import finished_cell

BEST = {"adamw": 0.002, "novograd": 0.02, "muon": 0.003, "sgd": 0.1}
"""The rate at which an optimizer is best."""
SCORE = {"adamw": 80.0, "novograd": 83.0, "muon": 79.0, "sgd": 60.0}
"""Its accuracy there."""


def score(config):
    """Accuracy falls with the distance of the rate from the best one, and varies with the seed: by the same amount for
    all optimizers, and by one of its own."""
    name = config.optimizer.name
    own = 0.2 * ((config.seed * 7 + len(name)) % 5 - 2)
    return SCORE[name] - 4 * abs(math.log10(config.optimizer.lr / BEST[name])) + 0.5 * (config.seed % 3) + own


def finish(config):
    columns = contest.load_recipe(config.task).columns
    first = columns[0]
    value = score(config)
    curve = [value - 40, value - 20, value - 5, value]
    if first.better == "smaller":
        value, curve = 100 - value, [100 - each for each in curve]
    metrics = {"search": {first.metric: value, "loss": (100 - score(config)) / 10}}
    if config.purpose == "table":
        for column in columns:
            split = "test-clean" if column.split == "data.test_sets[0]" else column.split
            metrics.setdefault(split, {})[column.metric] = value
    finished_cell(config, metrics, curves={f"search/{first.metric}": curve})


@pytest.fixture
def trained(workspace, monkeypatch):
    """The cells that commands train, by formula instead."""
    cells = []

    def run(to_do, jobs, on_event):
        for cell in to_do:
            on_event(Event("started", cell))
            finish(cell.config)
            cells.append(cell)
            on_event(Event("finished", cell))
        return {}

    monkeypatch.setattr(runner, "run_local", run)
    return cells


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


IMAGE = ("--task", "image")


def test_a_comparison_decides(trained, workspace, novobench):
    code, out, err = novobench("compare", "novograd", "adamw", *IMAGE, "--target", "top1=75")
    assert (code, err) == (0, "")
    folder = workspace / "results" / "laptop" / "compare" / "image-novograd-adamw"
    (line,) = lines(folder / "differences.csv")
    compared = {}
    for cell in trained:
        if cell.config.purpose == "table":
            compared.setdefault(cell.config.optimizer.name, {})[cell.config.seed] = score(cell.config)
    assert {name: sorted(seeds) for name, seeds in compared.items()} == {
        "adamw": [*range(100, 110)],
        "novograd": [*range(100, 110)],
    }
    differences = [compared["novograd"][seed] - compared["adamw"][seed] for seed in range(100, 110)]
    assert min(differences) > 0  # so that one of 2^10 sign flips is as extreme, and its mirror image
    assert line["verdict"] == "better"
    assert float(line["p"]) == pytest.approx(2 / 2**10, rel=1e-5)
    assert float(line["difference"]) == pytest.approx(sum(differences) / 10, rel=1e-5)
    assert float(line["low"]) > 0
    assert line["pairs"] == "10"
    text = (folder / "compare.md").read_text()
    assert "novograd is better than adamw: difference in test top-1 (%)" in text
    assert "![curves, rates and trials](figures/image.svg)" in text
    assert "novobench compare novograd adamw --task image --target top1=75" in text
    assert "novograd is better than adamw" in " ".join(out.split())
    assert (folder / "figures" / "image.svg").read_text().count("<svg") == 1
    # Trials see no test set and have seeds of their own; other rates have the first two compared seeds.
    searches = [cell.config for cell in trained if cell.config.purpose == "search"]
    assert {config.seed for config in searches} == {0, 100, 101}
    searched = lines(folder / "search.csv")
    trials = [config for config in searches if config.seed == 0]
    assert len(trials) == len(searched)
    rounds = {line["round"] for line in searched}
    for name in ("adamw", "novograd"):
        assert sum(line["optimizer"] == name for line in searched) == 8 * len(rounds)
    rates = lines(folder / "rates.csv")
    assert [float(line["factor"]) for line in rates] == [0.25, 0.5, 1, 2, 4] * 2
    # The evaluations are at updates 1, 2, 3 and 4 and half a second apart: 75 is reached with the third.
    for line in lines(folder / "optimizers.csv"):
        mean = sum(compared[line["optimizer"]].values()) / 10
        assert float(line["test_top1"]) == pytest.approx(mean, rel=1e-5)
        reached = 3 if min(compared[line["optimizer"]].values()) - 5 >= 75 else 4
        assert float(line["median_updates_to_target"]) in (reached, 3.0, 3.5)
        assert line["seeds_at_target"] == "10"
        assert int(line["state_bytes"]) > 0
    assert not (workspace / "results" / "laptop" / "records.csv").exists()  # in no table of the paper
    assert len({line["cell"] for line in lines(folder / "records.csv")}) == 2 * 10 + 2 * 4 * 2


def test_only_missing_cells_are_trained(trained, workspace, novobench):
    def count(*words):
        del trained[:]
        assert novobench("compare", *words, *IMAGE)[0] == 0
        return {(cell.config.optimizer.name, cell.config.purpose) for cell in trained}, len(trained)

    assert count("novograd", "adamw", "--seeds", "3")[1] > 6
    before = (workspace / "results/laptop/compare/image-novograd-adamw/compare.md").read_bytes()
    assert count("novograd", "adamw", "--seeds", "3") == (set(), 0)
    assert (workspace / "results/laptop/compare/image-novograd-adamw/compare.md").read_bytes() == before
    assert count("novograd", "adamw", "--seeds", "5") == ({("novograd", "table"), ("adamw", "table")}, 4)
    kinds, _ = count("novograd", "adamw", "muon", "--seeds", "5")
    assert kinds == {("muon", "table"), ("muon", "search")}


def test_every_optimizer_reaches_the_target_that_nobody_declared(trained, workspace, novobench):
    """With more than half of its seeds; it is the median last accuracy of the worse one."""
    assert novobench("compare", "novograd", "adamw", *IMAGE, "--seeds", "4", "--name", "target")[0] == 0
    last = sorted(score(cell.config) for cell in trained if cell.config.purpose == "table" and is_adamw(cell))
    for line in lines(workspace / "results/laptop/compare/target/optimizers.csv"):
        assert float(line["target"]) == pytest.approx(last[1], rel=1e-5)
        assert int(line["seeds_at_target"]) == (3 if line["optimizer"] == "adamw" else 4)
        assert float(line["median_updates_to_target"]) in (3, 4)


def is_adamw(cell):
    return cell.config.optimizer.name == "adamw"


@pytest.mark.slow
def test_too_few_seeds_decide_nothing(trained, workspace, novobench):
    assert novobench("compare", "novograd", "adamw", "sgd", *IMAGE, "--seeds", "5", "--name", "few")[0] == 0
    folder = workspace / "results/laptop/compare/few"
    assert {line["verdict"] for line in lines(folder / "differences.csv")} == {"undecided"}
    # Two comparisons: 2 / 2^n must be at most 0.025, so 7 pairs can decide.
    text = (folder / "compare.md").read_text()
    assert "undecided (at least 2 more seeds; 5 pairs cannot decide 2 comparisons)" in text
    assert "no interval" in text


@pytest.mark.slow
def test_all_tasks_are_one_family(trained, workspace, novobench):
    """Four comparisons: 2 / 2^n must be at most 0.05 / 4, which 8 pairs attain."""
    assert novobench("compare", "novograd", "adamw", "--task", "all", "--name", "all", "--seeds", "8")[0] == 0
    folder = workspace / "results/laptop/compare/all"
    found = {line["task"]: line for line in lines(folder / "differences.csv")}
    assert {task: line["verdict"] for task, line in found.items()} == dict.fromkeys(
        ("image", "language", "speech", "translation"), "better"
    )
    assert {float(line["p_adjusted"]) for line in found.values()} == {4 * 2 / 2**8}
    assert float(found["language"]["difference"]) < 0 < float(found["image"]["difference"])
    text = (folder / "compare.md").read_text()
    # Every training of NovoGrad beats every one of AdamW.
    assert "| novograd |  | 100 % | 1.00 | 1.00 |" in text
    assert "| adamw | 0 % |  |" in text
    for task in found:
        assert (folder / "figures" / f"{task}.svg").exists()


def test_given_rates_are_not_searched(trained, workspace, novobench, tmp_path):
    rates = tmp_path / "rates.yaml"
    rates.write_text(
        "adamw: {lr: 0.001, weight_decay: 0.01, set: {options.betas: [0.9, 0.95]}}\n"
        "novograd: {weight_decay: 0, search: {lr: [0.01, 0.04]}}\n"
    )
    command = ("compare", "novograd", "adamw", *IMAGE, "--rates", str(rates), "--seeds", "2", "--name", "given")
    assert novobench(*command)[0] == 0
    searched = lines(workspace / "results/laptop/compare/given/search.csv")
    assert {line["optimizer"] for line in searched} == {"novograd"}
    assert {line["rates"].partition("=")[0] for line in searched} == {"optimizer.lr"}
    first = [float(line["rates"].partition("=")[2]) for line in searched if line["round"] == "0"]
    assert all(0.0095 <= lr <= 0.0405 for lr in first)
    (config,) = {
        repr(cell.config.optimizer)
        for cell in trained
        if cell.config.optimizer.name == "adamw" and cell.config.purpose == "table"
    }
    assert "lr=0.001" in config
    assert "betas=[0.9, 0.95]" in config
    text = (workspace / "results/laptop/compare/given/compare.md").read_text()
    assert "adamw: its rates were given, not searched" in text


@pytest.mark.slow
def test_a_margin_that_was_declared_late_is_reported(trained, workspace, novobench):
    command = ("compare", "novograd", "adamw", *IMAGE, "--seeds", "7", "--name", "margins")
    assert novobench(*command)[0] == 0
    assert novobench(*command, "--margin", "top1=20")[0] == 0
    folder = workspace / "results/laptop/compare/margins"
    assert lines(folder / "differences.csv")[0]["verdict"] == "equivalent"
    text = (folder / "compare.md").read_text()
    assert "equivalent within 20" in text
    assert "after 14 compared cells had finished" in text
    declared = yaml.safe_load((folder / "compare.yaml").read_text())["declared"]
    assert novobench(*command, "--margin", "top1=20")[0] == 0  # the same margin keeps its time
    assert yaml.safe_load((folder / "compare.yaml").read_text())["declared"] == declared


def test_a_failed_trial_is_reported_and_others_count(trained, workspace, novobench, monkeypatch):
    honest = runner.run_local

    def run(to_do, jobs, on_event):
        bad = [cell for cell in to_do if cell.config.optimizer.lr > 0.05 and cell.config.purpose == "search"]
        failed = {cell.id: "the loss is not finite" for cell in bad}
        for cell in bad:
            on_event(Event("started", cell))
            on_event(Event("failed", cell, error="the loss is not finite"))
        return failed | honest([cell for cell in to_do if cell not in bad], jobs, on_event)

    monkeypatch.setattr(runner, "run_local", run)
    code, out, err = novobench("compare", "novograd", "adamw", *IMAGE, "--seeds", "2", "--name", "failing")
    assert "their trials cannot win. The first error: the loss is not finite" in out
    assert "failed: the loss is not finite" in err  # of a cell at another rate
    text = (workspace / "results/laptop/compare/failing/compare.md").read_text()
    assert "failed or had a failed cell, and could not win" in text
    assert "not run" in text  # the loss at a rate that failed
    assert code == 1


@pytest.mark.slow
def test_an_optimizer_whose_trainings_all_fail_has_no_verdict(trained, workspace, novobench, monkeypatch):
    honest = runner.run_local

    def run(to_do, jobs, on_event):
        bad = [cell for cell in to_do if cell.config.optimizer.name == "novograd" and cell.config.purpose == "table"]
        for cell in bad:
            on_event(Event("started", cell))
            on_event(Event("failed", cell, error="out of memory"))
        others = honest([cell for cell in to_do if cell not in bad], jobs, on_event)
        return {cell.id: "out of memory" for cell in bad} | others

    monkeypatch.setattr(runner, "run_local", run)
    code, out, _ = novobench("compare", "novograd", "adamw", *IMAGE, "--seeds", "2", "--name", "failing")
    assert code == 1
    assert "novograd and adamw are undecided" in " ".join(out.split())
    assert "no pair of seeds" in (workspace / "results/laptop/compare/failing/compare.md").read_text()
    monkeypatch.setattr(runner, "run_local", honest)
    del trained[:]
    assert novobench("compare", "novograd", "adamw", *IMAGE, "--seeds", "2", "--name", "failing")[0] == 0
    assert len(trained) == 2


def test_a_search_without_a_winner_says_why(trained, novobench, monkeypatch):
    def run(to_do, jobs, on_event):
        return {cell.id: "TypeError: no such argument" for cell in to_do}

    monkeypatch.setattr(runner, "run_local", run)
    code, _, err = novobench("compare", "novograd", "adamw", *IMAGE)
    assert code == 1
    assert "Every trial of novograd, adamw failed" in err
    assert err.rstrip().endswith("The first error: TypeError: no such argument")


def test_a_dry_run_trains_nothing(trained, workspace, novobench):
    code, out, _ = novobench("compare", "novograd", "adamw", *IMAGE, "--dry-run", "--seeds", "4", "--trials", "16")
    assert code == 0
    assert "image: 32 trials per round (0 of 32 cells finished), at most 3 rounds; then 8 compared cells, and 16" in out
    assert trained == []
    assert not (workspace / "results").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["novograd", *IMAGE], "compare needs two optimizers at least"),
        (["novograd", "novograd", *IMAGE], "'novograd' is named twice"),
        (["novograd", "adamww", *IMAGE], "optimizer 'adamww' is not registered. Did you mean 'adamw'?"),
        (["novograd", "adamw", "--task", "images"], "there is no task 'images'. Did you mean 'image'?"),
        (["novograd", "adamw", *IMAGE, "--trials", "6"], "--trials must be a power of two, e.g. 4 or 8, not 6"),
        (["novograd", "adamw", *IMAGE, "--target", "ppl=3"], "--target ppl: no comparison is decided by it."),
        (["novograd", "adamw", *IMAGE, "--target", "top1"], "--target top1: write METRIC=VALUE with a number"),
        (["novograd", "adamw", *IMAGE, "--margin", "top1=0"], "--margin top1=0 must be above 0"),
        (["novograd", "adamw", *IMAGE, "--set", "optimizer.name=sgd"], "--set cannot set 'optimizer.name'"),
        (["novograd", "adamw", *IMAGE, "--set", "seed=1"], "--set cannot set 'seed'"),
        (["novograd", "adamw", *IMAGE, "--set", "optimizer.lr=1"], "the search of novograd finds this rate"),
        (["novograd", "adamw", *IMAGE, "--set", "model.width=1"], "there is no key 'model.width'"),
        (["novograd", "adamw", *IMAGE, "--name", "../x"], "--name '../x' becomes a folder"),
        (["novograd", "adamw", *IMAGE, "--rates", "none.yaml"], "No such config: none.yaml"),
        (["novograd", "adamw", "--task", "all", "--set", "data.name=x"], "belongs to one task"),
    ],
)
def test_invalid_requests(words, message, trained, workspace, novobench):
    code, _, err = novobench("compare", *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert trained == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sgd: {lr: 1}", "'sgd' is no optimizer of this comparison"),
        ("adamw: 1", "'adamw' must be a mapping, not 1"),
        ("adamw: {lr: fast}", "'lr' must be a number of 0 or more"),
        ("adamw: {search: 1}", "'search' must be a mapping"),
        ("adamw: {search: {lr: [1, 0.1]}}", "'search.lr' must be [low, high]"),
        ("adamw: {set: {options.betas: 3}}", "options.betas"),
    ],
)
def test_invalid_files_of_rates(content, message, workspace, novobench, tmp_path):
    path = tmp_path / "rates.yaml"
    path.write_text(content)
    code, _, err = novobench("compare", "novograd", "adamw", *IMAGE, "--rates", str(path))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("scale", ["laptop", "gpu", "full"])
@pytest.mark.parametrize("task", ["image", "language", "speech", "translation"])
def test_every_task_has_a_recipe(task, scale):
    """Two optimizers differ in nothing but the optimizer, and are searched in ranges of equal width."""
    entrants = contest.contestants(["adamw", "novograd"], None)
    experiment = contest.contest("name", task, scale, entrants, 8, {})
    configs = [
        row_config(experiment, row, scale, 100, {}, contest.lowest_rates(experiment, row, scale))
        for row in experiment.rows
    ]
    first, second = ({key: value for key, value in vars(config).items() if key != "optimizer"} for config in configs)
    assert first == second
    assert configs[0].optimizer.clip_norm == configs[1].optimizer.clip_norm
    assert configs[0].optimizer.decay_factors == configs[1].optimizer.decay_factors
    assert "." not in experiment.columns[0].split
    widths = {round(high / low, 3) for each in entrants for low, high in each.ranges.values()}
    assert widths == {32.0}
    assert experiment.search.reason == ""


def test_unequal_ranges_are_reported(trained, workspace, novobench, monkeypatch):
    """Rprop takes no weight decay."""
    monkeypatch.setitem(SCORE, "torch.optim:Rprop", 70.0)
    monkeypatch.setitem(BEST, "torch.optim:Rprop", 0.01)
    command = ("compare", "torch.optim:Rprop", "adamw", *IMAGE, "--seeds", "2", "--name", "unequal")
    assert novobench(*command)[0] == 0
    text = (workspace / "results/laptop/compare/unequal/compare.md").read_text()
    assert "the searches are unequal: the optimizers differ in the number of ranges" in text


def test_an_optimizer_without_a_rate(trained, workspace, novobench, monkeypatch):
    monkeypatch.chdir(workspace)
    (workspace / "free.py").write_text(
        "import torch\n\n\n"
        "class Free(torch.optim.Optimizer):\n"
        "    novobench_schedule = 'own'\n\n"
        "    def __init__(self, params):\n"
        "        super().__init__(params, {})\n\n"
        "    def step(self, closure=None):\n"
        "        return None\n"
    )
    monkeypatch.setitem(SCORE, "./free.py:Free", 70.0)
    monkeypatch.setitem(BEST, "./free.py:Free", 1.0)
    command = ("compare", "./free.py:Free", "adamw", *IMAGE, "--seeds", "2", "--name", "free")
    assert novobench(*command)[0] == 0
    ours = [cell.config for cell in trained if cell.config.optimizer.name == "./free.py:Free"]
    assert [config.purpose for config in ours] == ["table", "table"]
    text = (workspace / "results/laptop/compare/free/compare.md").read_text()
    assert "| Free | not run |" in text


@pytest.mark.slow
def test_a_class_of_the_current_folder(workspace, monkeypatch, novobench):
    """Real trainings, killed nowhere: an optimizer without weight decay and with a schedule of its own."""
    monkeypatch.chdir(workspace)
    (workspace / "mine.py").write_text(
        "import torch\n\n\n"
        "class Mine(torch.optim.SGD):\n"
        "    novobench_schedule = 'own'\n\n"
        "    def __init__(self, params, lr=0.05):\n"
        "        super().__init__(params, lr=lr, momentum=0.9)\n"
    )
    small = ("budget=8steps", "model.widths=[4, 8]", "model.depths=[1, 1]", "model.stem_width=4")
    data = ("data.test_copies=1", "data.test_size=597")
    command = ("compare", "./mine.py:Mine", "adamw", *IMAGE, "--trials", "2", "--seeds", "2", "--set", *small, *data)
    code, out, err = novobench(*command)
    assert (code, err) == (0, "")
    assert "Mine and adamw are undecided" in " ".join(out.split())
    shutil.rmtree(workspace / "results")
    code, again, _ = novobench(*command)
    assert code == 0
    assert " 0 to train" in again


def test_metric_values():
    assert compare.metric_values("--target", ["ppl=80", "top1=0.5"]) == {"ppl": 80.0, "top1": 0.5}


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (-1.75e-9, 1.75, "0.00 to +1.75"),
        (-39.61, -30.38, "−39.61 to −30.38"),
        (-0.00123, 0.00234, "−0.001 to +0.002"),
        (-math.inf, 2.0, "−∞ to +2.00"),
    ],
)
def test_intervals_have_the_digits_that_show_their_width(low, high, text):
    assert span(low, high) == text
