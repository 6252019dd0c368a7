"""NovoGrad's implementations on a CPU: half precision, temporary memory, numbers read, launches saved."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from novobench.optim import NovoGrad
from novobench.optim.novograd import foreach, half
from tests.optim.problems import EAGER_PATHS, OPTIONS, PROBLEMS, check
from tests.optim.reference import PaperNovoGrad

PATHS = {
    "default": {},
    "reference": {"foreach": False, "fused": False},
    "capturable": {"capturable": True},
    "foreach": {"foreach": True},
}
path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
half_precision = pytest.mark.parametrize("dtype", half.DTYPES, ids=["fp16", "bf16"])


def normal(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_rounded_once(tensor, wanted):
    """Equal within half a unit in the last place of half precision, plus fp32 rounding errors."""
    wanted, kind = np.asarray(wanted), torch.finfo(tensor.dtype)
    rounding = kind.eps / 2 * np.maximum(np.abs(wanted), kind.tiny)
    assert (np.abs(tensor.detach().double().numpy() - wanted) <= 1.001 * rounding + 1e-6).all()


@path
@half_precision
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decoupled_weight_decay": True, "maximize": True},
        {"grad_averaging": True, "amsgrad": True},
        {"update_clip": 0.01},
        {"betas": (0.0, 0.0), "max_grad_norm": 1.0},
    ],
    ids=str,
)
def test_half_precision_is_rounded_once_per_step(path, dtype, options, monkeypatch):
    monkeypatch.setattr(half, "_BLOCK", 64)
    monkeypatch.setattr(half, "_of_thread", SimpleNamespace())
    shapes = [(), (7,), (31, 1), (64,), (13, 5, 17), (4, 3, 3, 3)]
    parameters = [normal(shape, i, dtype).requires_grad_() for i, shape in enumerate(shapes)]
    parameters[-1].data = parameters[-1].data.to(memory_format=torch.channels_last)
    settings = {"betas": (0.9, 0.5), "weight_decay": 0.1, **options}
    limit = settings.pop("max_grad_norm", None)
    optimizer = NovoGrad(parameters, 0.05, max_grad_norm=limit, **settings, **path)
    references = [PaperNovoGrad(p, 0.05, **settings) for p in parameters]
    for step in range(3):
        for i, (parameter, reference) in enumerate(zip(parameters, references, strict=True)):
            parameter.grad = normal(parameter.shape, 100 * step + i, dtype)
            reference.w = parameter.detach().double().numpy()
            if step:  # from the rounded state, as the next step shall begin there
                state = {name: value.double().numpy() for name, value in optimizer.state[parameter].items()}
                reference.m, reference.v = state["exp_avg"], state["exp_avg_sq"]
                reference.v_max = state.get("max_exp_avg_sq", 0.0)
        gradients = [p.grad.double() for p in parameters]
        total = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        clip = 1.0 if limit is None else min(1.0, limit / (total.item() + 1e-6))
        optimizer.step()
        for parameter, reference, gradient in zip(parameters, references, gradients, strict=True):
            reference.step(gradient * clip)
            assert_rounded_once(parameter, reference.w)
            assert_rounded_once(optimizer.state[parameter]["exp_avg"], reference.m)
            assert optimizer.state[parameter]["exp_avg_sq"].item() == pytest.approx(reference.v, rel=2e-6)


@path
@half_precision
def test_the_norm_of_a_large_tensor_of_half_precision(path, dtype):
    """More than one block, squares that overflow fp16, and gradients with holes, which are copied first."""
    parameters = [torch.zeros(3 * (1 << 17) + 7, dtype=dtype), torch.zeros(300, 5, dtype=dtype)]
    parameters[0].grad = normal(parameters[0].shape, 0, dtype) * 300
    parameters[1].grad = normal((300, 10), 1, dtype)[:, ::2] * 300
    optimizer = NovoGrad([p.requires_grad_() for p in parameters], 0.1, **path)
    optimizer.step()
    for parameter in parameters:
        square = np.square(parameter.grad.double().numpy()).sum()
        assert optimizer.state[parameter]["exp_avg_sq"].item() == pytest.approx(square, rel=1e-5)


@pytest.mark.parametrize("path", ["default", "reference", "foreach"])
def test_half_precision_with_gradients_of_another_dtype(path):
    (parameter,) = [normal((5, 40), 0, torch.bfloat16).requires_grad_()]
    parameter.grad_dtype = torch.float32
    optimizer = NovoGrad([parameter], 0.05, (0.9, 0.5), weight_decay=0.1, **PATHS[path])
    reference = PaperNovoGrad(parameter, 0.05, (0.9, 0.5), weight_decay=0.1)
    parameter.grad = normal((5, 40), 1)
    reference.step(parameter.grad)
    optimizer.step()
    assert_rounded_once(parameter, reference.w)
    assert_rounded_once(optimizer.state[parameter]["exp_avg"], reference.m)


@path
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("decoupled", [False, True])
def test_a_skipped_tensor_keeps_even_what_is_not_finite(path, dtype, decoupled):
    parameter = normal(9, 0, dtype).requires_grad_()
    optimizer = NovoGrad([parameter], 0.1, weight_decay=0.1, decoupled_weight_decay=decoupled, **path)
    parameter.grad = normal(9, 1, dtype)
    optimizer.step()
    with torch.no_grad():
        parameter[3] = float("inf")
        optimizer.state[parameter]["exp_avg"][4] = float("-inf")
    before = [parameter.detach().clone(), *(value.clone() for value in optimizer.state[parameter].values())]
    parameter.grad[5] = float("nan")
    optimizer.step()
    after = [parameter.detach(), *optimizer.state[parameter].values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=["fp32", "fp64", "bf16"])
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.5, "amsgrad": True, "grad_averaging": True}], ids=str)
def test_default_device_and_dtype_of_torch_change_nothing(path, dtype, options, monkeypatch):
    """A default device without numbers, and a default dtype of too little precision."""
    results = []
    for device, default in (("cpu", torch.float32), ("meta", torch.float16)):
        monkeypatch.setattr(half, "_of_thread", SimpleNamespace())
        parameters = [normal(shape, 0, dtype).requires_grad_() for shape in ((5, 3), (70,))]
        gradients = [[normal(p.shape, step, dtype) for p in parameters] for step in range(3)]
        optimizer = NovoGrad(parameters, 0.1, weight_decay=0.1, **options, **path)
        torch.set_default_dtype(default)
        try:
            with torch.device(device):
                for values in gradients:
                    for parameter, value in zip(parameters, values, strict=True):
                        parameter.grad = value
                    optimizer.step()
        finally:
            torch.set_default_dtype(torch.float32)
        results.append([parameters, *(optimizer.state[p] for p in parameters)])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def extra_bytes(optimizer):
    """The most memory that a step takes temporarily."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
        optimizer.step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    assert changes
    return max(itertools.accumulate(changes))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("dtype", "options", "copies"),
    [
        (torch.float32, {}, 0),
        (torch.float32, PATHS["reference"], 0),
        (torch.float32, {"update_clip": 0.01}, 0),
        (torch.float32, {**PATHS["reference"], "decoupled_weight_decay": True}, 0),
        (torch.float32, PATHS["foreach"], 0),
        (torch.float32, PATHS["capturable"], 1),
        (torch.float32, {**PATHS["capturable"], "decoupled_weight_decay": True, "grad_averaging": True}, 1),
        (torch.bfloat16, {}, 0),
        (torch.bfloat16, PATHS["reference"], 0),
        (torch.float16, PATHS["foreach"], 0),
    ],
    ids=str,
)
def test_temporary_memory_of_a_step(dtype, options, copies, layout):
    """In copies of the parameter. fp32 gradients may have another memory order than their parameters."""
    parameter = normal((64, 32, 16, 16), 0, dtype).requires_grad_()
    gradient = normal(parameter.shape, 1, dtype).to(memory_format=layout)
    if dtype is not torch.float32:
        parameter.data = parameter.data.to(memory_format=layout)
    optimizer = NovoGrad([parameter], 0.1, weight_decay=0.1, **options)
    for _ in range(2):
        parameter.grad = gradient
        optimizer.step()
    size = parameter.numel() * parameter.element_size()
    assert extra_bytes(optimizer) == pytest.approx(copies * size, abs=0.01 * size)


class NothingRead(TorchDispatchMode):
    """Fails if a number is read from a tensor, which on CUDA would wait for the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_capturable_step_reads_no_number(options):
    parameters = [torch.ones(shape, requires_grad=True) for shape in ((), (7,), (5, 3))]
    optimizer = NovoGrad(parameters, torch.tensor(0.1), capturable=True, **options.novograd)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    for _ in range(2):
        with NothingRead():
            optimizer.step()


@pytest.mark.parametrize("problem", ["usual", "fp64"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_foreach_as_on_a_device_whose_operations_are_launches(options, problem, monkeypatch):
    monkeypatch.setattr(foreach, "_WITHOUT_LAUNCHES", ())
    check(PROBLEMS[problem], options, (0.95, 0.25), EAGER_PATHS["foreach"])


def test_foreach_waits_and_launches_as_often_for_many_tensors_as_for_few(monkeypatch):
    monkeypatch.setattr(foreach, "_WITHOUT_LAUNCHES", ())

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(function.name())
            return function(*args, **(kwargs or {}))

    counts = []
    for count in (2, 9):
        parameters = [normal(5, i).requires_grad_() for i in range(count)]
        for parameter in parameters:
            parameter.grad = torch.ones(5)
        optimizer = NovoGrad(parameters, 0.1, weight_decay=0.1, amsgrad=True, foreach=True)
        optimizer.step()
        called = []
        with Counted():
            optimizer.step()
        counts.append(sorted(called))
    assert counts[0] == counts[1]
