"""An optimizer with `train()` and `eval()` is judged by its evaluation weights, and is none the worse for it."""

import math

import pytest
import torch
from torch.optim.swa_utils import update_bn

from novobench.tasks import base
from novobench.training import cell, checkpoints
from novobench.training.evaluation_weights import STATISTICS_BATCHES
from novobench.training.loop import UpdateLoop
from novobench.training.metrics_log import read
from tests.cells import result, small_cell, small_config, train_apart
from tests.training.test_processes import run_script

AVERAGED = {"optimizer__name": "tests.training.averaged:AveragedSGD", "optimizer__lr": 0.05}


@pytest.fixture
def watched(monkeypatch):
    """`weights`: the module's state after each update, as training goes on from it; `final`: at the record."""
    seen = {"weights": [], "final": None}
    original = UpdateLoop.on_train_batch_end

    def on_train_batch_end(self, trainer, module, *arguments):
        before = self.update
        original(self, trainer, module, *arguments)
        if self.update != before:
            seen["weights"].append({name: tensor.clone() for name, tensor in module.state_dict().items()})

    def digest(module):
        seen["final"] = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        return weights_digest(module)

    weights_digest = cell.weights_digest
    monkeypatch.setattr(UpdateLoop, "on_train_batch_end", on_train_batch_end)
    monkeypatch.setattr(cell, "weights_digest", digest)
    return seen


def test_the_mean_of_the_weights_is_judged_with_batch_norm_statistics_of_its_own(watched, tmp_path):
    folder = small_cell(tmp_path, **AVERAGED)
    cell.run(folder.path)
    config = small_config(**AVERAGED)
    module, data = base.build(config)
    data.setup("fit")
    for name, parameter in module.named_parameters():
        mean = torch.stack([weights[name].double() for weights in watched["weights"]]).mean(0)
        torch.testing.assert_close(watched["final"][name].double(), mean, rtol=1e-4, atol=1e-6)
        assert not torch.equal(watched["final"][name], watched["weights"][-1][name])
        parameter.data.copy_(watched["final"][name])
    updates = math.ceil(STATISTICS_BATCHES * config.batch.micro / config.batch.size)
    assert updates == 25 < config.epoch_updates
    update_bn((batch.images for batch in data.train_batches(0, updates, 0, 1)), module.network)
    statistics = {name for name, _ in module.named_buffers()}
    assert len(statistics) == 21
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(watched["final"][name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    checkpoint = checkpoints.load_newest(folder.checkpoints)["model"]  # the weights that training would go on from
    assert all(map(torch.equal, checkpoint.values(), watched["weights"][-1].values()))


@pytest.mark.slow
def test_training_does_not_depend_on_how_often_it_is_evaluated_or_saved(watched, tmp_path):
    runs = []
    for points, every in ((1, 100), (8, 2)):
        folder = small_cell(
            tmp_path / str(points), **AVERAGED, runtime__curve_points=points, runtime__checkpoint_every=every
        )
        cell.run(folder.path)
        runs.append((result(folder), watched["weights"][:]))
        watched["weights"].clear()
    (seldom, few), (often, many) = runs
    for before, after in zip(few, many, strict=True):
        assert all(map(torch.equal, before.values(), after.values()))
    assert seldom["record"] == often["record"]
    assert seldom["predictions"] == often["predictions"]


def test_the_rate_is_constant_after_the_warm_up(tmp_path):
    """As the class declares, although the config says cosine."""
    folder = small_cell(tmp_path, **AVERAGED, schedule__warmup="2steps")
    cell.run(folder.path)
    rates = [line["lr"] for line in read(folder.metrics) if line["split"] == "train"]
    assert rates == pytest.approx([0.05 / 3, 0.1 / 3, *[0.05] * 6])


@pytest.mark.slow
def test_selection_keeps_evaluation_weights(watched, tmp_path):
    folder = small_cell(tmp_path, **AVERAGED, runtime__selection_points=4)
    cell.run(folder.path)
    losses = {line["update"]: line["loss"] for line in read(folder.metrics) if line["split"] == "search"}
    record = folder.read_record()
    assert record.selected_update == min(losses, key=losses.__getitem__)
    assert record.metrics["search"]["loss"].value == losses[record.selected_update]
    taken = watched["weights"][: record.selected_update]
    for name in ("network.stem.weight", "network.classifier.bias"):
        mean = torch.stack([weights[name].double() for weights in taken]).mean(0)
        torch.testing.assert_close(watched["final"][name].double(), mean, rtol=1e-4, atol=1e-6)


def test_as_the_other_optimizer_of_several(watched, tmp_path):
    """NovoGrad's part is evaluated as it is."""
    changes = {"optimizer__others__name": AVERAGED["optimizer__name"], "optimizer__others__lr_ratio": 2.0}
    cell.run(small_cell(tmp_path, optimizer__name="novograd_adamw", **changes).path)
    last, final = watched["weights"][-1], watched["final"]
    assert torch.equal(final["network.stem.weight"], last["network.stem.weight"])
    mean = torch.stack([weights["network.norm.weight"] for weights in watched["weights"]]).mean(0)
    torch.testing.assert_close(final["network.norm.weight"], mean, rtol=1e-4, atol=1e-6)
    assert not torch.equal(final["network.norm.running_mean"], last["network.norm.running_mean"])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["image", "speech", "language"])
def test_killed_and_started_again(task, tmp_path):
    """Speech has dropout and batch norm, language neither but a memory."""
    changes = AVERAGED | {"optimizer__lr": 1e-3}
    whole = small_cell(tmp_path / "whole", task, **changes)
    assert train_apart(whole) == 0, whole.failure_reason()
    killed = small_cell(tmp_path / "killed", task, **changes)
    for moment in ("between two checkpoints", "before the record"):
        assert train_apart(killed, kill_at=moment) == -9
    assert train_apart(killed) == 0
    assert result(killed) == result(whole)


@pytest.mark.slow
def test_two_processes_have_the_statistics_of_one(tmp_path):
    """Dropout included; the mean of two means is the mean up to rounding."""
    shared = {**AVERAGED, "batch": {"size": 64, "micro": 16}, "runtime__precision": "64-true"}
    metrics = []
    for devices in (1, 2):
        folder = small_cell(tmp_path / str(devices), runtime__devices=devices, **shared)
        run_script(folder, devices)
        metrics.append(folder.read_record().metrics["test"])
    assert metrics[0]["top1"] == metrics[1]["top1"]
    assert metrics[0]["loss"].value == pytest.approx(metrics[1]["loss"].value, rel=1e-8)
