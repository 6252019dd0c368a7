"""The benchmark measures the right shapes and counts the right bytes; it asserts no time."""

import math

import torch

from novobench import hardware
from novobench.bench import optimizer_step
from novobench.files import read_csv


def test_shape_lists_have_the_models_sizes():
    sizes = {name: [math.prod(shape) for shape in make()] for name, make in optimizer_step.MODELS.items()}
    assert sum(sizes["ResNet-50v2"]) == 25_549_352
    assert len(sizes["ResNet-50v2"]) == 153
    assert sum(sizes["Transformer-big"]) == 184_750_080
    assert sum(sizes["Transformer-XL"]) == 191_950_298
    assert (sum(sizes["Jasper DR 10x5"]), len(sizes["Jasper DR 10x5"])) == (332_632_349, 326)


def test_rows_hold_ratios_and_state(monkeypatch):
    monkeypatch.setitem(optimizer_step.MODELS, "toy", lambda: [(32, 32), (32,)])
    rows = {row.optimizer: row for row in optimizer_step.run(["toy"], rounds=3, threads=1)}
    assert rows["AdamW(fused)"].ratio == 1.0
    assert rows["NovoGrad"].state_bytes_per_parameter == (4 * 1056 + 8) / 1056
    assert rows["AdamW(fused)"].state_bytes_per_parameter == (8 * 1056 + 8) / 1056
    assert all(row.ratio_low <= row.ratio <= row.ratio_high for row in rows.values())
    assert {row.device for row in rows.values()} == {hardware.processor()}


def test_unscaling_and_clipping_leave_the_gradients_to_the_next_contender(monkeypatch):
    monkeypatch.setitem(optimizer_step.MODELS, "toy", lambda: [(32, 32), (32,)])
    made = []
    original = optimizer_step._parameters
    monkeypatch.setattr(optimizer_step, "_parameters", lambda *a: made.append(original(*a)) or made[0])
    rows = optimizer_step.run(["toy"], rounds=3, threads=1, only=["NovoGrad", "SGD(fused)"], clipped=True)
    assert [row.optimizer for row in rows] == ["AdamW(fused)", "NovoGrad", "SGD(fused)"]
    for parameter, fresh in zip(made[0], original([(32, 32), (32,)], torch.device("cpu")), strict=True):
        torch.testing.assert_close(parameter.grad, fresh.grad, rtol=0, atol=0)
        assert not torch.equal(parameter, fresh)


def test_the_command_writes_a_table_and_a_picture(tmp_path, novobench, monkeypatch):
    monkeypatch.setitem(optimizer_step.MODELS, "toy", lambda: [(8, 8), (8,)])
    output = tmp_path / "step.csv"
    code, out, _ = novobench("bench", "optimizer", "--models", "toy", "--rounds", "2", "--output", str(output))
    assert code == 0
    assert "2 interleaved rounds" in out
    assert {row["optimizer"] for row in read_csv(output)} >= {"AdamW(fused)", "NovoGrad", "timm NvNovoGrad"}
    assert "<svg" in output.with_suffix(".svg").read_text()
