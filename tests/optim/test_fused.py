"""The Triton path, in Triton's interpreter: sizes and layouts that its tables must get right, and what it launches."""

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from novobench.config import ROOT
from novobench.optim import NovoGrad, novograd_kernels, novograd_tables, novograd_triton
from tests.optim.reference import PaperNovoGrad

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy's, in the interpreter

SETTINGS = {"betas": (0.9, 0.5), "weight_decay": 0.05}


def step_both(parameters, make_gradients, steps=3, tolerance=1e-5, **options):
    """Steps of the fused path beside the paper's algorithm in float64; returns the optimizer."""
    references = [PaperNovoGrad(p.detach(), 0.1, **SETTINGS) for p in parameters]
    optimizer = NovoGrad(parameters, 0.1, **SETTINGS, fused=True, **options)
    for step in range(steps):
        values = make_gradients(step)
        for parameter, value, reference in zip(parameters, values, references, strict=True):
            parameter.grad = value
            reference.step(value)
        optimizer.step()
    for parameter, reference in zip(parameters, references, strict=True):
        np.testing.assert_allclose(parameter.detach().double(), reference.w, rtol=tolerance, atol=tolerance)
        state = optimizer.state[parameter]
        np.testing.assert_allclose(state["exp_avg_sq"], reference.v, rtol=tolerance)
        np.testing.assert_allclose(state["exp_avg"].double(), reference.m, rtol=10 * tolerance, atol=10 * tolerance)
    return optimizer


def normal(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def launches(monkeypatch):
    """Counts launches by kernel."""
    counts = Counter()
    for name in ("norms", "squares", "whole", "update", "norms_and_update"):
        kernel = getattr(novograd_kernels, name)

        class Counted:
            def __init__(self, kernel, name):
                self.kernel, self.name = kernel, name

            def __getitem__(self, grid):
                counts[self.name] += 1
                return self.kernel[grid]

        monkeypatch.setattr(novograd_kernels, name, Counted(kernel, name))
    return counts


@pytest.mark.parametrize("numel", [1, 2047, 2048, 2049, 16384, 16385, 40000])
def test_sizes_around_tiles_and_chunks(numel):
    step_both([normal(numel, 0).requires_grad_()], lambda step: [normal(numel, 1 + step)])


def test_a_tensor_of_more_chunks_than_partials_takes_longer_chunks(monkeypatch):
    monkeypatch.setattr(novograd_tables, "PARTS", 4)
    monkeypatch.setattr(novograd_tables, "CHUNK", 2048)
    optimizer = step_both([normal(30_000, 0).requires_grad_()], lambda step: [normal(30_000, 1 + step)])
    [fused], _ = optimizer._shared_out()
    assert fused.plan.buckets[0].chunk_count == 4


def test_one_launch_takes_norms_ahead_of_updates(monkeypatch, launches):
    monkeypatch.setattr(novograd_tables, "AHEAD", 100_000)
    sizes = [3, 20_000, 0, 30_000, 5000, 40_000, 1]
    parameters = [normal(size, i).requires_grad_() for i, size in enumerate(sizes)]
    optimizer = step_both(
        parameters, lambda step: [normal(size, 10 * step + i) for i, size in enumerate(sizes)], single_launch=True
    )
    assert launches == {"norms_and_update": 3}
    [fused], _ = optimizer._shared_out()
    [bucket] = fused.plan.buckets
    tasks, tensor_of = bucket.tasks.tolist(), bucket.chunks.tolist()[::2]
    assert sorted(tasks) == list(range(-bucket.chunk_count, bucket.chunk_count))
    for place, task in enumerate(tasks):
        if task < 0:  # an update: no norm of its tensor comes later
            assert all(tensor_of[later] != tensor_of[-1 - task] for later in tasks[place:] if later >= 0)
    first_update = next(place for place, task in enumerate(tasks) if task < 0)
    assert any(task >= 0 for task in tasks[first_update:])


def test_what_concerns_the_whole_step_takes_the_usual_launches(launches):
    parameter = normal(3000, 0).requires_grad_()
    parameter.grad = normal(3000, 1)
    for options in ({"max_grad_norm": 1.0}, {"skip_nonfinite": "step"}):
        NovoGrad([parameter], 0.1, fused=True, single_launch=True, **options).step()
    assert launches == {"norms": 2, "whole": 2, "update": 2}


def test_unaligned_tensors():
    whole, gradients = normal(6000, 0), normal(6000, 1)
    parameters = [whole[1:3001].requires_grad_(), whole[3002:6000].requires_grad_()]
    step_both(parameters, lambda step: [gradients[3:3003] * (step + 1), gradients[2:3000]])


def test_gradients_that_become_unaligned_are_noticed():
    store = normal(5001, 1)
    step_both([normal(5000, 0).requires_grad_()], lambda step: [store[:5000] if step == 0 else store[1:]])


@pytest.mark.parametrize("shape", [(20, 3, 5, 7), (4, 6, 1, 1), (3, 4, 2, 5, 6)])
@pytest.mark.parametrize("last", ["weight", "gradient", "both"])
def test_channels_last(shape, last):
    form = torch.channels_last if len(shape) == 4 else torch.channels_last_3d

    def turned(x, wanted):
        return x.to(memory_format=form) if last in (wanted, "both") else x

    parameter = turned(normal(shape, 0), "weight").requires_grad_()
    step_both([parameter], lambda step: [turned(normal(shape, 1 + step), "gradient")])


def test_holes_transposes_and_expanded_gradients():
    store = normal((40, 30), 0)
    parameters = [store[:, ::2].requires_grad_(), normal((30, 20), 1).t().requires_grad_()]
    step_both(parameters, lambda step: [normal((40, 1), step).expand(40, 15), normal((20, 30), 9 + step)])
    assert torch.equal(store[:, 1::2], normal((40, 30), 0)[:, 1::2])


def test_two_launches_for_everything_of_one_dtype(launches):
    shapes = [(), (0,), (5, 3), (40_000,), (6, 4, 3, 3), *[(7,)] * 50]
    parameters = [normal(shape, i).requires_grad_() for i, shape in enumerate(shapes)]
    parameters.append(normal(101, 99)[1:].requires_grad_())  # not aligned
    groups = [{"params": parameters[:20], "lr": 0.1, "weight_decay": 0.1}, {"params": parameters[20:], "lr": 0.3}]
    optimizer = NovoGrad(groups, 0.1, fused=True)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    parameters[4].grad = parameters[4].grad.to(memory_format=torch.channels_last)
    optimizer.step()
    assert launches == {"norms": 1, "update": 1}


def test_one_more_launch_for_clipping_and_two_more_for_a_second_dtype(launches):
    parameters = [normal(9, 0).requires_grad_(), normal(9, 1, torch.bfloat16).requires_grad_()]
    optimizer = NovoGrad(parameters, 0.1, fused=True, max_grad_norm=1.0)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert launches == {"norms": 2, "update": 2, "whole": 1}


def test_nothing_is_sent_to_the_device_when_nothing_changed(monkeypatch):
    parameters = [normal(9, i).requires_grad_() for i in range(4)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = NovoGrad(parameters, 0.1, fused=True)
    optimizer.step()
    sent = []
    original = novograd_tables.send
    monkeypatch.setattr(novograd_tables, "send", lambda values, *rest: sent.append(values) or original(values, *rest))
    optimizer.step()
    assert sent == []
    optimizer.param_groups[0]["lr"] = 0.2
    optimizer.step()
    assert sent == [[0.2]]
    addresses = [parameter.grad.data_ptr() for parameter in parameters]
    parameters[1].grad = parameters[1].grad.clone()
    addresses[1] = parameters[1].grad.data_ptr()
    if addresses[1] % 16 == parameters[0].grad.data_ptr() % 16:
        optimizer.step()
        assert sent[1:] == [addresses]


def test_v_is_one_vector_whose_elements_are_the_state():
    parameters = [normal(5, i).requires_grad_() for i in range(3)]
    optimizer = step_both(parameters, lambda step: [normal(5, 10 * step + i) for i in range(3)])
    seconds = [optimizer.state[p]["exp_avg_sq"] for p in parameters]
    assert len({s.untyped_storage().data_ptr() for s in seconds}) == 1
    assert all(s.dim() == 0 and s.dtype == torch.float32 for s in seconds)
    optimizer.load_state_dict(optimizer.state_dict())
    for parameter in parameters:
        parameter.grad = normal(5, 77)
    optimizer.step()
    seconds = [optimizer.state[p]["exp_avg_sq"] for p in parameters]
    assert len({s.untyped_storage().data_ptr() for s in seconds}) == 1


def test_a_frozen_tensor_that_thaws_later_and_the_same_bits_as_alone():
    frozen, other = normal(3000, 0).requires_grad_(), normal(50, 1).requires_grad_()
    alone = frozen.detach().clone().requires_grad_()
    together = NovoGrad([other, frozen], 0.1, fused=True)
    single = NovoGrad([alone], 0.1, fused=True)
    for step in range(8):
        other.grad = normal(50, 100 + step)
        frozen.grad = normal(3000, step) if step >= 5 else None
        together.step()
        if step >= 5:
            alone.grad = normal(3000, step)
            single.step()
    assert torch.equal(frozen, alone)
    assert torch.equal(together.state[frozen]["exp_avg_sq"], single.state[alone]["exp_avg_sq"])


def test_tensors_that_the_kernels_cannot_take_go_another_way():
    parameters = [
        normal(5, 0).requires_grad_(),
        normal((2,) * 6, 1).requires_grad_(),
        normal(5, 2, torch.float64).requires_grad_(),
        torch.randn(4, dtype=torch.complex64, requires_grad=True),
    ]
    clones = [p.detach().clone().requires_grad_() for p in parameters]
    mixed = NovoGrad(parameters, 0.1, fused=True, max_grad_norm=0.5)
    plain = NovoGrad(clones, 0.1, foreach=False, fused=False, max_grad_norm=0.5)
    for _ in range(3):
        for parameter, clone in zip(parameters, clones, strict=True):
            parameter.grad = torch.randn_like(parameter)
            clone.grad = parameter.grad.clone()
        mixed.step()
        plain.step()
    taken = [step.members for step in mixed._shared_out()[0] if isinstance(step, novograd_triton.FusedStep)]
    assert [len(members) for members in taken] == [1]
    for parameter, clone in zip(parameters, clones, strict=True):
        torch.testing.assert_close(parameter, clone, rtol=1e-5, atol=1e-6)


def test_a_tensor_rate_is_read_where_it_lies(launches):
    parameter, plain = normal(9, 0).requires_grad_(), normal(9, 0).requires_grad_()
    lr = torch.tensor(0.1)
    optimizer, other = NovoGrad([parameter], lr, fused=True), NovoGrad([plain], 0.1, fused=True)
    for step in range(3):
        parameter.grad, plain.grad = normal(9, 5 + step), normal(9, 5 + step)
        optimizer.step()
        other.step()
        lr.mul_(0.5)
        other.param_groups[0]["lr"] *= 0.5
    torch.testing.assert_close(parameter, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("setting", "expected"), [({}, "True"), ({"TRITON_INTERPRET": "0"}, "False")], ids=str)
def test_the_tests_interpret_the_kernels_unless_told_to_compile_them(setting, expected):
    """As `make test-gpu` does: interpreted kernels would leave CUDA tensors to another path."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | setting
    code = "import tests.conftest; from novobench.optim import novograd_kernels; print(novograd_kernels.interpreted())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr


@pytest.fixture(scope="module")
def instructions(tmp_path_factory):
    """Memory instructions of the kernels as compiled for sm_80 and sm_90."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.optim.ptx"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("dtype", "tiles"), [("fp32", 2), ("bf16", 1), ("fp16", 1)])
def test_whole_tiles_are_read_and_written_16_bytes_at_a_time(instructions, capability, dtype, tiles):
    """8 elements a thread: two 16-byte accesses in fp32, one in 2-byte types, for each of g; g, w and m; w and m."""
    norms, update, both = (
        instructions[f"{kernel} sm_{capability} {dtype}"] for kernel in ("norms", "update", "norms_and_update")
    )
    assert {name: n for name, n in both.items() if ".v4" in name} == {
        "ld.global.L1::evict_last.L2::cache_hint.v4.b32": tiles,
        "ld.global.L1::evict_first.L2::cache_hint.v4.b32": 3 * tiles,
        "st.global.v4.b32": 2 * tiles,
    }
    assert {"atom.global.gpu.release.add.u64", "ld.global.gpu.acquire.b64"} <= set(both)
    assert norms["ld.global.v4.b32"] == tiles
    assert update["ld.global.v4.b32"] == 3 * tiles
    assert update["st.global.v4.b32"] == 2 * tiles
    roundings = [name for name in update if name.startswith("cvt") and name.endswith(".f32")]
    assert bool(roundings) == (dtype != "fp32")
    assert all(name.startswith("cvt.rn.") for name in roundings)  # to nearest
