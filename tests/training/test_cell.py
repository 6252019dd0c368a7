"""One cell in this process: the guard, clipping, resume after damage, and what stops it."""

import json
import logging
import math
import threading
import time

import pytest
import torch

from novobench.config import cell_id
from novobench.errors import ConfigError, TrainingError
from novobench.optim.schedules import learning_rate
from novobench.tasks.image.task import ImageTask
from novobench.training import cell, checkpoints
from novobench.training.loop import UpdateLoop
from novobench.training.metrics_log import read
from tests.cells import result, small_cell, small_config


@pytest.fixture
def lost(monkeypatch):
    """Makes the loss NaN at the updates it is given; `history` are the weights after each update."""

    def at(updates):
        history = []
        original, step = UpdateLoop.on_train_batch_end, ImageTask.training_step
        now = {"update": 0, "calls": 0}

        def training_step(self, batch, batch_idx):
            loss = step(self, batch, batch_idx)
            return loss * math.nan if now["update"] in updates else loss

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            original(self, trainer, module, outputs, batch, batch_idx)
            if self.update != now["update"]:
                now["update"] = self.update
                history.append(
                    (
                        torch.cat([p.detach().flatten().clone() for p in module.parameters()]),
                        json.dumps(trainer.optimizers[0].state_dict(), default=lambda t: t.tolist()),
                    )
                )

        monkeypatch.setattr(ImageTask, "training_step", training_step)
        monkeypatch.setattr(UpdateLoop, "on_train_batch_end", on_train_batch_end)
        return history

    return at


@pytest.mark.parametrize("optimizer", ["novograd", "sgd", "adamw", "lars", "novograd_adamw"])
def test_an_update_that_is_not_finite_is_skipped_by_every_optimizer(optimizer, lost, tmp_path):
    history = lost({3, 4})
    folder = small_cell(tmp_path, optimizer__name=optimizer)
    cell.run(folder.path)
    weights = [w for w, _ in history]
    assert torch.equal(weights[2], weights[3])
    assert torch.equal(weights[3], weights[4])
    assert not torch.equal(weights[4], weights[5])
    dicts = [json.loads(text) for _, text in history]
    state = [[part["state"] for part in each.get("parts", [each])] for each in dicts]
    assert state[2] == state[3] == state[4]
    assert all(torch.isfinite(w).all() for w in weights)
    record = folder.read_record()
    assert record.skipped_updates == 2
    assert record.updates == 8  # data and schedule advanced
    last = [line for line in read(folder.metrics) if line["split"] == "train"][-1]
    config = small_config(optimizer__name=optimizer)
    assert last["lr"] == pytest.approx(learning_rate(7, 8, config.optimizer.lr, config.schedule))


def test_a_training_that_diverges_is_given_up_with_a_reason(lost, tmp_path):
    lost(set(range(2, 100)))
    folder = small_cell(tmp_path, runtime__max_nonfinite=3)
    with pytest.raises(
        TrainingError, match=r"not finite in 3 updates in a row, up to update 5 of 8 .*Lower optimizer.lr"
    ):
        cell.run(folder.path)
    assert "Lower optimizer.lr" in folder.failure_reason()
    assert not folder.finished


def test_clipping_bounds_the_gradient_norm(tmp_path):
    norms = []

    def spy(self, trainer, module, optimizer, original=UpdateLoop.on_before_optimizer_step):
        before = norm(module)
        original(self, trainer, module, optimizer)
        norms.append((before, norm(module)))

    def norm(module):
        return float(torch.stack([p.grad.pow(2).sum() for p in module.parameters()]).sum().sqrt())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UpdateLoop, "on_before_optimizer_step", spy)
        cell.run(small_cell(tmp_path, optimizer__clip_norm=0.5).path)
    assert any(before > 0.6 for before, _ in norms)
    for before, after in norms:
        assert after == pytest.approx(min(before, 0.5), rel=1e-4)


def test_the_first_update_is_the_one_that_plain_pytorch_takes(tmp_path):
    """Accumulated over two micro-batches, with SGD: w - lr × mean of the micro-batches' gradients."""
    from novobench.tasks import base

    config = small_config(
        budget="1steps", optimizer__name="sgd", optimizer__weight_decay=0.0, schedule__name="constant"
    )
    module, data = base.build(config)
    data.setup("fit")
    module.train()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for batch in data.train_batches(0, 1, 0, 1):
        (module.training_step(batch, 0) / 2).backward()
    expected = {name: before[name] - 0.02 * p.grad for name, p in module.named_parameters()}
    folder = small_cell(
        tmp_path, budget="1steps", optimizer__name="sgd", optimizer__weight_decay=0.0, schedule__name="constant"
    )
    cell.run(folder.path)
    trained = checkpoints.load_newest(folder.checkpoints)["model"]
    for name, tensor in expected.items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-5, atol=1e-7)


# ------------------------------------------------------------------------------------ resume


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    whole = small_cell(tmp_path / "whole")
    cell.run(whole.path)
    folder = small_cell(tmp_path / "damaged")
    cell.run(folder.path)
    folder.record.unlink()
    names = sorted(path.name for path in folder.checkpoints.iterdir())
    assert names == ["update-000000006.ckpt", "update-000000008.ckpt"]  # two are kept
    (folder.checkpoints / names[-1]).write_bytes(b"not a checkpoint")
    with caplog.at_level(logging.WARNING):
        cell.run(folder.path)
    assert "update-000000008.ckpt cannot be used (its content does not match its checksum)" in caplog.text
    assert result(folder) == result(whole)


def test_other_data_than_the_checkpoints_is_refused(tmp_path):
    folder = small_cell(tmp_path)
    cell.run(folder.path)
    folder.record.unlink()
    newest = sorted(folder.checkpoints.iterdir())[-1]
    state = checkpoints.load(newest)
    checkpoints.save(folder.checkpoints, 8, {**state, "fingerprint": "digits-mild:0000"})
    with pytest.raises(TrainingError, match="changed since its checkpoint at update 8: fingerprint digits-mild:87ff"):
        cell.run(folder.path)


def test_a_finished_cell_is_left_alone(tmp_path):
    folder = small_cell(tmp_path)
    cell.run(folder.path)
    before = {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir() if path.is_file()}
    cell.run(folder.path)
    del before["lock"]
    assert before == {name: (folder.path / name).stat().st_mtime_ns for name in before}


def test_a_second_process_waits_for_the_record(tmp_path, caplog):
    from filelock import FileLock

    folder = small_cell(tmp_path)
    folder.path.mkdir(exist_ok=True)
    folder.write_heartbeat(3, 8)
    ready = threading.Event()

    def other():
        with FileLock(folder.lock):
            ready.set()
            time.sleep(0.5)
            folder.record.write_text("{}")

    thread = threading.Thread(target=other)
    thread.start()
    ready.wait()
    with caplog.at_level(logging.WARNING):
        cell.run(folder.path)  # returns without training: no checkpoint appears
    assert "is being trained by process" in caplog.text
    assert not folder.checkpoints.exists()
    thread.join()


# ------------------------------------------------------------------------------------ determinism


def test_an_operation_without_a_deterministic_kernel_makes_results_to_rounding(tmp_path, monkeypatch, caplog):
    """As on a GPU whose torch lacks one: the training starts again without it, and the record says so."""
    step = ImageTask.training_step

    def training_step(self, batch, batch_idx):
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set …")
        return step(self, batch, batch_idx)

    def strict(*_):
        torch.use_deterministic_algorithms(True)
        return "strict"

    whole = small_cell(tmp_path / "whole")
    cell.run(whole.path)
    monkeypatch.setattr(ImageTask, "training_step", training_step)
    monkeypatch.setattr(cell, "_determinism", strict)
    folder = small_cell(tmp_path / "other")
    with caplog.at_level(logging.WARNING):
        cell.run(folder.path)
    assert "cumsum_cuda_kernel does not have a deterministic implementation" in caplog.text
    record, expected = folder.read_record(), whole.read_record()
    assert (expected.determinism, record.determinism) == ("strict", "to rounding")
    assert record.weights_sha256 == expected.weights_sha256


def test_other_errors_of_a_strict_training_are_errors(tmp_path, monkeypatch):
    def training_step(self, batch, batch_idx):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(ImageTask, "training_step", training_step)
    with pytest.raises(RuntimeError, match="out of memory"):
        cell.run(small_cell(tmp_path).path)


# ------------------------------------------------------------------------------------ what is recorded


def test_a_record_says_what_was_trained(tmp_path):
    folder = small_cell(tmp_path)
    cell.run(folder.path)
    record = folder.read_record()
    config = small_config()
    assert record.cell == cell_id(config)
    assert record.counts == {"train": 1040, "search": 160, "test": 597}
    correct = [p["output"] == p["reference"] for p in folder.read_predictions("test")]
    assert record.metrics["test"]["top1"].value == pytest.approx(100 * sum(correct) / len(correct))
    top5 = [p["reference"] in p["top5"] for p in folder.read_predictions("test")]
    assert record.metrics["test"]["top5"].value == pytest.approx(100 * sum(top5) / len(top5))
    environment = json.loads(folder.environment.read_text())
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert str(tmp_path.home()) not in folder.environment.read_text()


def test_a_search_trial_never_sees_the_test_set(tmp_path):
    folder = small_cell(tmp_path, purpose="search")
    cell.run(folder.path)
    assert set(folder.read_record().metrics) == {"search"}
    assert not folder.predictions("test").exists()


def test_tensorboard_gets_the_metrics(tmp_path):
    pytest.importorskip("tensorboard")
    folder = small_cell(tmp_path, runtime__trackers=["tensorboard"])
    cell.run(folder.path)
    assert list((folder.path / "tensorboard").glob("events.out.tfevents.*"))


def test_an_unknown_tracker_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"'runtime.trackers\[0\]': Invalid value 'tensorbord'"):
        small_cell(tmp_path, runtime__trackers=["tensorbord"])


def test_a_training_on_bad_items_alone_is_no_result(tmp_path, monkeypatch):
    from PIL import Image

    for split in ("train", "val"):
        for label in ("cat", "dog"):
            folder = tmp_path / "data" / "pets" / split / label
            folder.mkdir(parents=True)
            for i in range(4):
                if split == "train":
                    (folder / f"{i}.png").write_bytes(b"no picture")
                else:
                    Image.new("RGB", (8, 8), (30 * i, 0, 0)).save(folder / f"{i}.png")
    monkeypatch.setenv("NOVOBENCH_DATA", str(tmp_path / "data"))
    folder = small_cell(
        tmp_path / "run", budget="2steps", batch={"size": 4, "micro": 4}, model__in_channels=3, model__classes=2,
        data__source="folder", data__name="pets", data__train_size=8, data__search_size=0, data__test_size=8,
        data__image_size=8, data__resize_size=8, data__mean=[0.0], data__std=[1.0], data__on_bad_image="skip",
    )  # fmt: skip
    with pytest.raises(TrainingError, match="None of the 8 samples trained on could be used"):
        cell.run(folder.path)
    assert not folder.finished
