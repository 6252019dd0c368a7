"""A language cell (one training run) depends only on its config, also if killed, with workers, or on two processes."""

import pytest
import torch

from novobench.training import checkpoints
from tests.cells import KILL_POINTS, result, small_cell, train_apart


def outcome(folder) -> dict:
    """Everything that must have the same bits, including the memory of each micro-batch."""
    state = checkpoints.load_newest(folder.checkpoints)
    memory = {slot: tensor.numpy().tobytes() for slot, tensor in state["streams"].items()}
    return {**result(folder), "memory": memory}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    folder = small_cell(tmp_path_factory.mktemp("uninterrupted"), "language")
    assert train_apart(folder) == 0, folder.failure_reason()
    return outcome(folder)


def test_the_reference_is_a_training(uninterrupted):
    record, metrics = uninterrupted["record"], uninterrupted["metrics"]
    assert record["updates"] == 8
    assert record["epochs"] == pytest.approx(8 / 7)  # memory starts again inside the run
    assert record["metrics"]["test"]["ppl"]["n"] == 14195
    assert record["baselines"]["test"]["unigram"]["n"] == 14195
    assert record["search_split"] == "valid"
    curve = [(line["split"], line["update"]) for line in metrics if line["split"] in ("valid", "probe")]
    assert curve == [("probe", 4), ("valid", 4), ("probe", 8), ("valid", 8)]
    losses = [line["loss"] for line in metrics if line["split"] == "train"]
    assert losses[-1] < losses[0]
    assert set(uninterrupted["memory"]) == {0, 1}
    assert set(uninterrupted["predictions"]) == {"predictions-valid.jsonl.gz", "predictions-test.jsonl.gz"} | {
        f"predictions-{name}.jsonl.gz" for name in ("probe", "test-no-memory", "test-training-lengths")
    }


KILLS = [
    moment if moment == "between two checkpoints" else pytest.param(moment, marks=pytest.mark.slow)
    for moment in KILL_POINTS
]


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_training_resumes(moment, uninterrupted, tmp_path):
    folder = small_cell(tmp_path, "language")
    assert train_apart(folder, kill_at=moment) == -9
    assert not folder.finished
    assert train_apart(folder) == 0
    assert outcome(folder) == uninterrupted


def test_a_float64_training_is_resumed_in_float64(tmp_path):
    whole, killed = (small_cell(tmp_path / name, "language", runtime__precision="64-true") for name in ("a", "b"))
    assert train_apart(whole) == 0
    assert train_apart(killed, kill_at="between two checkpoints") == -9
    assert train_apart(killed) == 0
    assert outcome(killed) == outcome(whole)


@pytest.mark.slow
def test_loader_workers(uninterrupted, tmp_path):
    folder = small_cell(tmp_path, "language", runtime__workers=2)
    assert train_apart(folder) == 0
    assert outcome(folder) == uninterrupted


@pytest.mark.slow
def test_two_processes_train_the_same_as_one_and_resume(tmp_path):
    """The weights and memory of one process, up to the order of sums; a kill does not change a bit."""
    shared = {"runtime__precision": "64-true", "batch": {"size": 4096, "micro": 1024}}
    one = small_cell(tmp_path / "one", "language", **shared)
    two = small_cell(tmp_path / "two", "language", runtime__devices=2, **shared)
    for folder in (one, two):
        assert train_apart(folder) == 0, folder.failure_reason()
    ours, theirs = (checkpoints.load_newest(folder.checkpoints) for folder in (one, two))
    for name, tensor in ours["model"].items():
        torch.testing.assert_close(theirs["model"][name], tensor, rtol=1e-7, atol=1e-10)
    assert ours["streams"].keys() == theirs["streams"].keys() == {0, 1, 2, 3}
    for slot, memory in ours["streams"].items():
        torch.testing.assert_close(theirs["streams"][slot], memory, rtol=1e-6, atol=1e-9)
    for split, metrics in one.read_record().metrics.items():
        ppl = two.read_record().metrics[split]["ppl"]
        assert ppl.n == metrics["ppl"].n
        assert ppl.value == pytest.approx(metrics["ppl"].value, rel=1e-7)
    before = two.read_record().weights_sha256
    two.record.unlink()
    for path in sorted(two.checkpoints.glob("*.ckpt"))[1:]:
        path.unlink()
    assert train_apart(two) == 0
    assert two.read_record().weights_sha256 == before
    state = checkpoints.load_newest(two.checkpoints)
    assert all(torch.equal(state["streams"][slot], theirs["streams"][slot]) for slot in range(4))
