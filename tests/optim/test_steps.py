"""All optimizers except NovoGrad (see `test_matrix`) with all options, step by step, against a float64 loop."""

import itertools

import numpy as np
import pytest
import torch

from novobench.optim import registry
from novobench.optim.built_in import BUILT_IN
from tests.optim import reference as ref

SHAPES = [(), (7,), (5, 3), (4, 3, 2)]
STEPS = 6
PAUSES = 3
"""The step, from 0, at which the first tensor has no gradient."""

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}
OPTIMIZERS = {
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
    "novograd_variant": (
        ref.PaperNovoGradVariant,
        (None,),
        [
            {"normalize": normalize, "initialize_second_moment": initialize, "betas": betas}
            for normalize in ("gradient", "moment")
            for initialize in (True, False)
            for betas in ([0.9, 0.98], [0.0, 0.0])
        ],
    ),
    "adafactor": (ref.PaperAdafactor, (None,), [{}, {"beta2_decay": -0.5}]),
}


def weights(dtype):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in SHAPES]


def check_steps(optimizer, parameters, references, dtype, *, joins=2, lr=0.02):
    """Steps with a falling rate; after each one weights and state are the references'. The last tensor has its first
    gradient at step `joins`, from 0."""
    tolerance = 1e-12 if dtype is torch.float64 else 1e-5
    for t in range(STEPS):
        generator = torch.Generator().manual_seed(1000 + t)
        now = lr * (1 - t / STEPS)
        for group in optimizer.param_groups:
            group["lr"] = now
        for i, (parameter, reference) in enumerate(zip(parameters, references, strict=True)):
            value = (1 + t % 4) * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
            takes_part = (i != len(parameters) - 1 or t >= joins) and (i != 0 or t != PAUSES)
            parameter.grad = value if takes_part else None
            if takes_part:
                reference.step(value, now)
        optimizer.step()
        for i, (parameter, reference) in enumerate(zip(parameters, references, strict=True)):
            state = {name: value for name, value in optimizer.state.get(parameter, {}).items() if name != "step"}
            actual = {name: value.double().numpy() for name, value in state.items() if value is not None}
            assert actual.keys() == reference.state.keys()
            for name, wanted in {**reference.state, "weight": reference.w}.items():
                got = parameter.detach().double().numpy() if name == "weight" else actual[name]
                where = f"{name} of tensor {i} after step {t + 1}"
                np.testing.assert_allclose(got, wanted, rtol=10 * tolerance, atol=tolerance, err_msg=where)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize(
    ("name", "implementation", "options"),
    [
        pytest.param(name, path, options, id=f"{name} {path or ''} {options}")
        for name, (_, implementations, all_options) in OPTIMIZERS.items()
        for path, options in itertools.product(implementations, all_options)
    ],
)
def test_steps(name, implementation, options, dtype):
    parameters = weights(dtype)
    references = [OPTIMIZERS[name][0](p, 0.1, **options) for p in parameters]
    chosen = options if implementation is None else {**options, "implementation": implementation}
    optimizer = registry.build(name, parameters, lr=0.02, weight_decay=0.1, options=chosen)
    joins = 0 if (name, implementation) == ("sgd", "fused") else 2  # torch's raises a TypeError if one joins late
    check_steps(optimizer, parameters, references, dtype, joins=joins)


def test_the_table_has_every_built_in_optimizer():
    """Except NovoGrad, see `test_matrix`; `test_rivals` has the optimizers of other packages."""
    assert {entry.name for entry in BUILT_IN if not entry.factory.endswith(":NovoGrad")} == OPTIMIZERS.keys()
