"""Whole cells on CUDA: the same promises as on the CPU, and a net that learns."""

import pytest
import torch

from tests.cells import result, small_cell, train_apart

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ON_CUDA = {"runtime__accelerator": "cuda", "runtime__channels_last": True}


@pytest.fixture(scope="module", params=["32-true", "bf16-mixed", "16-mixed"])
def uninterrupted(request, tmp_path_factory):
    folder = small_cell(tmp_path_factory.mktemp("cell"), runtime__precision=request.param, **ON_CUDA)
    assert train_apart(folder) == 0, folder.failure.read_text()
    return request.param, result(folder)


@pytest.mark.parametrize("moment", [None, "a checkpoint written", "between two checkpoints", "before the record"])
def test_twice_and_killed(moment, uninterrupted, tmp_path):
    precision, expected = uninterrupted
    folder = small_cell(tmp_path, runtime__precision=precision, **ON_CUDA)
    if moment is not None:
        assert train_apart(folder, kill_at=moment) == -9
    assert train_apart(folder) == 0, folder.failure.read_text()
    assert result(folder) == expected


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_laptop_recipe_learns_on_a_gpu(precision, tmp_path):
    widths = {"model__stem_width": 16, "model__widths": [16, 32, 64], "model__depths": [1, 1, 1]}
    folder = small_cell(
        tmp_path, budget="8ep", batch={"size": 32, "micro": 32}, runtime__precision=precision, **widths, **ON_CUDA
    )
    assert train_apart(folder) == 0, folder.failure.read_text()
    assert folder.read_record()["metrics"]["test"]["top1"]["value"] > 88


@pytest.mark.parametrize(
    ("task", "changes"),
    [("image", {"runtime__channels_last": True}), ("speech", {"data__features_on": "accelerator"})],
)
def test_cpu_and_cuda_agree_on_the_first_updates(task, changes, tmp_path):
    """Float32 on both: the losses of eight updates differ by rounding alone. Dropout draws others on a GPU."""
    if task == "speech":
        pytest.importorskip("espeakng_loader", reason="the built-in speech needs the extra espeak")
        changes = {**changes, "model__blocks": [{"channels": 8, "kernel": 5, "stride": 2, "dropout": 0.0}]}
    losses = {}
    for name in ("cpu", "cuda"):
        folder = small_cell(tmp_path / name, task, runtime__accelerator=name, **changes)
        assert train_apart(folder) == 0, folder.failure.read_text()
        losses[name] = [line["loss"] for line in result(folder)["metrics"] if line["split"] == "train"]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=2e-3)
