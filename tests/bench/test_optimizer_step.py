"""The benchmark measures the right shapes and counts the right bytes; it asserts no time."""

import math

from novobench.bench import optimizer_step


def test_shape_lists_have_the_models_sizes():
    sizes = {name: [math.prod(shape) for shape in make()] for name, make in optimizer_step.MODELS.items()}
    assert sum(sizes["ResNet-50v2"]) == 25_549_352
    assert len(sizes["ResNet-50v2"]) == 153
    assert sum(sizes["Transformer-big"]) == 184_750_080
    assert (sum(sizes["Jasper DR 10x5"]), len(sizes["Jasper DR 10x5"])) == (332_632_349, 326)


def test_rows_hold_ratios_and_state(monkeypatch):
    monkeypatch.setitem(optimizer_step.MODELS, "toy", lambda: [(32, 32), (32,)])
    rows = {row.optimizer: row for row in optimizer_step.run(["toy"], rounds=3, threads=1)}
    assert rows["AdamW(fused)"].ratio == 1.0
    assert rows["NovoGrad"].state_bytes_per_parameter == (4 * 1056 + 8) / 1056
    assert rows["AdamW(fused)"].state_bytes_per_parameter == (8 * 1056 + 8) / 1056
    assert all(row.ratio_low <= row.ratio <= row.ratio_high for row in rows.values())
