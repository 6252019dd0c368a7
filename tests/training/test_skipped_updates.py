"""What a forward pass leaves behind, statistics and streams, is not there after an update that was skipped."""

import math

import pytest
import torch
from torch import nn

from novobench.optim import registry
from novobench.tasks.image.task import ImageTask
from novobench.tasks.language.task import LanguageTask
from novobench.tasks.speech.task import SpeechTask
from novobench.training import cell, checkpoints
from novobench.training.guard import GradScaler, Guard
from tests.cells import small_cell, small_config

TASKS = {"image": ImageTask, "language": LanguageTask, "speech": SpeechTask}


def trained(folder, task, updates, forward, monkeypatch):
    """The last checkpoint of a cell whose loss is NaN in one micro-batch of each of those updates, from 0; `forward`:
    after a forward pass on the data of all its micro-batches, or without any."""
    step = TASKS[task].training_step

    def training_step(self, batch, batch_idx):
        update, position = divmod(batch_idx, self.config.accumulation)
        if update not in updates:
            return step(self, batch, batch_idx)
        nothing = sum(parameter.sum() for parameter in self.parameters()) * (math.nan if position == 0 else 0.0)
        return step(self, batch, batch_idx) + nothing if forward else nothing

    with monkeypatch.context() as patch:
        patch.setattr(TASKS[task], "training_step", training_step)
        cell.run(folder.path)
    assert folder.read_record().skipped_updates == len(updates)
    return checkpoints.load_newest(folder.checkpoints)


@pytest.mark.parametrize(
    ("task", "updates"),
    [
        ("image", {3, 7}),
        ("speech", {0, 3, 4, 7}),
        ("language", {2, 4, 5}),  # memory has its full length
    ],
)
def test_a_skipped_update_is_as_if_its_data_had_not_been(task, updates, tmp_path, monkeypatch):
    """In float64, by every bit: weights, statistics, optimizer state, and memory of streams."""
    shared = {"runtime__precision": "64-true", "optimizer__name": "adamw", "optimizer__lr": 0.001}
    folders = [small_cell(tmp_path / name, task, **shared) for name in ("with", "without")]
    with_data = trained(folders[0], task, updates, True, monkeypatch)
    without = trained(folders[1], task, updates, False, monkeypatch)
    assert with_data["model"].keys() == without["model"].keys()
    for name, tensor in with_data["model"].items():
        assert torch.isfinite(tensor).all(), name
        assert torch.equal(tensor, without["model"][name]), name
    assert with_data["streams"].keys() == without["streams"].keys() == ({0, 1} if task == "language" else set())
    assert all(torch.equal(memory, without["streams"][k]) for k, memory in with_data["streams"].items())
    for number, own in with_data["optimizer"]["state"].items():
        assert all(torch.equal(tensor, without["optimizer"]["state"][number][key]) for key, tensor in own.items())


@pytest.mark.parametrize(
    ("updates", "steps", "memory_length"),
    [
        ({0}, 1, 12),
        ({1}, 2, 12),
        ({0}, 2, 8),
        pytest.param({0, 1, 2}, 4, 28, marks=pytest.mark.slow),
        pytest.param({1, 3}, 7, 28, marks=pytest.mark.slow),
    ],
)
def test_memory_that_a_skipped_update_began_or_grew_is_as_if_its_data_had_not_been(
    updates, steps, memory_length, tmp_path, monkeypatch
):
    """To rounding, in float64: attention to positions that are not there is hidden, and without data they are not there
    at all. Without dropout, whose draws depend on shapes. Segments are of 8 tokens."""
    shared = {"runtime__precision": "64-true", "model__dropout": 0.0, "model__memory_length": memory_length}
    with_data, without = (
        trained(
            small_cell(tmp_path / str(forward), "language", budget=f"{steps}steps", **shared),
            "language",
            updates,
            forward,
            monkeypatch,
        )
        for forward in (True, False)
    )
    for name, tensor in with_data["model"].items():
        torch.testing.assert_close(tensor, without["model"][name], rtol=1e-9, atol=1e-12, msg=name)
    assert with_data["streams"].keys() == {0, 1}
    for k, memory in with_data["streams"].items():  # [L, B, M, D]
        assert memory.shape[2] == min(8 * steps, memory_length)
        there = memory[:, :, ~memory.isnan().all(dim=(0, 1, 3))]
        if k in without["streams"]:
            torch.testing.assert_close(there, without["streams"][k], rtol=1e-9, atol=1e-12)
        else:
            assert there.numel() == 0


def test_statistics_that_overflow_skip_the_update_though_gradients_are_finite(tmp_path, monkeypatch):
    """A variance of inf divides its layer's outputs to 0: loss and gradients are finite, and the statistics lost."""
    step, found = ImageTask.training_step, {}

    def training_step(self, batch, batch_idx):
        if batch_idx == 6:  # update 4 of two micro-batches each
            batch = batch._replace(images=batch.images * 1e25)
        loss = step(self, batch, batch_idx)
        if batch_idx == 6:
            assert torch.isfinite(loss)
            gradients = torch.autograd.grad(loss, list(self.parameters()), retain_graph=True, allow_unused=True)
            found["finite"] = all(torch.isfinite(gradient).all() for gradient in gradients)
            found["lost"] = any(not torch.isfinite(buffer).all() for buffer in self.buffers())
        return loss

    folders = [small_cell(tmp_path / name, optimizer__name="adamw") for name in ("with", "without")]
    with monkeypatch.context() as patch:
        patch.setattr(ImageTask, "training_step", training_step)
        cell.run(folders[0].path)
    assert found == {"finite": True, "lost": True}
    assert folders[0].read_record().skipped_updates == 1
    without = trained(folders[1], "image", {3}, False, monkeypatch)["model"]
    with_data = checkpoints.load_newest(folders[0].checkpoints)["model"]
    assert all(torch.equal(tensor, without[name]) for name, tensor in with_data.items())


class Counting(nn.Module):
    """A layer with buffers of several kinds, all changed by a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: dict = {}
        self.sum_over_processes = lambda counts: counts
        self.weight = nn.Parameter(torch.ones(3))
        self.norm = nn.BatchNorm1d(3, momentum=None)  # a plain average: divides by how many batches it saw
        for name, buffer in {
            "calls": torch.tensor(0),
            "seen": torch.zeros(2, 3, dtype=torch.int32),
            "mean": torch.zeros(3, dtype=torch.float64),
            "ever": torch.zeros(3, dtype=torch.bool),
            "mask": torch.full((2,), -math.inf),
            "empty": torch.zeros(0),
        }.items():
            self.register_buffer(name, buffer, persistent=name != "seen")

    def forward(self, x):
        self.calls += 1
        self.seen += 1
        self.mean += x.mean(0)
        self.ever |= True
        return (self.norm(x) * self.weight).square().sum()


@pytest.mark.parametrize("scale", [1024.0, 1e38])
def test_buffers_of_every_kind_are_put_back_also_when_half_precision_overflows(scale):
    """With a scale of 1e38 the loss is finite and its gradients are not."""
    torch.manual_seed(0)
    module = Counting()
    optimizer = registry.build("adamw", module.parameters(), lr=0.1, weight_decay=0.0)
    guard, scaler = Guard(small_config(optimizer__name="adamw"), 2), GradScaler("cpu", init_scale=scale)
    guard.start(module, optimizer)
    states = []
    for _ in range(2):
        states.append([tensor.clone() for tensor in [*module.buffers(), *module.parameters()]])
        optimizer.zero_grad()
        guard.begin_update()
        for _ in range(2):
            loss = module(100 * torch.randn(8, 3))
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        guard.before_step(optimizer)
        scaler.step(optimizer)
        scaler.update()
    before, after = states
    assert torch.isfinite(loss)
    same = [torch.equal(ours, theirs) for ours, theirs in zip(before, after, strict=True)]
    assert all(same) if scale == 1e38 else sum(same) == 2  # the mask and the empty one


@pytest.mark.parametrize("skipped", [True, False])
def test_a_stream_keeps_the_shape_that_the_update_gave_it(skipped):
    """Its last entries are put back, behind NaN where it had none."""
    torch.manual_seed(0)
    module = Counting()
    optimizer = registry.build("adamw", module.parameters(), lr=0.1, weight_decay=0.0)
    guard = Guard(small_config(optimizer__name="adamw"), 1)
    guard.start(module, optimizer)
    before = {"same": torch.randn(2, 5), "grown": torch.randn(2, 3), "anew": torch.randn(2, 7)}
    after = {k: torch.randn(2, 5) for k in ("same", "grown", "anew", "begun")}
    module.streams = dict(before)
    guard.begin_update()
    module.streams.update(after)
    module.weight.grad = torch.full((3,), math.inf if skipped else 1.0)
    guard.before_step(optimizer)
    absent = torch.full((2, 5), math.nan)
    restored = {
        "same": before["same"],
        "grown": torch.cat([absent[:, :2], before["grown"]], dim=1),
        "anew": before["anew"][:, 2:],
        "begun": absent,
    }
    torch.testing.assert_close(module.streams, restored if skipped else after, rtol=0, atol=0, equal_nan=True)
