"""The Triton path in Triton's interpreter: sizes and layouts that its tables must handle, and its launches."""

import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from novobench.optim import NovoGrad
from novobench.optim.novograd import LaunchSettings, cuda, kernels, launch_plan
from novobench.optim.novograd.tuning import launch_kernel
from novobench.places import ROOT
from tests.optim.reference import PaperNovoGrad

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy's, in the interpreter

SETTINGS = {"betas": (0.9, 0.5), "weight_decay": 0.05}


def step_both(parameters, make_gradients, steps=3, tolerance=1e-5, **options):
    """Compare steps of the fused path with the paper's algorithm in float64; returns the optimizer."""
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

    def launch(kernel, programs, *arguments, **constants):
        counts[name_of(kernel)] += 1
        launch_kernel(kernel, programs, *arguments, **constants)

    monkeypatch.setattr(NovoGrad, "launch_settings", dataclasses.replace(NovoGrad.launch_settings, launch=launch))
    return counts


def name_of(kernel):
    return next(name for name in ("norms", "decide", "update", "norms_and_update") if getattr(kernels, name) is kernel)


@pytest.mark.parametrize("numel", [1, 2047, 2048, 2049, 16384, 16385, 40000])
def test_sizes_around_tiles_and_chunks(numel):
    step_both([normal(numel, 0).requires_grad_()], lambda step: [normal(numel, 1 + step)])


@pytest.fixture
def tuned(monkeypatch):
    """Change how the kernels divide their work: `tuned(chunk=64, block=64)`."""

    def change(**settings):
        default = NovoGrad.launch_settings
        tunings = {
            name: dataclasses.replace(getattr(default, name), **settings) for name in ("two_launches", "single_launch")
        }
        monkeypatch.setattr(NovoGrad, "launch_settings", dataclasses.replace(default, **tunings))

    return change


@pytest.mark.parametrize("single_launch", [False, True])
def test_the_last_chunk_adds_up_more_partials_than_a_tile_holds(single_launch, tuned):
    tuned(block=32, chunk=32)
    optimizer = step_both(
        [normal(17_000, 0).requires_grad_()], lambda step: [normal(17_000, 1 + step)], single_launch=single_launch
    )
    [backend] = optimizer._assign_backends()
    assert backend._plan.buckets[0].chunk_count == 532


@pytest.mark.parametrize("single_launch", [False, True])
@pytest.mark.parametrize("settings", [{"reverse": False}, {"evict": False}, {"block": 1024, "chunk": 4096}], ids=str)
def test_other_tunings_take_the_same_steps(settings, single_launch, tuned):
    tuned(**settings)
    sizes = [3, 20_000, 0, 9000]
    step_both(
        [normal(size, i).requires_grad_() for i, size in enumerate(sizes)],
        lambda step: [normal(size, 10 * step + i) for i, size in enumerate(sizes)],
        single_launch=single_launch,
    )


@pytest.mark.parametrize("name", ["norms", "decide", "update", "norms_and_update"])
def test_the_legend_has_every_argument_of_a_kernel(name):
    legend = set(re.findall(r"\w+", kernels.__doc__))
    assert set(getattr(kernels, name).arg_names) <= legend


def test_a_chunk_must_be_whole_tiles():
    with pytest.raises(ValueError, match="chunk 3000 is no multiple of block 2048"):
        dataclasses.replace(LaunchSettings().two_launches, chunk=3000)


def test_one_launch_takes_norms_ahead_of_updates(tuned, launches):
    tuned(ahead=4 * 4096 * 4)
    sizes = [3, 20_000, 0, 30_000, 5000, 40_000, 1]
    parameters = [normal(size, i).requires_grad_() for i, size in enumerate(sizes)]
    optimizer = step_both(
        parameters, lambda step: [normal(size, 10 * step + i) for i, size in enumerate(sizes)], single_launch=True
    )
    assert launches == {"norms_and_update": 3}
    [backend] = optimizer._assign_backends()
    [bucket] = backend._plan.buckets
    tasks, tensor_of = bucket.tasks.tolist(), bucket.chunks.tolist()[::2]
    assert sorted(tasks) == list(range(-bucket.chunk_count, bucket.chunk_count))
    last_norm = {tensor_of[task]: place for place, task in enumerate(tasks) if task >= 0}
    final = max(last_norm.values())
    for place, task in enumerate(tasks):
        if task < 0:
            own = last_norm[tensor_of[-1 - task]]
            between = sum(other >= 0 for other in tasks[own + 1 : place])
            assert place > own
            assert between >= 4 or place > final  # the norms of four more chunks, while there are any
    updates = [-1 - task for task in tasks if task < 0]
    assert all(a == b + 1 for a, b in itertools.pairwise(updates) if tensor_of[a] == tensor_of[b])
    assert any(task >= 0 for task in tasks[tasks.index(-1) :])  # the first update does not wait for all norms


def test_a_single_launch_after_steps_in_two_waits_for_its_own_norms(launches):
    """The counters of a single launch count only single launches."""
    parameter, other = normal(9000, 0).requires_grad_(), normal(9000, 0).requires_grad_()
    optimizer = NovoGrad([parameter], 0.1, fused=True, single_launch=True)
    plain = NovoGrad([other], 0.1, foreach=False, fused=False)
    for step in range(6):
        parameter.grad, other.grad = normal(9000, step), normal(9000, step)
        optimizer.skip_nonfinite = "step" if step % 2 else "tensor"
        optimizer.step()
        plain.step()
    assert launches == {"norms_and_update": 3, "norms": 3, "decide": 3, "update": 3}
    [backend] = optimizer._assign_backends()
    [bucket] = backend._plan.buckets
    assert (bucket.summed.tolist(), bucket.taken.tolist()) == ([3], [3 * 2 * bucket.chunk_count])
    torch.testing.assert_close(parameter, other, rtol=1e-5, atol=1e-6)


def test_every_launch_is_made_on_the_tensors_device(monkeypatch):
    """With tensors on cuda:1 and cuda:0 the current device, Triton would launch on cuda:0."""
    inside = []

    class Guard:
        def __enter__(self):
            inside.append(True)

        def __exit__(self, *_):
            inside.pop()

    seen = []
    settings = LaunchSettings(launch=lambda kernel, *_, **__: seen.append((name_of(kernel), bool(inside))))
    monkeypatch.setattr(NovoGrad, "launch_settings", settings)
    for module in (cuda, launch_plan):
        monkeypatch.setattr(module, "current_device", lambda device: Guard())
    parameter = normal(9, 0).requires_grad_()
    parameter.grad = normal(9, 1)
    NovoGrad([parameter], 0.1, fused=True, max_grad_norm=1.0).step()
    NovoGrad([parameter], 0.1, fused=True, single_launch=True).step()
    assert seen == [("norms", True), ("decide", True), ("update", True), ("norms_and_update", True)]


def test_a_grad_scaler_adds_no_work_for_the_device(monkeypatch):
    """The kernels read scale and found_inf themselves."""
    launched = []
    settings = LaunchSettings(launch=lambda kernel, *_, **__: launched.append(name_of(kernel)))
    monkeypatch.setattr(NovoGrad, "launch_settings", settings)
    parameter = normal(9, 0).requires_grad_()
    optimizer = NovoGrad([parameter], 0.1, fused=True, unscale_in_step=True)
    parameter.grad = normal(9, 1)
    optimizer.step()
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(0.0)

    class Computed(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            computed.append(function.name())
            return function(*args, **(kwargs or {}))

    computed = []
    with Computed():
        optimizer.step()
    assert [name for name in computed if not name.startswith("profiler::")] == []


def test_options_for_the_whole_step_need_the_usual_launches(launches):
    parameter = normal(3000, 0).requires_grad_()
    parameter.grad = normal(3000, 1)
    for options in ({"max_grad_norm": 1.0}, {"skip_nonfinite": "step"}):
        NovoGrad([parameter], 0.1, fused=True, single_launch=True, **options).step()
    assert launches == {"norms": 2, "decide": 2, "update": 2}


def test_gradients_that_become_unaligned_are_detected():
    store = normal(5001, 1)
    step_both([normal(5000, 0).requires_grad_()], lambda step: [store[:5000] if step == 0 else store[1:]])


def test_two_launches_for_everything_of_one_dtype(launches):
    shapes = [(), (0,), (5, 3), (40_000,), (6, 4, 3, 3), *[(7,)] * 50]
    parameters = [normal(shape, i).requires_grad_() for i, shape in enumerate(shapes)]
    parameters.append(normal(101, 99)[1:].requires_grad_())  # not aligned
    groups = [
        {"params": parameters[:20], "lr": 0.1, "weight_decay": 0.1},
        {"params": parameters[20:], "lr": 0.3, "layer_scale": "rms"},
    ]
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
    assert launches == {"norms": 2, "update": 2, "decide": 1}


def test_nothing_is_sent_to_the_device_when_nothing_changed(monkeypatch):
    parameters = [normal(9, i).requires_grad_() for i in range(4)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = NovoGrad(parameters, 0.1, fused=True)
    optimizer.step()
    sent = []
    original = launch_plan.send
    monkeypatch.setattr(launch_plan, "send", lambda values, *rest: sent.append(values) or original(values, *rest))
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


def test_a_tensor_that_is_unfrozen_later_gets_the_same_bits_as_alone():
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


def test_tensors_that_the_kernels_do_not_support_take_another_path():
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
    taken = [backend.members for backend in mixed._assign_backends() if isinstance(backend, cuda.CudaBackend)]
    assert [len(members) for members in taken] == [1]
    for parameter, clone in zip(parameters, clones, strict=True):
        torch.testing.assert_close(parameter, clone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("setting", "expected"), [({}, "True"), ({"TRITON_INTERPRET": "0"}, "False")], ids=str)
def test_the_tests_interpret_the_kernels_by_default(setting, expected):
    """`make test-gpu` compiles them: with interpreted kernels, CUDA tensors would take another path."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | setting
    code = "import tests.conftest; from novobench.optim.novograd import kernels; print(kernels.INTERPRETED)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr


def compiled(tmp_path_factory, *words):
    """What Triton and its ptxas make of the kernels, by kernel, dtypes and capability, a list of variants each."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.optim.compiled", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def plain_variants(tmp_path_factory):
    return compiled(tmp_path_factory, "--plain")


ROUNDED = ["fp32", "fp32", "bf16"]
"""Element types with which m is rounded stochastically."""


def assert_fills_the_chip(rows):
    """64 registers let four programs of eight warps share a multiprocessor; more would be spilled."""
    assert [row for row in rows if row["registers"] > 64 or row["stack"] > 0] == []


def assert_wide(row):
    """8 elements per thread: two 16-byte accesses in fp32, one in 2-byte types, for each of g; g, w and m; w and m.

    An update that rounds m has 4 elements per thread: one of 16 bytes in fp32, and one of 8 for m.
    """
    tiles = {name: 2 if name == "fp32" else 1 for name in ("fp32", "bf16", "fp16")}
    rounds = row["element_types"] == ROUNDED and row["kernel"] != "norms"
    if rounds:
        tiles = {"fp32": 1, "bf16": 0}
    weight, gradient, moment = (tiles[name] for name in row["element_types"])
    loads = {"norms": gradient, "update": weight + gradient + moment}
    loads["norms_and_update"] = loads["norms"] + loads["update"]
    stores = {"norms": 0, "update": weight + moment, "norms_and_update": weight + moment}
    wide = Counter()
    for name, count in row["instructions"].items():
        if ".v4" in name:
            wide[name[:2]] += count
        if ".v2" in name and rounds:
            wide[name[:2] + " half"] += count
    assert (wide["ld"], wide["st"]) == (loads[row["kernel"]], stores[row["kernel"]]), row
    assert (wide["ld half"], wide["st half"]) == (rounds, rounds), row


def assert_rounded_to_nearest(row):
    roundings = [name for name in row["instructions"] if name.startswith("cvt") and name.endswith(".f32")]
    assert all(name.startswith("cvt.rn.") for name in roundings)
    weight, _, moment = row["element_types"]
    rounds_to_nearest = row["element_types"] != ROUNDED and (weight, moment) != ("fp32", "fp32")
    assert bool(roundings) == (row["kernel"] != "norms" and rounds_to_nearest)


def test_plain_variants_are_compiled_to_fill_the_chip(plain_variants):
    assert {(row["kernel"], row["capability"]) for row in plain_variants} == {
        (kernel, capability) for kernel in ("norms", "decide", "update", "norms_and_update") for capability in (80, 90)
    }
    assert_fills_the_chip(plain_variants)
    for row in plain_variants:
        if row["kernel"] != "decide":
            assert_wide(row)
            assert_rounded_to_nearest(row)


def test_a_single_launch_releases_and_acquires_with_the_right_fences(plain_variants):
    for row in plain_variants:
        if row["kernel"] == "norms_and_update":
            assert {
                "atom.global.gpu.acq_rel.add.u64", "atom.global.gpu.release.add.u64", "ld.global.gpu.acquire.b64"
            } <= set(row["instructions"])  # fmt: skip
        if row["kernel"] == "norms":
            assert row["instructions"]["atom.global.gpu.acq_rel.add.u64"] == 1


@pytest.mark.slow
def test_every_variant_is_compiled_to_fill_the_chip(tmp_path_factory):
    rows = compiled(tmp_path_factory)
    assert len(rows) > 300
    assert_fills_the_chip(rows)
    for row in rows:
        if row["kernel"] != "decide":
            assert_wide(row)
            assert_rounded_to_nearest(row)
        assert row["waits_for_grid"] == ("OVERLAP" in row["flags"] and row["kernel"] == "update")
