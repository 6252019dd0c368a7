"""What a cell computes depends on its config only, not on kills, loader workers or other cells."""

import pytest

from novobench.places import Workspace
from novobench.suite.executors import run_local
from novobench.suite.plan import PlannedCell
from novobench.training.run_folder import RunFolder
from tests.cells import KILL_POINTS, result, small_cell, small_config, train_apart


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    folder = small_cell(tmp_path_factory.mktemp("uninterrupted"))
    assert train_apart(folder) == 0, folder.failure.read_text()
    return result(folder)


def test_the_reference_is_a_training(uninterrupted):
    record, metrics = uninterrupted["record"], uninterrupted["metrics"]
    assert record["updates"] == 8
    assert [line["update"] for line in metrics if line["split"] == "train"] == list(range(1, 9))
    assert [line["update"] for line in metrics if line["split"] == "search"] == [4, 8]
    assert record["metrics"]["test"]["top1"]["n"] == 597
    losses = [line["loss"] for line in metrics if line["split"] == "train"]
    assert losses[-1] < losses[0]


def test_twice(uninterrupted, tmp_path):
    folder = small_cell(tmp_path)
    assert train_apart(folder) == 0
    assert result(folder) == uninterrupted


def test_another_seed_is_another_result(uninterrupted, tmp_path):
    folder = small_cell(tmp_path, seed=1)
    assert train_apart(folder) == 0
    assert result(folder)["record"]["weights_sha256"] != uninterrupted["record"]["weights_sha256"]


@pytest.mark.parametrize("moment", KILL_POINTS)
def test_killed_and_started_again(moment, uninterrupted, tmp_path):
    folder = small_cell(tmp_path)
    assert train_apart(folder, kill_at=moment) == -9
    assert not folder.finished
    assert train_apart(folder) == 0
    assert result(folder) == uninterrupted


def test_killed_at_every_moment_in_turn(uninterrupted, tmp_path):
    folder = small_cell(tmp_path)
    for moment in KILL_POINTS:
        assert train_apart(folder, kill_at=moment) == -9, moment
    assert train_apart(folder) == 0
    assert result(folder) == uninterrupted


def test_loader_workers(uninterrupted, tmp_path):
    folder = small_cell(tmp_path, runtime__workers=2)
    assert train_apart(folder) == 0
    assert result(folder) == uninterrupted


def test_one_or_two_cells_at_a_time(uninterrupted, tmp_path, monkeypatch):
    results = {}
    for jobs in (1, 2):
        monkeypatch.setattr("novobench.places.workspace", lambda root=tmp_path / str(jobs): Workspace(root))
        cells = [PlannedCell(small_config(seed=seed)) for seed in (0, 1)]
        assert run_local(cells, jobs, lambda event: None) == {}
        results[jobs] = [result(RunFolder(cell.folder.path)) for cell in cells]
    assert results[1] == results[2]
    assert results[1][0] == uninterrupted


def test_other_optimizers_resume_too(tmp_path):
    for name in ("adamw", "sgd", "novograd_adamw"):
        whole = small_cell(tmp_path / name, optimizer__name=name)
        killed = small_cell(tmp_path / f"{name}-killed", optimizer__name=name)
        assert train_apart(whole) == 0
        assert train_apart(killed, kill_at="between two checkpoints") == -9
        assert train_apart(killed) == 0
        assert result(killed) == result(whole)
