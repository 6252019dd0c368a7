"""The number of processes never changes a recipe: two of them train the weights that one trains."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from novobench.training import checkpoints
from tests.cells import small_cell, start_apart, train_apart

SCRIPT = Path(__file__).with_name("cell_with_dropout.py")
BATCH = {"size": 64, "micro": 16}


def weights(folder) -> dict[str, torch.Tensor]:
    return checkpoints.load_newest(folder.checkpoints)["model"]


def statistics(name: str) -> bool:
    return "running_" in name or "num_batches" in name


def run_script(folder, processes: int, script: Path = SCRIPT) -> None:
    words = [str(script), str(folder.path)]
    if processes > 1:
        words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *words, "--process"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def compare(one, many):
    """Same weights, in float64 but for the order of sums; evaluation within half a point."""
    ours, theirs = weights(one), weights(many)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        if not statistics(name):
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
    found = [folder.read_record().metrics["test"]["top1"] for folder in (one, many)]
    assert found[0].n == found[1].n == 597
    assert found[0].value == pytest.approx(found[1].value, abs=0.5)
    losses = [folder.read_record().metrics["test"]["loss"].value for folder in (one, many)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_two_processes_train_what_one_trains_dropout_included(tmp_path):
    shared = {"batch": BATCH, "budget": "48steps", "runtime__precision": "64-true", "runtime__checkpoint_every": 100}
    one = small_cell(tmp_path / "one", **shared)
    two = small_cell(tmp_path / "two", runtime__devices=2, **shared)
    run_script(one, 1)
    run_script(two, 2)
    compare(one, two)
    assert one.read_record().cell == two.read_record().cell  # devices are no part of the recipe
    lines = [line for line in two.metrics.read_text().splitlines() if '"train"' in line]
    assert len(lines) == 48  # the first process alone writes


@pytest.mark.slow
def test_a_cell_on_two_devices_starts_its_processes_and_resumes(tmp_path):
    whole = small_cell(tmp_path / "whole", runtime__devices=2)
    assert train_apart(whole) == 0, whole.failure_reason()
    assert weights(whole).keys()
    again = small_cell(tmp_path / "again", runtime__devices=2)
    assert train_apart(again) == 0
    assert again.read_record().weights_sha256 == whole.read_record().weights_sha256
    # Go on from the first checkpoint, as after a kill.
    again.record.unlink()
    for path in sorted(again.checkpoints.glob("*.ckpt"))[1:]:
        path.unlink()
    assert train_apart(again) == 0
    assert again.read_record().weights_sha256 == whole.read_record().weights_sha256
    assert again.read_record().metrics == whole.read_record().metrics


ELSEWHERE = {
    "data__source": "folder",
    "data__name": "nowhere",
    "data__mean": [0.0] * 3,
    "data__std": [1.0] * 3,
    "model__in_channels": 3,
}


def test_a_failure_in_one_of_the_processes_is_told(tmp_path):
    folder = small_cell(tmp_path, runtime__devices=2, **ELSEWHERE)
    assert train_apart(folder) == 1
    assert "No data folder" in folder.failure_reason()


@pytest.mark.parametrize("change", [{"runtime__workers": 2}, {"runtime__devices": 2}], ids=["workers", "devices"])
def test_nothing_of_a_killed_training_lives_on(change, tmp_path):
    """Its loader's workers would keep their memory; its other processes would write beside the training's next try."""
    folder = small_cell(tmp_path, budget="5000steps", **change)
    process = start_apart(folder)
    wait_for(lambda: folder.checkpoints.is_dir() and list(folder.checkpoints.glob("*.ckpt")))
    started = descendants(process.pid)
    assert len(started) >= 2
    process.kill()
    process.join()
    wait_for(lambda: not any(alive(pid) for pid in started))


def descendants(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True).stdout.splitlines()
    parents = dict(map(int, line.split()) for line in listed)
    found, generation = [], [pid]
    while generation := [child for child, parent in parents.items() if parent in generation]:
        found += generation
    return found


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_accumulation_gives_the_same_gradient(tmp_path):
    """Two micro-batches accumulated or one by each of two processes: k is the same, so the dropout is too."""
    accumulated = small_cell(tmp_path / "one", budget="2steps")
    assert train_apart(accumulated) == 0
    parallel = small_cell(tmp_path / "two", budget="2steps", runtime__devices=2)
    assert train_apart(parallel) == 0
    for name, tensor in weights(accumulated).items():
        if not statistics(name):
            torch.testing.assert_close(weights(parallel)[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_what_one_process_cannot_compute_all_of_them_skip(tmp_path):
    """Weights and statistics after update 3 are those after update 2, on the process that saw finite images too."""
    folder = small_cell(tmp_path, runtime__devices=2, budget="3steps", runtime__checkpoint_every=1)
    run_script(folder, 2, Path(__file__).with_name("cell_with_a_broken_process.py"))
    assert folder.read_record().skipped_updates == 1
    before, after = (checkpoints.load(path)["model"] for path in sorted(folder.checkpoints.iterdir()))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
