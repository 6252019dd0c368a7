"""NovoGrad with `moment_dtype=torch.bfloat16`: fp32 weights, exp_avg in 2 bytes, rounded stochastically."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from novobench.optim import NovoGrad, registry
from novobench.optim.novograd import rounding
from tests.optim.problems import EAGER_PATHS, OPTIONS
from tests.optim.reference import PaperNovoGrad

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy's, in the interpreter

PATHS = {name: path.options for name, path in EAGER_PATHS.items()}
path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
UNSCALED = {name: options.novograd for name, options in OPTIONS.items() if not (options.scaler or options.tensor_lr)}
UNSCALED |= {"betas 0": {"betas": (0.0, 0.0)}, "gradient clip": {"max_grad_norm": 1e6}}
BF16 = {"moment_dtype": torch.bfloat16}
SHAPES = [(), (7,), (5, 3), (0,), (4, 3, 2), (900,)]


def random(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(shapes=SHAPES):
    return [random(shape, i).requires_grad_() for i, shape in enumerate(shapes)]


def give(parameters, step):
    for i, parameter in enumerate(parameters):
        parameter.grad = random(parameter.shape, 100 * (step + 1) + i)


def neighbours(x):
    """The bf16 numbers on both sides of x, float64."""
    towards_zero = (np.float32(x).view(np.uint32) & 0xFFFF0000).view(np.float32).astype(np.float64)
    away = ((np.float32(x).view(np.uint32) & 0xFFFF0000) + np.uint32(0x10000)).view(np.float32).astype(np.float64)
    return np.minimum(towards_zero, away), np.maximum(towards_zero, away)


def assert_rounded(stored, exact):
    """One of the two neighbors; near a neighbor, fp32 arithmetic may end on its other side."""
    below, above = neighbours(exact)
    tolerance = 1e-6 * np.abs(exact).max(initial=1.0)
    is_neighbour = (stored == below) | (stored == above)
    assert (is_neighbour | (np.abs(stored - exact) < np.abs(above - below) + tolerance)).all()
    assert is_neighbour.sum() >= 0.98 * stored.size - 1


@path
@pytest.mark.parametrize("options", UNSCALED.values(), ids=UNSCALED)
def test_every_step_is_the_papers_except_for_the_rounding_of_m(path, options):
    """The reference takes the rounded m before each step. The weight moves by m as it was before rounding."""
    parameters = weights()
    shared = {"betas": (0.95, 0.25), "weight_decay": 0.1, **options}
    for_reference = {k: v for k, v in shared.items() if k not in ("skip_nonfinite", "max_grad_norm", "unscale_in_step")}
    references = [PaperNovoGrad(p, 0.02, **for_reference) for p in parameters]
    optimizer = NovoGrad(parameters, 0.02, **shared, **BF16, **path)
    for step in range(4):
        give(parameters, step)
        for parameter, reference in zip(parameters, references, strict=True):
            if step:
                reference.m = optimizer.state[parameter]["exp_avg"].double().numpy()
            reference.step(parameter.grad)
        optimizer.step()
        for parameter, reference in zip(parameters, references, strict=True):
            own = optimizer.state[parameter]
            assert (own["exp_avg"].dtype, own["exp_avg"].shape) == (torch.bfloat16, parameter.shape)
            assert_rounded(own["exp_avg"].double().numpy(), reference.m)
            np.testing.assert_allclose(parameter.detach().double(), reference.w, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(own["exp_avg_sq"], reference.v, rtol=1e-5)


@pytest.mark.parametrize("name", ["reference", "cpu", "cuda"])
def test_the_first_step_is_that_in_fp32_with_m_rounded_by_its_counter(name):
    """On each path the same bits, across the border of a row; later steps begin from a rounded m."""
    shapes = [(70_000,), (3, 4)]
    parameters, others = weights(shapes), weights(shapes)
    rounded = NovoGrad(parameters, 0.1, weight_decay=0.1, **BF16, **PATHS[name])
    exact = NovoGrad(others, 0.1, weight_decay=0.1, **PATHS[name])
    give(parameters, 0)
    give(others, 0)
    rounded.step()
    exact.step()
    for one, other in zip(parameters, others, strict=True):
        own, wanted = rounded.state[one], torch.empty_like(other, dtype=torch.bfloat16)
        rounding.stochastic_round(exact.state[other]["exp_avg"], int(own["rounding_counter"]) - 1, wanted)
        assert torch.equal(own["exp_avg"], wanted)
        assert torch.equal(one, other)


@path
def test_m_is_rounded_up_as_often_as_it_should_be(path):
    """With equal gradients all elements of m are the same number, a quarter of the way between two bf16 numbers."""
    parameter = torch.zeros(10_000, requires_grad=True)
    optimizer = NovoGrad([parameter], 0.0, eps=0.0, **BF16, **path)
    parameter.grad = torch.full((10_000,), (1 + 2**-9) / 100 / (1.0 / 128) * (1.0 / 128))
    parameter.grad[0] = 0.0
    optimizer.step()
    exact = float(parameter.grad[1] / parameter.grad.norm())
    below, above = neighbours(np.array(exact))
    moments = optimizer.state[parameter]["exp_avg"][1:].double()
    assert set(moments.tolist()) == {float(below), float(above)}
    share = (exact - below) / (above - below)
    ups = int((moments == float(above)).sum())
    assert abs(ups - len(moments) * share) < 5 * math.sqrt(len(moments) * share * (1 - share))


@pytest.mark.parametrize("name", ["reference", "cpu", pytest.param("cuda", marks=pytest.mark.slow)])
def test_m_goes_all_the_way_to_its_limit_where_rounding_to_nearest_stops_short(name):
    """With the same gradient in every step m → g / ‖g‖ / (1 - β₁). Rounded to nearest, it stops at a relative distance
    of 2⁻⁹ / (1 - β₁) to 2⁻⁸ / (1 - β₁), which is 2 to 4 %."""
    beta, steps, averaged = 0.9, 120, 40
    parameter = torch.zeros(600, requires_grad=True)
    parameter.grad = random(600, 0).abs() + 0.1
    optimizer = NovoGrad([parameter], 0.0, (beta, 0.25), **BF16, **PATHS[name])
    term = (parameter.grad / parameter.grad.norm()).double()
    limit = term / (1 - beta)
    nearest = torch.zeros(600, dtype=torch.bfloat16)
    mean = torch.zeros(600, dtype=torch.float64)
    for step in range(steps):
        optimizer.step()
        nearest = (beta * nearest.double() + term).bfloat16()
        if step >= steps - averaged:
            mean += optimizer.state[parameter]["exp_avg"].double() / averaged
    short = 1 - nearest.double() / limit
    assert 0.015 < short.min() < short.max() < 0.045
    assert 0.02 < short.mean() < 0.035
    assert abs(float((1 - mean / limit).mean())) < 0.0005


@path
def test_the_counter_counts_updates_and_distinguishes_tensors(path):
    parameters = weights([(5,), (5,), (5,)])
    optimizer = NovoGrad(parameters, 0.1, **BF16, **path)
    for step in range(4):
        give(parameters, step)
        if step == 1:
            parameters[0].grad = None
        if step == 2:
            parameters[1].grad[3] = float("inf")
        optimizer.step()
    counters = [optimizer.state[p]["rounding_counter"] for p in parameters]
    assert all(
        (c.dtype, c.shape, c.device) == (torch.int64, (), p.device) for c, p in zip(counters, parameters, strict=True)
    )
    assert [int(c) % 2**32 for c in counters] == [3, 3, 4]
    assert len({int(c) // 2**32 for c in counters}) == 3


@path
def test_equal_tensors_are_rounded_differently(path):
    parameters = [torch.zeros(1000, requires_grad=True) for _ in range(2)]
    optimizer = NovoGrad(parameters, 0.0, **BF16, **path)
    moments = []
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = random(1000, 0)
        optimizer.step()
        moments.append([optimizer.state[p]["exp_avg"].clone() for p in parameters])
    (one, other), _ = moments
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=2**-7, atol=0)


@path
@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
def test_a_copy_continues_with_the_same_bits(path, how):
    parameters = weights()
    optimizer = NovoGrad(parameters, 0.1, weight_decay=0.1, amsgrad=True, **BF16, **path)
    for step in range(2):
        give(parameters[1:] if step == 0 else parameters, step)  # the first one joins later
        optimizer.step()
    if how == "state_dict":
        copies = [p.detach().clone().requires_grad_() for p in parameters]
        other = NovoGrad(copies, 0.3, **BF16, **path)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    else:
        make = copy.deepcopy if how == "deepcopy" else lambda pair: pickle.loads(pickle.dumps(pair))
        copies, other = make((parameters, optimizer))
    for step in range(2, 4):
        give(parameters, step)
        give(copies, step)
        optimizer.step()
        other.step()
    for mine, theirs in zip(parameters, copies, strict=True):
        assert torch.equal(mine, theirs)
        torch.testing.assert_close(optimizer.state[mine], other.state[theirs], rtol=0, atol=0)


def trained(options, parameters=None):
    parameters = parameters or weights()
    optimizer = NovoGrad(parameters, 0.1, **options)
    for step in range(3):
        give(parameters, step)
        optimizer.step()
    return optimizer, parameters


def test_a_loaded_fp32_state_is_rounded_to_nearest_and_a_bf16_state_kept_exactly():
    wide, wide_parameters = trained({})
    narrow, narrow_parameters = trained(BF16)
    to_narrow, to_wide = NovoGrad(weights(), 0.1, **BF16), NovoGrad(weights(), 0.1)
    to_narrow.load_state_dict(wide.state_dict())
    to_wide.load_state_dict(narrow.state_dict())
    for old, new in zip(wide_parameters, to_narrow.param_groups[0]["params"], strict=True):
        own = to_narrow.state[new]
        assert torch.equal(own["exp_avg"], wide.state[old]["exp_avg"].bfloat16())
        assert own["rounding_counter"].dtype == torch.int64
    counters = [int(to_narrow.state[p]["rounding_counter"]) for p in to_narrow.param_groups[0]["params"]]
    assert len(set(counters)) == len(counters)
    for old, new in zip(narrow_parameters, to_wide.param_groups[0]["params"], strict=True):
        assert to_wide.state[new].keys() == {"exp_avg", "exp_avg_sq"}
        assert to_wide.state[new]["exp_avg"].dtype == torch.float32
        assert torch.equal(to_wide.state[new]["exp_avg"], narrow.state[old]["exp_avg"].float())
    for optimizer in (to_narrow, to_wide):
        give(optimizer.param_groups[0]["params"], 9)
        optimizer.step()


def test_by_default_the_state_dict_has_no_trace_of_it():
    default, parameters = trained({})
    fp32, others = trained({"moment_dtype": torch.float32})
    state = default.state_dict()
    assert all(own.keys() == {"exp_avg", "exp_avg_sq"} for own in state["state"].values())
    assert not [key for key in state["param_groups"][0] if "moment" in key or "round" in key]
    for mine, theirs in zip(parameters, others, strict=True):
        assert torch.equal(mine, theirs)
    torch.testing.assert_close(state, fp32.state_dict(), rtol=0, atol=0)


@path
def test_only_moments_of_fp32_parameters_are_rounded(path):
    kinds = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64]
    parameters = [torch.ones(6, dtype=dtype, requires_grad=True) for dtype in kinds]
    optimizer = NovoGrad(parameters, 0.1, **BF16, **path)
    alone = [torch.ones(6, dtype=dtype, requires_grad=True) for dtype in kinds[1:]]
    default = NovoGrad(alone, 0.1, **path)
    for step in range(3):
        for parameter in (*parameters, *alone):
            parameter.grad = random((6,), step).to(parameter.dtype)
        optimizer.step()
        default.step()
    assert [optimizer.state[p]["exp_avg"].dtype for p in parameters] == [torch.bfloat16, *kinds[1:]]
    assert ["rounding_counter" in optimizer.state[p] for p in parameters] == [True, *[False] * 4]
    for mine, theirs in zip(parameters[1:], alone, strict=True):
        assert torch.equal(mine, theirs)


@path
def test_layouts(path):
    """Transposed weights and gradients, channels-last, holes: every step is the reference's."""
    store = random((40, 30), 0)
    parameters = [
        store[:, ::2].requires_grad_(),
        random((30, 20), 1).t().requires_grad_(),
        random((4, 6, 3, 3), 2).to(memory_format=torch.channels_last).requires_grad_(),
        random((5, 7), 3).requires_grad_(),
    ]
    references = [PaperNovoGrad(p.detach(), 0.1, (0.9, 0.5), weight_decay=0.05) for p in parameters]
    optimizer = NovoGrad(parameters, 0.1, (0.9, 0.5), weight_decay=0.05, **BF16, **path)
    for step in range(3):
        parameters[0].grad = random((40, 1), step).expand(40, 15)
        parameters[1].grad = random((20, 30), 10 + step)
        parameters[2].grad = random((4, 6, 3, 3), 20 + step)
        parameters[3].grad = random((7, 5), 30 + step).t()
        for parameter, reference in zip(parameters, references, strict=True):
            if step:
                reference.m = optimizer.state[parameter]["exp_avg"].double().numpy()
            reference.step(parameter.grad)
        optimizer.step()
        for parameter, reference in zip(parameters, references, strict=True):
            assert_rounded(optimizer.state[parameter]["exp_avg"].double().numpy(), reference.m)
            np.testing.assert_allclose(parameter.detach().double(), reference.w, rtol=1e-5, atol=1e-5)
    assert torch.equal(store[:, 1::2], random((40, 30), 0)[:, 1::2])


@path
def test_state_takes_two_bytes_per_parameter(path):
    parameter = torch.zeros(100, 100, requires_grad=True)
    parameter.grad = torch.ones_like(parameter)
    optimizer = NovoGrad([parameter], 0.1, **BF16, **path)
    optimizer.step()
    own = optimizer.state[parameter]
    assert sum(value.numel() * value.element_size() for value in own.values()) == 2 * 10_000 + 4 + 8


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"fused": True, "max_grad_norm": 0.5}], ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_step_is_the_same_step(options):
    torch._dynamo.reset()
    parameters, others = weights([(5, 3), (40,)]), weights([(5, 3), (40,)])
    compiled = NovoGrad(parameters, torch.tensor(0.1), weight_decay=0.1, **BF16, **options)
    eager = NovoGrad(others, torch.tensor(0.1), weight_decay=0.1, **BF16, **options)
    step = torch.compile(compiled.step, backend="eager", fullgraph=True)
    for t in range(2):
        give(parameters, t)
        give(others, t)
        step()
        eager.step()
    for one, two in zip(parameters, others, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(compiled.state[one]["exp_avg"], eager.state[two]["exp_avg"], rtol=2**-6, atol=1e-5)
        assert compiled.state[one]["rounding_counter"] == eager.state[two]["rounding_counter"]


@pytest.mark.parametrize("value", [torch.float16, torch.float64, torch.int8, "bfloat16"], ids=str)
def test_other_dtypes_are_rejected(value):
    with pytest.raises(ValueError, match=f"Invalid moment_dtype value: {value}"):
        NovoGrad(weights(), 0.1, moment_dtype=value)


def test_a_config_names_the_dtype():
    parameters = weights()
    optimizer = registry.build("novograd", parameters, lr=0.1, weight_decay=0.0, options={"moment_dtype": "bfloat16"})
    give(parameters, 0)
    optimizer.step()
    assert {optimizer.state[p]["exp_avg"].dtype for p in parameters} == {torch.bfloat16}


@pytest.mark.slow
def test_a_training_ends_where_one_in_fp32_does():
    """Ten seeds of a small network: the losses' difference is within its own standard error and a small part of what
    seeds differ by."""
    losses = {None: [], torch.bfloat16: []}
    for seed in range(10):
        for dtype, found in losses.items():
            torch.manual_seed(seed)
            teacher = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
            net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
            optimizer = NovoGrad(net.parameters(), 0.02, weight_decay=1e-4, moment_dtype=dtype)
            for step in range(300):
                optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 300)
                x = torch.randn(64, 8)
                optimizer.zero_grad()
                (net(x) - teacher(x).detach()).square().mean().backward()
                optimizer.step()
            x = torch.randn(2000, 8)
            found.append((net(x) - teacher(x)).square().mean().log().item())
    fp32, bf16 = (np.array(found) for found in losses.values())
    differences = bf16 - fp32
    assert abs(differences.mean()) < 2.5 * differences.std(ddof=1) / math.sqrt(10)
    assert abs(differences.mean()) < 0.5 * fp32.std(ddof=1)
