"""The guard: what a skipped update leaves alone, when the host learns of it, and how often it waits for the device."""

import math
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from novobench.errors import TrainingError
from novobench.optim import registry
from novobench.optim.novograd import kernels
from novobench.tasks.image.task import ImageTask
from novobench.training import cell, checkpoints
from novobench.training.guard import GradScaler, Guard
from novobench.training.loop import UpdateLoop
from tests.cells import small_cell, small_config

READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2")
"""Operations for which the host waits on a GPU; `item`, `float`, `bool` and `if` of a tensor come down to the first."""


class CountedReads(TorchDispatchMode):
    """Counts reads of tensors by update, in the place of a device on which each would be a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[int] = Counter()
        self.update: int | None = None
        """The update that reads are counted for now."""

    def watch_cells(self, patch: pytest.MonkeyPatch) -> None:
        """Count from the start of each update to its end, but not what is logged then: reading is its purpose."""
        for name in ("tolist", "numpy", "cpu"):  # these read memory of the CPU without an operation
            patch.setattr(torch.Tensor, name, self._counting(getattr(torch.Tensor, name)))
        start, end = UpdateLoop.on_train_batch_start, UpdateLoop.on_train_batch_end

        def on_train_batch_start(loop, *args):
            self.update = loop.update + 1
            start(loop, *args)

        def on_train_batch_end(loop, *args):
            if (loop.update + 1) % loop.log_every == 0:
                self.update = None
            end(loop, *args)
            self.update = None

        patch.setattr(UpdateLoop, "on_train_batch_start", on_train_batch_start)
        patch.setattr(UpdateLoop, "on_train_batch_end", on_train_batch_end)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in READS:
            self._count()
        return function(*args, **(kwargs or {}))

    def _count(self) -> None:
        if self.update is not None:
            self.found[self.update] += 1

    def _counting(self, method):
        def counted(*args, **kwargs):
            self._count()
            return method(*args, **kwargs)

        return counted


EVERY_FOURTH = {"runtime__log_every": 4, "runtime__checkpoint_every": 4, "optimizer__clip_norm": 0.5}


def reads(folder) -> Counter[int]:
    with pytest.MonkeyPatch.context() as patch, CountedReads() as counted:
        counted.watch_cells(patch)
        cell.run(folder.path)
    return counted.found


@pytest.mark.parametrize("name", ["novograd", "sgd", "adam", "adamw"])
def test_an_update_never_waits_for_the_device(name, tmp_path):
    """But the first of a process, see `Guard.before_step`. NovoGrad's kernels are those of a GPU."""
    assert kernels.INTERPRETED
    changes = {**EVERY_FOURTH, "optimizer__name": name, "optimizer__options": {"implementation": "fused"}}
    found = reads(small_cell(tmp_path, **changes))
    assert found == {1: 1}


def test_memory_that_begins_grows_and_begins_anew_makes_no_update_wait(tmp_path):
    """Transformer-XL's memory has 8, 16, 20, 20, 20, 20, 20 positions after the updates of an epoch, then 8 again."""
    changes = {"optimizer__name": "adamw", "model__memory_length": 20}
    assert reads(small_cell(tmp_path, "language", **EVERY_FOURTH, **changes)) == {1: 1}


@pytest.mark.parametrize("name", ["lars", "torch.optim:RMSprop"])
def test_with_an_optimizer_that_takes_no_found_inf_an_update_waits_once(name, tmp_path):
    options = {"optimizer__weight_decay": 0.0, "optimizer__lr": 0.001}
    found = reads(small_cell(tmp_path, **EVERY_FOURTH, optimizer__name=name, **options))
    assert found == dict.fromkeys(range(1, 9), 1)


def test_larc_does_not_wait(tmp_path):
    assert reads(small_cell(tmp_path, **EVERY_FOURTH, optimizer__name="sgd", optimizer__larc_trust=0.001)) == {1: 1}


@pytest.fixture
def broken(monkeypatch):
    """Makes the images of some updates (from 0) NaN, and with them the statistics of batch norm."""

    def at(updates):
        step = ImageTask.training_step

        def training_step(self, batch, batch_idx):
            update = batch_idx // self.config.accumulation
            if update in updates:
                batch = batch._replace(images=batch.images * math.nan)
            return step(self, batch, batch_idx)

        monkeypatch.setattr(ImageTask, "training_step", training_step)

    return at


@pytest.mark.parametrize("name", ["novograd", "sgd", "adamw", "lars"])
def test_a_skipped_update_leaves_weights_and_statistics_alone(name, broken, tmp_path):
    broken({3, 4, 5})  # update 3, of which a checkpoint is made, is the last finite one; 6 is the next checkpoint
    folder = small_cell(tmp_path, optimizer__name=name, budget="6steps")
    cell.run(folder.path)
    before, after = (checkpoints.load(path)["model"] for path in sorted(folder.checkpoints.iterdir()))
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    assert folder.read_record().skipped_updates == 3


def test_a_first_update_that_is_skipped_leaves_no_state(broken, tmp_path):
    """torch's fused SGD would have made its momentum of memory nobody has written to."""
    broken({0})
    folder = small_cell(tmp_path, optimizer__name="sgd", runtime__checkpoint_every=1, budget="2steps")
    cell.run(folder.path)
    first, second = (checkpoints.load(path)["optimizer"]["state"] for path in sorted(folder.checkpoints.iterdir()))
    assert first == {}
    assert all(torch.isfinite(own["momentum_buffer"]).all() for own in second.values())


def test_skipped_updates_in_a_row_are_counted_though_they_are_read_late(broken, tmp_path):
    """Three in a row and then finite ones again, all between two reads."""
    broken({3, 5, 6, 7, 10})
    few = {"budget": "12steps", "runtime__log_every": 12, "runtime__checkpoint_every": 12, "runtime__curve_points": 1}
    with pytest.raises(TrainingError, match="in 3 updates in a row, up to update 8 of 12"):
        cell.run(small_cell(tmp_path / "three", **few, runtime__max_nonfinite=3).path)
    folder = small_cell(tmp_path / "four", **few, runtime__max_nonfinite=4)
    cell.run(folder.path)
    assert folder.read_record().skipped_updates == 5


def test_the_count_in_a_row_outlives_a_checkpoint(broken, tmp_path):
    broken({2, 3})
    few = {"runtime__log_every": 8, "runtime__checkpoint_every": 3, "runtime__curve_points": 1}
    with pytest.raises(TrainingError, match="in 2 updates in a row, up to update 4 of 8"):
        cell.run(small_cell(tmp_path, **few, runtime__max_nonfinite=2).path)


def test_a_grad_scaler_backs_off_without_waiting():
    """As Lightning drives it in half precision: unscaled, looked at, stepped, updated."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(20, 10))
    optimizer = registry.build("adamw", [weight], lr=0.1, weight_decay=0.0)
    guard = Guard(small_config(optimizer__name="adamw"), 6)
    guard.start(ImageTask(small_config()), optimizer)
    guard.begin_update()
    scaler = GradScaler("cpu", init_scale=1024.0)
    scales, weights = [], []
    with CountedReads() as counted:
        for update in range(6):
            optimizer.zero_grad()
            counted.update = update
            scaler.scale((weight * (math.inf if update in (2, 3) else 1.0)).square().sum()).backward()
            scaler.unscale_(optimizer)
            guard.before_step(optimizer)
            scaler.step(optimizer)
            scaler.update()
            counted.update = None
            scales.append(scaler.get_scale())
            weights.append(weight.detach().clone())
    assert scales == [1024.0, 1024.0, 512.0, 256.0, 256.0, 256.0]
    assert torch.equal(weights[1], weights[3])
    assert not torch.equal(weights[3], weights[4])
    assert counted.found == {0: 1}
    guard.read(6)
    assert (guard.skipped, guard.in_a_row) == (2, 0)
