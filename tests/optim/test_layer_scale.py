"""NovoGrad with `layer_scale="rms"`: steps of equal RMS; `test_matrix` has its steps on all backends."""

import copy
import math
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from novobench.optim import NovoGrad, registry
from novobench.optim.novograd import foreach
from tests.optim.problems import EAGER_PATHS

SHAPES = [(), (7,), (5, 3), (4, 3, 2), (40, 30)]
RMS = {"layer_scale": "rms"}
path = pytest.mark.parametrize("path", [path.options for path in EAGER_PATHS.values()], ids=EAGER_PATHS)


def weights(dtype=torch.float32):
    return [random(shape, i, dtype).requires_grad_() for i, shape in enumerate(SHAPES)]


def random(shape, seed, dtype):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def give(parameters, step):
    for i, parameter in enumerate(parameters):
        parameter.grad = random(parameter.shape, 1000 * (step + 1) + i, parameter.dtype)


@path
def test_the_first_step_moves_each_tensor_by_the_rate_in_rms(path):
    """g / ‖g‖ has a norm of 1, so an RMS of 1 / √n; the paper's step has a norm of λ instead."""
    for options, size in ((RMS, lambda x: x.square().mean().sqrt()), ({}, torch.linalg.vector_norm)):
        parameters = weights()
        before = [parameter.detach().clone() for parameter in parameters]
        give(parameters, 0)
        NovoGrad(parameters, 0.125, **options, **path).step()
        for old, new in zip(before, parameters, strict=True):
            assert float(size(new.detach() - old)) == pytest.approx(0.125, rel=1e-5)


@path
@pytest.mark.parametrize(
    "options",
    [{"weight_decay": 0.1}, {"amsgrad": True, "grad_averaging": True}, {"update_clip": 0.3}, {"max_grad_norm": 1.5}],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_a_group_for_each_tensor_with_its_own_rate(path, options, dtype):
    """On a CPU with the same bits; the CUDA kernels multiply the rate by √n in fp32."""
    scaled, grouped = weights(dtype), weights(dtype)
    optimizer = NovoGrad(scaled, 0.01, **RMS, **options, **path)
    groups = [{"params": [parameter], "lr": 0.01 * math.sqrt(parameter.numel())} for parameter in grouped]
    paper = NovoGrad(groups, 0.01, **options, **path)
    exact = not path.get("fused")
    for step in range(3):
        give(scaled, step)
        give(grouped, step)
        optimizer.step()
        paper.step()
        for one, other in zip(scaled, grouped, strict=True):
            tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 2e-7, "atol": 2e-7}
            if not exact and dtype is torch.bfloat16:
                tolerance = {"rtol": 2**-7, "atol": 2**-10}
            torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize(("options", "factor"), [({}, 1 - 0.9), ({"grad_averaging": True}, 1.0)], ids=str)
def test_the_rate_that_takes_adams_steps(options, factor):
    """Under a steady gradient of one size, both moments reach their limits, and every weight moves by Adam's rate."""
    for shape in SHAPES:
        mine, adams = torch.zeros(shape, requires_grad=True), torch.zeros(shape, requires_grad=True)
        optimizers = (
            NovoGrad([mine], 0.01 * factor, (0.9, 0.25), **RMS, **options),
            torch.optim.Adam([adams], 0.01, (0.9, 0.999)),
        )
        gradient = random(shape, 0, torch.float32).sign()
        for step in range(150):
            for parameter, optimizer in zip((mine, adams), optimizers, strict=True):
                before, parameter.grad = parameter.detach().clone(), gradient
                optimizer.step()
                if step == 149:
                    torch.testing.assert_close(parameter.detach() - before, -0.01 * gradient, rtol=1e-3, atol=1e-6)


@path
def test_decoupled_weight_decay_keeps_the_rate(path):
    """With zero gradients after the first one and β₁ = 0, only decay moves the weights."""
    parameters = weights()
    optimizer = NovoGrad(parameters, 0.1, (0.0, 0.25), weight_decay=0.5, decoupled_weight_decay=True, **RMS, **path)
    give(parameters, 0)
    optimizer.step()
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before, parameters, strict=True):
        torch.testing.assert_close(new.detach(), 0.95 * old)


@path
def test_a_change_of_the_option_is_detected(path):
    parameters, others = weights(), weights()
    optimizer, plain = NovoGrad(parameters, 0.1, **path), NovoGrad(others, 0.1, **path)
    for step, value in enumerate((None, "rms", None)):
        optimizer.param_groups[0]["layer_scale"] = value
        before = [parameter.detach().clone() for parameter in parameters]
        give(parameters, step)
        give(others, step)
        optimizer.step()
        plain.step()
        for old, new, other in zip(before, parameters, others, strict=True):
            factor = math.sqrt(new.numel()) if value else 1.0
            move = optimizer.state[new]["exp_avg"] * 0.1 * factor
            torch.testing.assert_close(new.detach(), old - move, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(optimizer.state[new]["exp_avg"], plain.state[other]["exp_avg"])


@path
def test_another_value_in_a_group_is_rejected(path):
    parameters = weights()
    optimizer = NovoGrad([{"params": parameters, "layer_scale": "RMS"}], 0.1, **path)
    give(parameters, 0)
    with pytest.raises(ValueError, match="Invalid layer_scale value: 'RMS' .choose 'rms' or None"):
        optimizer.step()


def test_a_state_dict_names_the_option_only_where_it_is_set():
    assert "layer_scale" not in NovoGrad(weights(), 0.1).state_dict()["param_groups"][0]
    assert NovoGrad(weights(), 0.1, **RMS).state_dict()["param_groups"][0]["layer_scale"] == "rms"


@pytest.mark.parametrize(("saved", "own"), [({}, RMS), (RMS, {}), (RMS, RMS)], ids=str)
def test_a_loaded_state_brings_its_scale_along_with_its_rate(saved, own):
    """A rate for one scale is wrong by √n for the other."""
    parameters, copies = weights(), weights()
    optimizer, other = NovoGrad(parameters, 0.01, **saved), NovoGrad(copies, 0.3, **own)
    for step in range(2):
        give(parameters, step)
        optimizer.step()
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for mine, theirs in zip(parameters, copies, strict=True):
        theirs.data.copy_(mine.data)
    for optimizers in ((optimizer, other), (copy.deepcopy(optimizer), copy.deepcopy(other))):
        for one in optimizers:
            give(one.param_groups[0]["params"], 2)
            one.step()
        pairs = zip(*(one.param_groups[0]["params"] for one in optimizers), strict=True)
        assert all(torch.equal(one, two) for one, two in pairs)


def operations_of_a_step(path, options):
    """How often a step calls each of torch's operations."""

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called[function.name()] += 1
            return function(*args, **(kwargs or {}))

    parameters = [random(size, 0, torch.float32).requires_grad_() for size in (5, 5, 7, 9, 7, 5)]
    give(parameters, 0)
    optimizer = NovoGrad(parameters, 0.1, weight_decay=0.1, **options, **path)
    optimizer.step()
    called = Counter()
    with Counted():
        optimizer.step()
    return called


@pytest.mark.parametrize("name", ["reference", "foreach", "capturable", "cpu", "cuda"])
def test_a_step_takes_no_more_operations(name):
    path = EAGER_PATHS[name].options
    plain = operations_of_a_step(path, {})
    assert plain
    assert operations_of_a_step(path, RMS) == plain


def test_foreach_adds_a_launch_for_each_further_size(monkeypatch):
    """On devices where `_foreach` operations are launches: the last one takes one factor for all its tensors."""
    monkeypatch.setattr(foreach, "_WITHOUT_LAUNCHES", ())
    path = EAGER_PATHS["foreach"].options
    plain, scaled = operations_of_a_step(path, {}), operations_of_a_step(path, RMS)
    assert scaled - plain == {"aten::_foreach_add_.List": 2}
    assert not plain - scaled


def test_an_entry_has_it_by_default():
    parameters = weights()
    optimizer = registry.build("novograd_rms", parameters, lr=0.01, weight_decay=0.0)
    assert isinstance(optimizer, NovoGrad)
    assert optimizer.param_groups[0]["layer_scale"] == "rms"
    assert registry.guards_on_device("novograd_rms", optimizer)
    options = {"layer_scale": None, "moment_dtype": "bfloat16"}
    papers = registry.build("novograd_rms", parameters, lr=0.01, weight_decay=0.0, options=options)
    assert "layer_scale" not in papers.param_groups[0]
    assert papers.param_groups[0]["moment_dtype"] is torch.bfloat16
    with_rms = registry.build("novograd", parameters, lr=0.01, weight_decay=0.0, options=RMS)
    assert with_rms.param_groups[0]["layer_scale"] == "rms"


def test_the_entry_rejects_what_novograd_rejects():
    entry = registry.get("novograd_rms")
    with pytest.raises(ValueError, match="'optimizer.options.betas' of novograd_rms must be two numbers"):
        registry.validate(entry, entry.options(betas=[0.9]), 0.0)
