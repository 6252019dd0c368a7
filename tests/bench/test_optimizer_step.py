"""The benchmark measures the right shapes, counts the right bytes and survives failures; no test asserts a time."""

import math

import pytest
import torch

from novobench import hardware
from novobench.bench import models, optimizer_step, step_bench, sweep
from novobench.bench.contenders import Contender, contenders
from novobench.files import read_csv


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(optimizer_step.MODELS, "toy", lambda: [(32, 32), (32,)])


@pytest.fixture
def contend(monkeypatch):
    """Add contenders to AdamW(fused) and NovoGrad, or replace these."""

    def add(**more):
        available = contenders(torch.device("cpu"))
        chosen = {name: available[name] for name in ("AdamW(fused)", "NovoGrad")} | more
        for module in (optimizer_step, step_bench):
            monkeypatch.setattr(module, "contenders", lambda device: chosen)

    return add


class Raises(torch.optim.SGD):
    """Raises `error` in step number `at`."""

    def __init__(self, parameters, at, error):
        super().__init__(parameters, 1e-3)
        self.at, self.error, self.steps = at, error, 0

    def step(self, closure=None):
        self.steps += 1
        if self.steps == self.at:
            raise self.error
        return super().step(closure)


def raises(at, error):
    return Contender(lambda parameters: Raises(parameters, at, error))


def test_shapes_have_the_sizes_of_the_models():
    sizes = {name: [math.prod(shape) for shape in models.shapes_of(name)] for name in _TASKS}
    assert sum(sizes["image"]) == 25_549_352
    assert len(sizes["image"]) == 153
    assert sum(sizes["translation"]) == 184_750_080
    assert sum(sizes["language"]) == 191_950_298
    assert (sum(sizes["speech"]), len(sizes["speech"])) == (332_632_349, 326)


_TASKS = ("image", "speech", "translation", "language")


def test_rows_hold_ratios_and_state():
    rows = {row.optimizer: row for row in step_bench.run(["toy"], rounds=3, threads=1)}
    assert rows["AdamW(fused)"].ratio == 1.0
    assert rows["NovoGrad"].state_bytes_per_parameter == (4 * 1056 + 8) / 1056
    assert rows["AdamW(fused)"].state_bytes_per_parameter == (8 * 1056 + 8) / 1056
    for row in rows.values():
        assert row.ratio == row.milliseconds / rows["AdamW(fused)"].milliseconds
        assert row.baseline_milliseconds == rows["AdamW(fused)"].milliseconds
        assert row.ratio_low <= row.ratio_high
    assert rows["NovoGrad"].terabytes_per_second == pytest.approx(24 * 1056 / rows["NovoGrad"].milliseconds / 1e9)
    assert {row.device for row in rows.values()} == {hardware.processor()}


def test_unscaling_and_clipping_leave_the_gradients_unchanged_for_the_next_contender(monkeypatch):
    shared = step_bench.random_parameters([(32, 32), (32,)], torch.device("cpu"))
    fresh_parameters = [(parameter.detach().clone(), parameter.grad.clone()) for parameter in shared]
    monkeypatch.setattr(step_bench, "random_parameters", lambda shapes, device: shared)
    rows = list(step_bench.run(["toy"], rounds=3, threads=1, only=["NovoGrad", "SGD(fused)"], clipped=True))
    assert [row.optimizer for row in rows] == ["AdamW(fused)", "NovoGrad", "SGD(fused)"]
    for parameter, (values, gradient) in zip(shared, fresh_parameters, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=0)
        assert not torch.equal(parameter, values)


def test_the_command_writes_a_table_and_a_picture(tmp_path, novobench):
    output = tmp_path / "step.csv"
    output.write_text("of an earlier run\n")
    code, out, _ = novobench("bench", "optimizer", "--models", "toy", "--rounds", "2", "--output", str(output))
    assert code == 0
    assert "2 interleaved rounds" in out
    rows = read_csv(output)
    assert {row["optimizer"] for row in rows} >= {"AdamW(fused)", "NovoGrad", "timm NvNovoGrad"}
    assert "<svg" in output.with_suffix(".svg").read_text()


def test_printed_times_and_ratios_agree(novobench):
    _, out, _ = novobench("bench", "optimizer", "--models", "toy", "--only", "NovoGrad", "Adafactor", "--rounds", "4")
    lines = [line.removeprefix("toy").replace("AdamW(fused)", "").split() for line in out.splitlines()[1:4]]
    printed = [[float(word) for word in line if word.replace(".", "").isdigit()] for line in lines]
    (base, *_), *_ = printed
    for milliseconds, _, ratio, *_ in printed:
        assert milliseconds / base == pytest.approx(ratio, rel=2e-3, abs=6e-4)


def test_a_failing_contender_loses_only_its_own_row(tmp_path, novobench, contend):
    def never(parameters):
        raise RuntimeError("built without\nCUDA")

    contend(**{"never": Contender(never), "later": raises(4, ValueError("no more"))})
    output = tmp_path / "step.csv"
    code, out, _ = novobench("bench", "optimizer", "--models", "toy", "--rounds", "5", "--output", str(output))
    assert code == 0
    assert "failed: RuntimeError: built without" in out
    rows = {row["optimizer"]: row for row in read_csv(output)}
    assert rows["never"]["error"] == "RuntimeError: built without"
    assert rows["later"]["error"] == "ValueError: no more"
    assert rows["later"]["milliseconds"] == ""
    assert float(rows["NovoGrad"]["ratio"]) > 0


def test_a_failing_baseline_is_named_and_leaves_no_ratios(tmp_path, novobench, contend):
    contend(**{"AdamW(fused)": raises(1, MemoryError("too much"))})
    output = tmp_path / "step.csv"
    code, out, _ = novobench("bench", "optimizer", "--models", "toy", "--rounds", "2", "--output", str(output))
    assert code == 1
    assert "The baseline AdamW(fused) failed on toy" in out
    _, row = read_csv(output)
    assert float(row["milliseconds"]) > 0
    assert row["ratio"] == ""


def test_an_interrupted_run_keeps_the_rows_measured_so_far(tmp_path, novobench, contend, monkeypatch):
    monkeypatch.setitem(optimizer_step.MODELS, "second", lambda: [(8, 8)])
    calls = []
    interrupts = Contender(lambda p: calls.append(1) or Raises(p, 4 if len(calls) == 2 else 0, KeyboardInterrupt()))
    contend(**{"interrupts": interrupts})
    output = tmp_path / "step.csv"
    code, _, err = novobench(
        "bench", "optimizer", "--models", "toy", "second", "--rounds", "3", "--output", str(output)
    )
    assert (code, "interrupted" in err) == (130, True)
    rows = read_csv(output)
    assert [(row["model"], row["optimizer"]) for row in rows] == [
        ("toy", "AdamW(fused)"), ("toy", "NovoGrad"), ("toy", "interrupts"),
    ]  # fmt: skip
    assert all(float(row["milliseconds"]) > 0 for row in rows)


def test_the_host_overhead_is_measured_without_launches(novobench):
    code, out, _ = novobench("bench", "host", "--rounds", "2")
    assert code == 0
    assert "600 tensors (host)  NovoGrad" in out


@pytest.mark.slow  # Triton interprets the kernels
def test_launch_settings_are_swept(tmp_path, novobench, monkeypatch):
    from novobench.optim.novograd import launch_plan

    monkeypatch.setattr(sweep, "_TILES", ((1024, 4), (2048, 8)))
    monkeypatch.setattr(sweep, "_CHUNKS", (16384,))
    monkeypatch.setattr(sweep, "_SMALL_TILES", ((2048, 8),))
    monkeypatch.setattr(sweep, "_SMALL_CHUNKS", (1024, 4096))
    monkeypatch.setattr(sweep, "_AHEAD_MIB", (8,))
    chunks = []
    original = launch_plan.LaunchPlan.__init__

    def plan(self, *words, **more):
        original(self, *words, **more)
        chunks.append(self.tuning.chunk)

    monkeypatch.setattr(launch_plan.LaunchPlan, "__init__", plan)
    output = tmp_path / "sweep.csv"
    code, out, _ = novobench("bench", "optimizer", "--sweep", "--models", "toy", "--output", str(output))
    assert code == 0
    base, *rows = read_csv(output)
    assert (base["optimizer"], base["settings"]) == ("AdamW(fused)", "")
    settings = [row["settings"] for row in rows if row["optimizer"] == "NovoGrad"]
    assert len(set(settings)) == len(settings) == 1 + 2 + 3  # the default, two tiles, three switches
    assert sum(setting.startswith("block=1024 warps=4 chunk=16384 ") for setting in settings) == 1
    assert 16384 in chunks
    single = [row["settings"] for row in rows if row["optimizer"] == "NovoGrad(single launch)"]
    assert single
    assert all(setting.endswith("ahead=8MiB") for setting in single)
    assert not any("chunk=1024 " in setting for setting in single)  # not a multiple of the block
    assert "Best on toy: NovoGrad block=" in out
    assert all(float(row["ratio"]) > 0 for row in rows)


def test_a_sweep_without_a_gpu_says_so(novobench, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    code, _, err = novobench("bench", "optimizer", "--sweep", "--models", "toy")
    assert code == 2
    assert "--sweep needs --device cuda" in err
