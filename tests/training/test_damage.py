"""Files of an unfinished cell that are damaged, and trainings that have no result: told, and never passed over."""

import json
import logging
import math
import random

import numpy as np
import pytest
import torch

from novobench.errors import DataError, TrainingError
from novobench.tasks.image.task import ImageTask
from novobench.tasks.metric import Metric
from novobench.training import cell, checkpoints, failures
from novobench.training.guard import Guard
from novobench.training.metrics_log import MetricsLog, read
from tests.cells import result, small_cell

# ------------------------------------------------------------------------------------ checkpoints


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    for update in (1, 2):
        checkpoints.save(tmp_path, update, {"update": update, "weights": torch.randn(50), "counters": {"s": 1.5}})
    newest = tmp_path / "update-000000002.ckpt"
    whole = bytearray(newest.read_bytes())
    drawn = random.Random(0)
    for place in [0, len(whole) - 1, len(whole) - 33, *drawn.sample(range(len(whole)), 60)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << drawn.randrange(8)
        newest.write_bytes(damaged)
        assert checkpoints.load_newest(tmp_path)["update"] == 1, place
    newest.write_bytes(whole)
    assert checkpoints.load_newest(tmp_path)["update"] == 2
    assert torch.load(newest)["update"] == 2  # it is an ordinary file of torch


def interrupted(path, at=8):
    """A finished cell as if it had been killed after a checkpoint, its files and the result it would have had."""
    folder = small_cell(path)
    cell.run(folder.path)
    expected = result(folder)
    folder.record.unlink()
    return folder, expected


def test_a_flipped_bit_changes_no_result(tmp_path, caplog):
    folder, expected = interrupted(tmp_path)
    newest = max(folder.checkpoints.iterdir())
    content = bytearray(newest.read_bytes())
    content[content.index(torch.load(newest)["model"]["network.classifier.weight"].numpy().tobytes())] ^= 64
    newest.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        cell.run(folder.path)
    assert "update-000000008.ckpt cannot be used" in caplog.text
    assert result(folder) == expected


def test_without_a_usable_checkpoint_nothing_begins_anew(tmp_path):
    folder, _ = interrupted(tmp_path)
    for path in folder.checkpoints.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    before = folder.metrics.read_bytes()
    with pytest.raises(TrainingError, match=r"No checkpoint in .* can be used \(update-000000008.ckpt: .*; update-"):
        cell.run(folder.path)
    assert "to train again from the start" in folder.failure_reason()
    assert "\n" not in folder.failure_reason()
    assert folder.metrics.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cell": "image-sgd-s0-0000000000"}, "it belongs to the cell image-sgd-s0-0000000000"),
        ({"log": None}, "it has no log: another version wrote it"),
    ],
)
def test_another_cells_or_versions_checkpoint_is_passed_over(change, reason, tmp_path, caplog):
    folder, expected = interrupted(tmp_path)
    newest = max(folder.checkpoints.iterdir())
    state = {**checkpoints.load(newest), **change}
    checkpoints.save(
        folder.checkpoints, 8, {key: value for key, value in state.items() if key == "best" or value is not None}
    )
    with caplog.at_level(logging.WARNING):
        cell.run(folder.path)
    assert reason in caplog.text
    assert result(folder) == expected


def test_a_checkpoint_that_no_longer_fits_is_told(tmp_path):
    folder, _ = interrupted(tmp_path)
    state = checkpoints.load(max(folder.checkpoints.iterdir()))
    state["model"]["network.another.weight"] = torch.ones(1)
    checkpoints.save(folder.checkpoints, 8, state)
    with pytest.raises(TrainingError, match="checkpoint at update 8 does not fit this code: .*network.another.weight"):
        cell.run(folder.path)
    assert "\n" not in folder.failure_reason()


class _Counting(torch.optim.SGD):
    """SGD that counts its steps and then does something to its first parameter."""

    def __init__(self, params, lr, weight_decay=0.0):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.steps = 0

    def step(self, closure=None):
        loss = super().step(closure)
        self.steps += 1
        self.after_step(self.param_groups[0]["params"][0])
        return loss


class Odd(_Counting):
    """An optimizer that keeps something in its state that is neither tensor nor number."""

    kept = np.ones(2)
    from_step = 1

    def after_step(self, parameter):
        if self.steps >= self.from_step:
            self.state[parameter]["history"] = [1.0, self.kept]


@pytest.mark.parametrize(
    ("kept", "named"),
    [(np.ones(2), "numpy.ndarray"), (np.float64(1), "numpy.float64"), (np.random.default_rng(0), "Generator")],
)
def test_an_optimizer_whose_state_cannot_be_read_back_fails_at_the_first_save(kept, named, tmp_path, monkeypatch):
    monkeypatch.setattr(Odd, "kept", kept)
    folder = small_cell(tmp_path, optimizer__name=f"{__name__}:Odd", optimizer__options={})
    told = rf"Cannot save a checkpoint at update 3: optimizer.state.0.history\[1\] is a numpy.*{named.split('.')[-1]}"
    with pytest.raises(TrainingError, match=told):
        cell.run(folder.path)
    assert not folder.checkpoints.exists() or not list(folder.checkpoints.iterdir())


def test_state_that_becomes_unreadable_later_keeps_the_earlier_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(Odd, "from_step", 5)
    folder = small_cell(tmp_path, optimizer__name=f"{__name__}:Odd", optimizer__options={})
    with pytest.raises(TrainingError, match="at update 6"):
        cell.run(folder.path)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["update-000000003.ckpt"]


# ------------------------------------------------------------------------------------ the log of metrics


def cut_short(lines, at):
    lines[at] = lines[at][:15]


def another_digit(lines, at):
    lines[at] = lines[at].replace('"loss": 2.', '"loss": 1.')


def gone(lines, at):
    del lines[at:]


@pytest.mark.parametrize("harm", [cut_short, another_digit, gone])
def test_a_damaged_log_is_never_a_shorter_curve(harm, tmp_path, caplog):
    """Updates 7 and 8 are behind the older of the two checkpoints: that one counts, and they are trained again."""
    folder, expected = interrupted(tmp_path)
    lines = folder.metrics.read_text().splitlines()
    for update, usable in ((7, True), (2, False)):
        harmed = list(lines)
        harm(harmed, next(n for n, line in enumerate(lines) if f'"update": {update},' in line))
        assert harmed != lines
        folder.metrics.write_text("".join(line + "\n" for line in harmed))
        if usable:
            with caplog.at_level(logging.WARNING):
                cell.run(folder.path)
            assert "metrics.jsonl" in caplog.text
            assert result(folder) == expected
            folder.record.unlink()
        else:
            with pytest.raises(TrainingError, match="No checkpoint in .*metrics.jsonl"):
                cell.run(folder.path)


def test_the_log_is_cut_back_to_a_state(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    states = []
    for update in range(1, 5):
        log.append(update, "train", {"loss": 1.0 / update})
        states.append(log.state())
    state = states[1]
    log.path.write_text(log.path.read_text() + '{"update": 5, "sp')
    assert [line["update"] for line in read(log.path)] == [1, 2, 3, 4]
    again = MetricsLog(log.path)
    assert again.damage(state) == ""
    again.cut_back(state)
    assert [line["update"] for line in read(again.path)] == [1, 2]
    assert again.state() == state
    again.cut_back(None)
    assert read(again.path) == []


def test_a_damaged_line_of_a_whole_log_is_told(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"update": 1}\n{"upd\n{"update": 3}\n')
    with pytest.raises(DataError, match="metrics.jsonl line 2 is damaged"):
        read(path)


def test_what_is_not_finite_is_null(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(1, "search", {"loss": math.nan, "ppl": math.inf, "top1": 1.0})
    assert read(log.path) == [{"update": 1, "split": "search", "loss": None, "ppl": None, "top1": 1.0}]
    json.loads(log.path.read_text(), parse_constant=pytest.fail)


# ------------------------------------------------------------------------------------ no result


class Exploding(_Counting):
    """All is well until the last step, whose gradient is finite."""

    def after_step(self, parameter):
        if self.steps == 8:
            parameter.data[0] = -math.inf


@pytest.mark.parametrize("purpose", ["table", "search"])
def test_a_training_that_ends_in_weights_that_are_not_finite_has_no_record(purpose, tmp_path):
    changes = {"optimizer__name": f"{__name__}:Exploding", "optimizer__options": {}, "purpose": purpose}
    folder = small_cell(tmp_path, **changes)
    for _ in range(2):  # the second time from its last checkpoint
        with pytest.raises(
            TrainingError, match=r"after update 8 of 8 not all numbers are finite \(network\.\S+; optim"
        ):
            cell.run(folder.path)
        assert not folder.finished
        assert "Lower optimizer.lr" in folder.failure_reason()


class Spoiling(_Counting):
    """Sets one number of a tensor at one of its steps, whose gradient is finite."""

    value, at = math.nan, 8

    def after_step(self, parameter):
        if self.steps == self.at:
            self.tensor.view(-1)[-1] = self.value


SPOILT = {
    "NaN in the last update": ("network.classifier.bias", math.nan, 8),
    "inf in the last update": ("network.classifier.weight", math.inf, 8),
    "NaN in a statistic": ("running_mean", math.nan, 8),
    "inf in a variance": ("running_var", math.inf, 8),
    "NaN before an evaluation during the training": ("network.classifier.weight", math.nan, 4),
    "inf in the midst": ("network.classifier.bias", -math.inf, 5),
}


@pytest.mark.parametrize("what", SPOILT)
def test_numbers_that_are_not_finite_are_named_by_their_tensor(what, tmp_path, monkeypatch):
    wanted, value, at = SPOILT[what]
    start = Guard.start

    def found(self, module, optimizer):
        start(self, module, optimizer)
        name, optimizer.tensor = next((n, t.detach()) for n, t in module.state_dict().items() if n.endswith(wanted))
        names.append(name)

    names = []
    monkeypatch.setattr(Guard, "start", found)
    monkeypatch.setattr(Spoiling, "value", value)
    monkeypatch.setattr(Spoiling, "at", at)
    changes = {"optimizer__name": f"{__name__}:Spoiling", "optimizer__options": {}, "runtime__max_nonfinite": 3}
    folder = small_cell(tmp_path, **changes)
    with pytest.raises(TrainingError, match="diverged") as caught:
        cell.run(folder.path)
    assert names[0] in str(caught.value)
    assert not folder.finished
    assert folder.failure_reason() == str(caught.value)


def test_weights_too_large_to_compute_with_are_no_result(tmp_path):
    """They are finite, for every later update is skipped, but the loss is not."""
    with pytest.raises(
        TrainingError, match=r"not all numbers are finite \(loss of search and 1 more; optimizer sgd, lr"
    ):
        cell.run(small_cell(tmp_path, optimizer__name="sgd", optimizer__lr=1e38).path)


def test_a_metric_that_is_not_finite_is_no_result(tmp_path, monkeypatch):
    original = ImageTask.evaluation_end
    monkeypatch.setattr(
        ImageTask, "evaluation_end", lambda self: original(self) | {"loss": Metric(math.nan, 597, "nats")}
    )
    folder = small_cell(tmp_path)
    with pytest.raises(TrainingError, match=r"not all numbers are finite \(loss of search and 1 more;"):
        cell.run(folder.path)
    assert not folder.finished


def test_an_error_in_a_loader_worker_is_one_line(tmp_path):
    """As torch wraps it, with a message of two lines."""
    wrapped = (
        "Caught DecompressionBombError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "worker.py", line 1, in f\n    g()\n    ~^^\nPIL.Image.DecompressionBombError: Size (1: 2)\nis odd'
    )
    assert failures.without_traceback(wrapped) == "Size (1: 2)\nis odd"
    assert failures.without_traceback("plain: words") == "plain: words"
