"""Every optimizer with every option on every path, step by step, against an independent float64 loop."""

import itertools

import numpy as np
import pytest
import torch

from novobench.optim import NovoGrad, registry
from tests.optim import reference as ref

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy's, in the interpreter

SHAPES = [(), (7,), (5, 3), (4, 3, 2)]
STEPS = 6
PAUSES = 3
"""The step, from 0, at which the first tensor has no gradient."""

NOVOGRAD_PATHS = {
    "loop": {"foreach": False, "fused": False},
    "capturable": {"capturable": True},
    "foreach": {"foreach": True},
    "fused": {},
    "triton": {"fused": True},
    "single launch": {"fused": True, "single_launch": True},
}
DTYPES = {"fp32": torch.float32, "fp64": torch.float64}
PATHS_AND_DTYPES = [
    pytest.param(path, dtype, id=f"{path} {name}")
    for path, (name, dtype) in itertools.product(NOVOGRAD_PATHS, DTYPES.items())
    if name == "fp32" or path not in ("triton", "single launch")  # which do not take fp64
]
BETAS = list(itertools.product((0.95, 0.0), (0.25, 0.0)))
OPTIONS = [
    {},
    {"grad_averaging": True},
    {"amsgrad": True},
    {"eps_inside_sqrt": True},
    {"decoupled_weight_decay": True},
    {"maximize": True},
    {"update_clip": 0.01},
    {"skip_nonfinite": "step"},  # changes no finite step, but norms are all taken before it
    {"amsgrad": True, "grad_averaging": True, "maximize": True, "decoupled_weight_decay": True},
]
OTHERS = {
    "sgd": (
        ref.PaperSGD,
        ("loop", "foreach", "fused"),
        [{}, {"momentum": 0.0}, {"momentum": 0.5, "dampening": 0.5}, {"nesterov": True}],
    ),
    "adam": (
        ref.PaperAdam,
        ("loop", "foreach", "fused"),
        [{}, {"betas": [0.0, 0.9]}, {"betas": [0.9, 0.0]}, {"betas": [0.0, 0.0]}, {"amsgrad": True}],
    ),
    "adamw": (
        lambda *given, **options: ref.PaperAdam(*given, decoupled=True, **options),
        ("loop", "foreach", "fused"),
        [{}, {"betas": [0.0, 0.9]}, {"betas": [0.9, 0.0]}, {"betas": [0.0, 0.0]}, {"amsgrad": True}],
    ),
    "lars": (ref.PaperLARS, (None,), [{}, {"momentum": 0.0}, {"trust": 0.1}]),
    "normalized_sgd": (ref.PaperNormalizedSGD, (None,), [{"layer_wise": True, "momentum": m} for m in (0.0, 0.9)]),
    "adafactor": (ref.PaperAdafactor, (None,), [{}, {"beta2_decay": -0.5}]),
}


def weights(dtype):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in SHAPES]


def check_steps(optimizer, parameters, references, dtype, *, step=None, joins=2, lr=0.02):
    """Steps with a falling rate; after each one weights and state are the references'. The last tensor has its first
    gradient at step `joins`, from 0."""
    rate = optimizer.param_groups[0]["lr"]
    tolerance = 1e-12 if dtype is torch.float64 else 1e-5
    for t in range(STEPS):
        generator = torch.Generator().manual_seed(1000 + t)
        now = lr * (1 - t / STEPS)
        for group in optimizer.param_groups:
            group["lr"] = rate.fill_(now) if isinstance(rate, torch.Tensor) else now
        for i, (parameter, reference) in enumerate(zip(parameters, references, strict=True)):
            value = (1 + t % 4) * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
            takes_part = (i != len(parameters) - 1 or t >= joins) and (i != 0 or t != PAUSES)
            parameter.grad = value if takes_part else None
            if takes_part:
                reference.step(value, now)
        (step or optimizer.step)()
        for i, (parameter, reference) in enumerate(zip(parameters, references, strict=True)):
            state = {name: value for name, value in optimizer.state.get(parameter, {}).items() if name != "step"}
            found = {name: value.double().numpy() for name, value in state.items() if value is not None}
            assert found.keys() == reference.state.keys()
            for name, wanted in {**reference.state, "weight": reference.w}.items():
                got = parameter.detach().double().numpy() if name == "weight" else found[name]
                where = f"{name} of tensor {i} after step {t + 1}"
                np.testing.assert_allclose(got, wanted, rtol=10 * tolerance, atol=tolerance, err_msg=where)


@pytest.mark.parametrize("betas", BETAS, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("path", "dtype"), PATHS_AND_DTYPES)
def test_novograd(path, options, betas, dtype):
    parameters = weights(dtype)
    shared = {"betas": betas, "weight_decay": 0.1}
    for_reference = {name: value for name, value in options.items() if name != "skip_nonfinite"}
    references = [ref.PaperNovoGrad(p, 0.02, **shared, **for_reference) for p in parameters]
    optimizer = NovoGrad(parameters, 0.02, **shared, **options, **NOVOGRAD_PATHS[path])
    check_steps(optimizer, parameters, references, dtype)
    assert {optimizer.state[p]["exp_avg_sq"].dtype for p in parameters} == {dtype}


@pytest.mark.parametrize("options", [{}, {"fused": True}], ids=["loop", "operator"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_novograd(options):
    """All betas at once, a tensor each, the last with all options: tracing is slow."""
    torch._dynamo.reset()
    parameters = weights(torch.float32)
    settings = [{"betas": betas, "amsgrad": True} for betas in BETAS]
    settings[-1] |= {"grad_averaging": True, "eps_inside_sqrt": True, "decoupled_weight_decay": True, "maximize": True}
    references = [ref.PaperNovoGrad(p, 0.02, weight_decay=0.1, **s) for p, s in zip(parameters, settings, strict=True)]
    groups = [{"params": [p], **s} for p, s in zip(parameters, settings, strict=True)]
    optimizer = NovoGrad(groups, torch.tensor(0.02), weight_decay=0.1, **options)
    step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    check_steps(optimizer, parameters, references, torch.float32, step=step)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize(
    ("name", "implementation", "options"),
    [
        pytest.param(name, path, options, id=f"{name} {path or ''} {options}")
        for name, (_, implementations, all_options) in OTHERS.items()
        for path, options in itertools.product(implementations, all_options)
    ],
)
def test_others(name, implementation, options, dtype):
    parameters = weights(dtype)
    references = [OTHERS[name][0](p, 0.1, **options) for p in parameters]
    chosen = options if implementation is None else {**options, "implementation": implementation}
    optimizer = registry.build(name, parameters, lr=0.02, weight_decay=0.1, options=chosen)
    joins = 0 if (name, implementation) == ("sgd", "fused") else 2  # torch's raises a TypeError if one joins late
    check_steps(optimizer, parameters, references, dtype, joins=joins)


def test_the_table_has_every_registered_optimizer():
    assert {entry.name for entry in registry.entries()} == {"novograd", *OTHERS}
