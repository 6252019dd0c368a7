"""Every registered optimizer trains a cell of every task, and resumes with the same bits, also as two processes."""

import math

import pytest

from novobench.optim import registry
from novobench.optim.entry import Range
from novobench.training import cell
from novobench.training.loop import UpdateLoop
from novobench.training.run_folder import RunFolder
from tests.cells import result, small_cell, train_apart
from tests.tasks.translation.small import small_cell as small_translation_cell

ENTRIES = {entry.name: entry for entry in registry.entries()}
every_entry = pytest.mark.parametrize("name", ENTRIES)
every_task = pytest.mark.parametrize("task", ["image", "language", "speech", "translation"])


def middle(bounds: Range) -> float:
    return math.sqrt(bounds.low * bounds.high)


def make_cell(path, task: str, name: str, **changes: object) -> RunFolder:
    """Five updates with warm-up, decay, clipping, decay groups and dropout, then an evaluation. A checkpoint after each
    second update."""
    tunable = ENTRIES[name].tunable
    settings = {
        "budget": "5steps",
        "purpose": "search",  # evaluates no test set
        "optimizer__name": name,
        "optimizer__lr": middle(tunable["lr"]),
        "optimizer__weight_decay": middle(tunable["weight_decay"]),
        "optimizer__decay_factors": {"@norm": 0.0, "@bias": 0.0},
        "optimizer__clip_norm": 2.0,
        "schedule__warmup": "2steps",
        "runtime__curve_points": 2,
        "runtime__checkpoint_every": 2,
        **changes,
    }
    if task == "translation":
        return small_translation_cell(path, **settings)
    return small_cell(path, task, **settings)


class Interrupted(Exception):
    """Raised between two checkpoints."""


@pytest.mark.slow
@every_task
@every_entry
def test_it_resumes_with_the_same_bits(name, task, tmp_path, monkeypatch):
    whole, broken = make_cell(tmp_path / "whole", task, name), make_cell(tmp_path / "broken", task, name)
    cell.run(whole.path)
    original = UpdateLoop._set_rates

    def interrupting(self, optimizer):
        if self.update == 3:
            raise Interrupted
        original(self, optimizer)

    with monkeypatch.context() as patched:
        patched.setattr(UpdateLoop, "_set_rates", interrupting)
        with pytest.raises(Interrupted):
            cell.run(broken.path)
    assert not broken.finished
    cell.run(broken.path)
    assert result(broken) == result(whole)
    losses = [line["loss"] for line in result(whole)["metrics"] if line["split"] == "train"]
    assert len(losses) == 5
    assert len(set(losses)) == 5


@pytest.mark.long
@every_task
@every_entry
def test_two_processes_resume_with_the_same_bits(name, task, tmp_path):
    folder = make_cell(tmp_path, task, name, runtime__devices=2)
    assert train_apart(folder) == 0, folder.failure_reason()
    whole = result(folder)
    # Go on from the checkpoint after update 4, as after a kill.
    folder.record.unlink()
    newest = max(folder.checkpoints.glob("*.ckpt"))
    assert newest.name == "update-000000005.ckpt"
    newest.unlink()
    assert train_apart(folder) == 0, folder.failure_reason()
    assert result(folder) == whole
