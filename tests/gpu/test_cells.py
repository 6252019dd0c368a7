"""Whole cells on CUDA: the same promises as on the CPU, updates that never wait, and a net that learns.

Each test is independent and starts its processes one after another, so `-n 6` runs six at a time.
"""

import importlib.util
import os

import pytest
import torch

from novobench.training import cell
from novobench.training.loop import UpdateLoop
from tests.cells import result, small_cell, train_apart
from tests.tasks.translation.small import small_cell as small_translation

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

# CUDA reads these when it starts, in this process and those of its forkserver. TF32's ten bits of mantissa would hide
# other differences from the CPU, and without the second variable a process that has multiplied is never deterministic.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

ON_CUDA = {"runtime__accelerator": "cuda"}
NEEDED = {"speech": "espeakng_loader", "translation": "num2words"}
"""Packages that create built-in data; a machine with a GPU may lack them."""
WIDTHS = {
    "image": {"runtime__channels_last": True},
    "language": {"model__head_width": 8},  # attention's fast kernels need multiples of 8
    "translation": {},
    "speech": {"data__features_on": "accelerator"},
}
WITHOUT_DROPOUT = {
    "image": {},
    "language": {"model__dropout": 0.0},
    "translation": {"model__dropout": 0.0},
    "speech": {"model__blocks": [{"channels": 8, "kernel": 5, "stride": 2, "dropout": 0.0}]},
}


def make(path, task, **changes):
    """A small cell of any task, on CUDA by default."""
    package = NEEDED.get(task)
    if package and not importlib.util.find_spec(package):
        pytest.skip(f"the built-in data of {task} need the package {package}")
    changes = {**ON_CUDA, **WIDTHS[task], **changes}
    return small_translation(path, **changes) if task == "translation" else small_cell(path, task, **changes)


def trained(folder):
    assert train_apart(folder) == 0, folder.failure.read_text()
    return result(folder)


@pytest.mark.parametrize(
    ("task", "precision"),
    [
        ("image", "32-true"),
        ("image", "bf16-mixed"),
        ("image", "16-mixed"),
        ("language", "32-true"),
        ("language", "bf16-mixed"),
        ("translation", "32-true"),
        ("translation", "bf16-mixed"),
    ],
)
def test_a_killed_training_ends_with_the_same_bits(task, precision, tmp_path):
    expected = trained(make(tmp_path / "whole", task, runtime__precision=precision))
    assert expected["record"]["determinism"] == "strict"
    folder = make(tmp_path / "killed", task, runtime__precision=precision)
    for moment in ("before the first checkpoint", "between two checkpoints", "before the record"):
        assert train_apart(folder, kill_at=moment) == -9, moment
    assert trained(folder) == expected


@pytest.mark.parametrize(
    ("task", "precision", "workers"),
    [("image", "bf16-mixed", 2), ("image", "32-true", 0), ("language", "bf16-mixed", 0)],
)
def test_a_graph_changes_no_bit(task, precision, workers, tmp_path):
    both = [
        make(tmp_path / str(on), task, runtime__precision=precision, runtime__workers=workers, runtime__cuda_graphs=on)
        for on in (False, True)
    ]
    plain, graphed = map(trained, both)
    assert graphed == plain


@pytest.mark.parametrize("name", ["novograd_adamw", "tests.training.averaged:AveragedSGD"])
def test_a_graph_changes_no_bit_of_several_optimizers_or_of_evaluation_weights(name, tmp_path):
    both = [
        make(tmp_path / str(on), "image", optimizer__name=name, runtime__cuda_graphs=on, runtime__workers=1)
        for on in (False, True)
    ]
    plain, graphed = map(trained, both)
    assert graphed == plain


def test_speech_comes_out_the_same_to_rounding(tmp_path):
    first, second = (trained(make(tmp_path / name, "speech")) for name in ("first", "second"))
    assert first["record"]["determinism"] == "to rounding"
    losses = [[line["loss"] for line in found["metrics"]] for found in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_laptop_recipe_learns_on_a_gpu(precision, tmp_path):
    widths = {"model__stem_width": 16, "model__widths": [16, 32, 64], "model__depths": [1, 1, 1]}
    batch = {"size": 32, "micro": 32}
    folder = make(tmp_path, "image", budget="8ep", batch=batch, runtime__precision=precision, **widths)
    assert trained(folder)["record"]["metrics"]["test"]["top1"]["value"] > 88


@pytest.mark.parametrize("task", WIDTHS)
def test_cpu_and_cuda_agree_on_the_first_updates(task, tmp_path):
    """In float32 the losses of eight updates differ only by rounding. No dropout, which draws other masks on a GPU."""
    losses = {}
    for name in ("cpu", "cuda"):
        folder = make(tmp_path / name, task, runtime__accelerator=name, **WITHOUT_DROPOUT[task])
        losses[name] = [line["loss"] for line in trained(folder)["metrics"] if line["split"] == "train"]
    assert len(losses["cuda"]) == 8
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=2e-3)


@pytest.fixture
def no_waiting(monkeypatch):
    """After the first step, waiting for the device is an error except while logging; yields the updates that were
    checked."""
    passed = []
    start, end = UpdateLoop.on_train_batch_start, UpdateLoop.on_train_batch_end

    def on_train_batch_start(loop, *args):
        start(loop, *args)
        if loop.guard._stepped_parameters:  # the first step waits, see `Guard.before_step`
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(loop, trainer, module, outputs, batch, batch_idx):
        before, watched = loop.update, torch.cuda.get_sync_debug_mode() == 2
        ends = (batch_idx + 1) % loop.config.accumulation == 0
        if ends and (loop.update + 1) % loop.log_every == 0:
            torch.cuda.set_sync_debug_mode("default")
        end(loop, trainer, module, outputs, batch, batch_idx)
        if watched and loop.update > before:
            passed.append(loop.update)
        if loop.guard._stepped_parameters and loop.update < loop.total:  # includes moving the next batch to the device
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(UpdateLoop, "on_train_batch_start", on_train_batch_start)
    monkeypatch.setattr(UpdateLoop, "on_train_batch_end", on_train_batch_end)
    yield passed
    torch.cuda.set_sync_debug_mode("default")
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("task", ["image", "language", "translation"])  # torch's CTC itself waits
@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [("novograd", "bf16-mixed"), ("adamw", "32-true"), ("sgd", "16-mixed"), ("novograd_adamw", "bf16-mixed")],
)
def test_an_update_never_waits_for_the_device(task, optimizer, precision, no_waiting, tmp_path):
    rarely = {"runtime__log_every": 8, "runtime__checkpoint_every": 8, "runtime__curve_points": 2}
    changes = {"budget": "16steps", "optimizer__clip_norm": 0.5, "optimizer__name": optimizer}
    cell.run(make(tmp_path, task, runtime__precision=precision, **rarely, **changes).path)
    # The first update waits, and so do those that half precision skips until its loss scale is low enough.
    first = no_waiting[0]
    assert no_waiting == list(range(first, 17))
    assert first <= 10 if precision == "16-mixed" else first == 2
