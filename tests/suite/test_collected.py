"""Which collected results count as trained, and which results a command replaces."""

import csv
import shutil

import pytest

from novobench import hardware
from novobench.suite import collected as collected_module
from novobench.suite import runner
from novobench.suite.collected import collected_cells
from novobench.suite.experiment import load_experiment
from novobench.suite.plan import plan
from novobench.suite.results import Results
from tests.suite.finished import TOP1, collected, finished, finished_cell

HERE, ELSEWHERE = "EPYC (family 25, model 1)", "EPYC (family 26, model 2)"
ROWS = ("sgd", "novograd")


@pytest.fixture(autouse=True)
def _this_machine(monkeypatch):
    monkeypatch.setattr(collected_module, "this_processor", lambda: HERE)


@pytest.fixture
def trained(monkeypatch):
    """The seeds and optimizers that commands train, which takes no time here: top-1 is 70."""
    cells = []

    def run_local(to_do, jobs, on_event):
        for cell in to_do:
            cells.append((cell.config.seed, cell.config.optimizer.name))
            finished_cell(cell.config, {"test": {"top1": 70.0, "loss": 1.0}}, hardware=f"{HERE}, 2 cores")
        return {}

    monkeypatch.setattr(runner, "run_local", run_local)
    return cells


def collect(workspace, rows, seeds, processor, **fields):
    """Collect cells of another run folder, as a checkout of committed results has them: top-1 is 50."""
    for seed in seeds:
        folders = [finished("small", row, TOP1, seed=seed, hardware=f"{processor}, 8 cores", **fields) for row in rows]
        assert collected(*folders) == []
    shutil.rmtree(workspace / "runs")


def counted(seeds, rows=()):
    """Seeds and optimizers of the cells that count."""
    planned = plan([load_experiment("small")], "laptop", seeds, only=rows, seeds_are_named=True)
    ids = collected_cells(planned, Results.load("laptop"))
    return {(cell.config.seed, cell.config.optimizer.name) for cell in planned.cells if cell.id in ids}


def top1(results):
    """Seed and optimizer -> top-1 in the results."""
    with (results / "records.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if (line["split"], line["metric"]) == ("test", "top1")]
    return {(int(line["seed"]), line["optimizer"]): float(line["value"]) for line in lines}


def test_complete_seeds_of_another_machine_count(workspace, results):
    collect(workspace, ROWS, [100, 101], ELSEWHERE)
    assert counted([100, 101, 102]) == {(seed, row) for seed in (100, 101) for row in ROWS}


def test_of_an_incomplete_seed_only_this_machines_cells_count(workspace, results):
    collect(workspace, ["sgd"], [100], ELSEWHERE)
    collect(workspace, ["sgd"], [101], HERE)
    assert counted([100, 101]) == {(101, "sgd")}
    assert counted([100, 101], rows=["sgd"]) == {(100, "sgd"), (101, "sgd")}  # nothing else is compared


def test_a_seed_of_two_machines_does_not_count(workspace, results):
    collect(workspace, ["sgd"], [100], ELSEWHERE)
    collect(workspace, ["novograd"], [100], HERE)
    assert counted([100]) == {(100, "novograd")}
    collect(workspace, ["novograd"], [100], "another one")
    assert counted([100]) == set()


def test_experiments_that_share_a_cell_are_trained_together(workspace, results):
    """`more` shares NovoGrad's cell with `small`, but its SGD cell is to be trained here, and so all three are."""
    text = (workspace / "experiments" / "small.yaml").read_text().replace("optimizer.lr: 0.05", "optimizer.lr: 0.06")
    (workspace / "experiments" / "more.yaml").write_text(text)
    collect(workspace, ROWS, [100, 101], ELSEWHERE)
    assert len(counted([100, 101])) == 4
    both = plan([load_experiment("small"), load_experiment("more")], "laptop", [100, 101], seeds_are_named=True)
    assert collected_cells(both, Results.load("laptop")) == set()
    folder = finished("more", "sgd", TOP1, seed=100, hardware=f"{ELSEWHERE}, 2 cores")
    assert collected(folder) == []
    counted_now = collected_cells(both, Results.load("laptop"))
    assert {cell.config.seed for cell in both.cells if cell.id in counted_now} == {100}
    assert len(counted_now) == 3


def test_results_of_other_recipes_incomplete_ones_and_counts_do_not_count(workspace, results):
    collect(workspace, ROWS, [100], HERE)
    small = [load_experiment("small")]
    collect(workspace, ["sgd"], [100], HERE, overrides={"optimizer.lr": 0.5})  # of earlier rates
    other = plan(small, "laptop", [100], {"optimizer.lr": 0.5}, seeds_are_named=True)
    assert collected_cells(other, Results.load("laptop")) == set()
    assert collected_cells(plan(small, "laptop", [100]), Results.load("laptop")) == set()
    path = results / "curves.csv"
    path.write_text(path.read_text().replace("=4", "=5", 1))
    assert len(counted([100])) == 1


def test_a_range_adds_only_new_seeds(workspace, results, novobench, trained):
    collect(workspace, ROWS, [100, 101], ELSEWHERE)
    code, out, err = novobench("run", "small", "--seeds", "100-102")
    assert (code, err) == (0, "")
    assert "6 cells: 4 in results/laptop, 0 already finished, 2 to train." in out
    assert sorted(trained) == [(102, "novograd"), (102, "sgd")]
    assert top1(results) == {(seed, row): 70.0 if seed == 102 else 50.0 for seed in (100, 101, 102) for row in ROWS}
    code, out, _ = novobench("run", "small", "--seeds", "100-101")  # nothing to train, and the table is written
    assert "4 cells: 4 in results/laptop, 0 already finished, 0 to train." in out
    assert "small.md" in out
    assert len(trained) == 2


def test_a_seed_that_is_completed_here_is_trained_here_as_a_whole(workspace, results, novobench, trained):
    collect(workspace, ["sgd"], [100, 101], ELSEWHERE)
    collect(workspace, ["novograd"], [100], ELSEWHERE)
    code, out, _ = novobench("run", "small", "--seeds", "100-101")
    assert code == 0
    assert "1 cell in results/laptop cannot be paired with cells of this machine" in " ".join(out.split())
    assert sorted(trained) == [(101, "novograd"), (101, "sgd")]
    assert top1(results) == {(100, "sgd"): 50, (100, "novograd"): 50, (101, "sgd"): 70, (101, "novograd"): 70}


def test_a_count_trains_here_and_replaces_its_seeds_only(workspace, results, novobench, trained):
    collect(workspace, ROWS, [100, 101], ELSEWHERE)
    code, _, err = novobench("run", "small")
    assert (code, err) == (0, "")
    assert sorted(trained) == [(100, "novograd"), (100, "sgd")]
    assert top1(results) == {(seed, row): 70.0 if seed == 100 else 50.0 for seed in (100, 101) for row in ROWS}
    assert novobench("run", "small", "--seeds", "1")[0] == 0
    assert len(trained) == 2  # what this machine has trained counts


def test_results_that_count_are_not_replaced_by_older_run_folders(workspace, results, novobench, trained):
    """A run folder of one row would leave the seed half this machine's."""
    collect(workspace, ROWS, [100], ELSEWHERE)
    finished("small", "sgd", {"test": {"top1": 10.0, "loss": 2.0}}, seed=100)
    assert novobench("run", "small", "--seeds", "100-100")[0] == 0
    assert set(top1(results).values()) == {50.0}
    assert trained == []


def test_plan_says_what_is_collected(workspace, results, novobench):
    collect(workspace, ROWS, [100], ELSEWHERE)
    code, out, _ = novobench("plan", "small", "--seeds", "100-101")
    assert code == 0
    assert out.count("collected") == 2
    assert "4 cells, 2 in results/laptop, 2 to do" in " ".join(out.split())
    assert "2 cells, 2 to do" in " ".join(novobench("plan", "small", "--seeds", "1")[1].split())


def test_types_of_processors():
    assert hardware.processor_type("AMD EPYC (family 25, model 1), 2 cores") == "AMD EPYC (family 25, model 1)"
    assert hardware.processor_type("2 × NVIDIA H100 80GB HBM3") == "NVIDIA H100 80GB HBM3"
