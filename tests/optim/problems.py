"""The table that every NovoGrad backend must pass: problems × options × β₁, β₂ × paths, for `test_matrix`.

`check` runs one cell: after each step it compares weights, m and v with the float64 loop of `reference`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from novobench.optim import NovoGrad
from novobench.optim.novograd.backend import Backend
from novobench.optim.novograd.cpu import CpuBackend
from novobench.optim.novograd.cuda import CudaBackend
from novobench.optim.novograd.foreach import ForeachBackend
from novobench.optim.novograd.reference import ReferenceBackend
from tests.optim.reference import PaperNovoGrad, PaperNovoGradModel

STEPS = 4
LR = 0.02
GRAD_SCALE = 8.0
"""A power of two, so that scaling rounds nothing, and small enough for fp16 gradients."""
OVERFLOW_STEP = 2
"""The step, from 0, at which a GradScaler reports an inf somewhere else, such as on another device."""

# ------------------------------------------------------------------------------------------------ paths


@dataclass(frozen=True)
class Path:
    """How a backend is selected."""

    options: dict[str, Any]
    backend: type[Backend] | None = None
    """What takes fp32 tensors in an eager step."""
    compiler: str | None = None
    """A backend of torch.compile, for a compiled step."""


EAGER_PATHS = {
    "reference": Path({"foreach": False, "fused": False}, ReferenceBackend),
    "capturable": Path({"capturable": True}, ReferenceBackend),
    "foreach": Path({"foreach": True}, ForeachBackend),
    "cpu": Path({}, CpuBackend),
    "cuda": Path({"fused": True}, CudaBackend),
    "cuda single launch": Path({"fused": True, "single_launch": True}, CudaBackend),
}
COMPILED_PATHS = {
    "compiled reference": Path({}, compiler="aot_eager"),
    "compiled operator": Path({"fused": True}, compiler="aot_eager"),
}
INDUCTOR_PATHS = {
    "inductor reference": Path({}, compiler="inductor"),
    "inductor operator": Path({"fused": True}, compiler="inductor"),
}

# ------------------------------------------------------------------------------------------------ options


@dataclass(frozen=True)
class Options:
    """Options of NovoGrad, and the scaler of its gradients."""

    novograd: dict[str, Any] = field(default_factory=dict)
    scaler: str | None = None
    """`torch`: its GradScaler sets `grad_scale` and `found_inf`; `ours`: it sets `grad_scale`, the step finds infs."""
    tensor_lr: bool = False

    @property
    def needs_global_norm(self) -> bool:
        """Whether all norms are needed before the first update, which rules out a single launch."""
        whole_step = "max_grad_norm" in self.novograd or self.novograd.get("skip_nonfinite") == "step"
        return whole_step or self.scaler == "ours"


DECAY = {"weight_decay": 0.1}
BETAS = list(itertools.product((0.95, 0.0), (0.25, 0.0)))
OPTIONS = {
    "default": Options(),
    "decay": Options(DECAY),
    "decoupled decay": Options({**DECAY, "decoupled_weight_decay": True}),
    "averaging": Options({**DECAY, "grad_averaging": True}),
    "averaging, eps 0": Options({**DECAY, "grad_averaging": True, "eps": 0.0}),
    "amsgrad": Options({**DECAY, "amsgrad": True}),
    "eps inside": Options({"eps": 0.1, "eps_inside_sqrt": True}),
    "eps 0": Options({"eps": 0.0}),
    "maximize": Options({**DECAY, "maximize": True}),
    "update clip": Options({**DECAY, "update_clip": 0.01}),
    "update clip, decoupled": Options({**DECAY, "update_clip": 0.01, "decoupled_weight_decay": True}),
    "rms": Options({**DECAY, "layer_scale": "rms"}),
    "rms, decoupled": Options({**DECAY, "layer_scale": "rms", "decoupled_weight_decay": True}),
    "rms, update clip": Options({**DECAY, "layer_scale": "rms", "update_clip": 0.1}),
    "gradient clip": Options({**DECAY, "max_grad_norm": 1.5}),
    "skip step": Options({**DECAY, "skip_nonfinite": "step"}),
    "torch's scaler": Options({**DECAY, "unscale_in_step": True}, "torch"),
    "our scaler": Options({**DECAY, "unscale_in_step": True}, "ours"),
    "our scaler, clip": Options({**DECAY, "unscale_in_step": True, "max_grad_norm": 1.5}, "ours"),
    "tensor rate": Options(DECAY, tensor_lr=True),
    "all": Options(
        {
            **DECAY,
            "grad_averaging": True,
            "amsgrad": True,
            "eps_inside_sqrt": True,
            "decoupled_weight_decay": True,
            "maximize": True,
            "max_grad_norm": 1.5,
            "unscale_in_step": True,
            "layer_scale": "rms",
        },
        "torch",
        tensor_lr=True,
    ),
}

# ------------------------------------------------------------------------------------------------ problems


def normal(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers; complex ones for a complex dtype."""
    generator = torch.Generator().manual_seed(seed)
    precise = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, generator=generator, dtype=precise).to(dtype)


def steady_gradient(step: int, i: int, weight: Tensor) -> Tensor:
    """Normal, with a scale that changes from step to step."""
    return (1 + step % 4) * normal(weight.shape, 1000 * (step + 1) + i, weight.dtype)


@dataclass(frozen=True)
class Problem:
    """Tensors, and the gradient of each at each step."""

    weights: Callable[[], list[Tensor]]
    gradient: Callable[[int, int, Tensor], Tensor | None] = steady_gradient
    """Of a step and a tensor, both by number, and the tensor: its gradient, if it has any."""
    groups: Sequence[dict[str, Any]] = ()
    """Options of the group of each tensor; by default there is one group."""
    first_rate: float = 1.0
    """Factor of the rate at the first step."""


def problem(
    *shapes: Sequence[int],
    dtype: torch.dtype = torch.float32,
    gradient: Callable[[int, int, Tensor], Tensor | None] = steady_gradient,
    groups: Sequence[dict[str, Any]] = (),
) -> Problem:
    return Problem(lambda: [normal(shape, i, dtype) for i, shape in enumerate(shapes)], gradient, groups)


def sized(size: float) -> Callable[[int, int, Tensor], Tensor]:
    return lambda step, i, weight: size * steady_gradient(step, i, weight)


def interrupted_gradient(step: int, i: int, weight: Tensor) -> Tensor | None:
    """None for the first tensor at one step, for the second at the first two, for the third always."""
    missing = (i == 0 and step == 1) or (i == 1 and step < 2) or i == 2
    return None if missing else steady_gradient(step, i, weight)


def sometimes_zero_gradient(step: int, i: int, weight: Tensor) -> Tensor:
    """Zero for the first tensor at the first two steps, for the second at a later one, for the third always."""
    zero = (i == 0 and step < 2) or (i == 1 and step == 2) or i == 2
    return torch.zeros_like(weight) if zero else steady_gradient(step, i, weight)


def zero_gradient_of_the_first(step: int, i: int, weight: Tensor) -> Tensor:
    """Zero for the first tensor at the first step: so torch.distributed.checkpoint creates state, with rate 0."""
    return torch.zeros_like(weight) if (step, i) == (0, 0) else steady_gradient(step, i, weight)


def sometimes_nonfinite_gradient(step: int, i: int, weight: Tensor) -> Tensor:
    """One inf in the first tensor's first gradient, one NaN in the second tensor's third."""
    gradient = steady_gradient(step, i, weight)
    if (step, i) in ((0, 0), (2, 1)):
        gradient.view(-1)[-1] = float("inf" if i == 0 else "nan")
    return gradient


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


LAYOUT_SHAPES = [(8, 5, 3, 3), (4, 6, 1, 1), (2, 3, 2, 5, 6)]
"""The largest have more elements than a tile of the CUDA kernels for strided tensors."""


def channels_last_weights() -> list[Tensor]:
    """Each shape three times: the weight, the gradient, or both are channels-last."""
    weights = [normal(shape, i) for i, shape in enumerate(LAYOUT_SHAPES)]
    return [w if which == "gradient" else channels_last(w) for w in weights for which in ("weight", "gradient", "both")]


def channels_last_gradient(step: int, i: int, weight: Tensor) -> Tensor:
    gradient = steady_gradient(step, i, weight)
    return gradient if i % 3 == 0 else channels_last(gradient)


def strided_weights() -> list[Tensor]:
    """With holes, transposed, not aligned to 16 bytes, and dense ones for strided gradients."""
    return [
        normal((30, 20), 0)[:, ::2],
        normal((5, 3), 1).t(),
        normal((3001,), 2)[1:],
        *(normal((6, 4), i) for i in (3, 4, 5)),
    ]


def strided_gradient(step: int, i: int, weight: Tensor) -> Tensor:
    """Dense ones for strided weights; then with holes, transposed and expanded."""
    if i < 3:
        return steady_gradient(step, i, weight)
    seed = 1000 * (step + 1) + i
    return (normal((6, 8), seed)[:, 1::2], normal((4, 6), seed).t(), normal((6, 1), seed).expand(6, 4))[i - 3]


def mixed_weights() -> list[Tensor]:
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.float32)
    return [normal((5, 3), i, dtype) for i, dtype in enumerate(dtypes)]


OWN_OPTIONS = (
    {},
    {"lr": 0.05, "betas": (0.0, 0.25)},
    {"betas": (0.95, 0.0), "weight_decay": 0.2},
    {"betas": (0.0, 0.0), "weight_decay": 0.2, "decoupled_weight_decay": True},
    {"weight_decay": 0.2, "grad_averaging": True, "maximize": True},
    {"eps": 0.1, "eps_inside_sqrt": True},
    {"layer_scale": "rms"},
)
PROBLEMS = {
    "usual": problem((), (7,), (5, 3), (4, 3, 2)),
    "sizes": problem((0,), (0, 4), (1,), (1, 1), (2,) * 6, (9001,), (3, 700)),
    "channels-last": Problem(channels_last_weights, channels_last_gradient),
    "strided": Problem(strided_weights, strided_gradient),
    "fp64": problem((), (7,), (5, 3), dtype=torch.float64),
    "bf16": problem((), (7,), (5, 3), (0,), dtype=torch.bfloat16),
    "fp16": problem((), (100,), (5, 3), dtype=torch.float16, gradient=sized(64.0)),  # 640² does not fit into fp16
    "complex64": problem((), (7,), (5, 3), dtype=torch.complex64),
    "complex128": problem((7,), (5, 3), dtype=torch.complex128),
    "mixed dtypes": Problem(mixed_weights),
    "groups": problem(*[(3, 2)] * len(OWN_OPTIONS), groups=OWN_OPTIONS),
    "amsgrad in one group": problem((3, 2), (3, 2), groups=({"amsgrad": True}, {"amsgrad": False})),
    "update clip in one group": problem((3, 2), (3, 2), groups=({"update_clip": 0.01}, {"update_clip": None})),
    "layer scale in one group": problem((3, 2), (3, 2), groups=({"layer_scale": "rms"}, {"layer_scale": None})),
    "missing gradients": problem((3,), (5, 3), (2, 2), (4,), gradient=interrupted_gradient),
    "tiny gradients": problem((7,), (5, 3), gradient=sized(1e-15)),
    "huge gradients": problem((7,), (5, 3), gradient=sized(1e15)),
    "zero gradients": problem((7,), (5, 3), (2, 2), (4,), gradient=sometimes_zero_gradient),
    "zero first rate": Problem(
        lambda: [normal((7,), 0), normal((5, 3), 1)], zero_gradient_of_the_first, first_rate=0.0
    ),
    "nonfinite gradients": problem((7,), (5, 3), (2, 2), gradient=sometimes_nonfinite_gradient),
}

# ------------------------------------------------------------------------------------------------ the check

TOLERANCES = {
    torch.float64: 1e-12,
    torch.complex128: 1e-12,
    torch.float32: 1e-5,
    torch.complex64: 1e-5,
    torch.float16: 2**-11,
    torch.bfloat16: 2**-7,  # Triton's interpreter cuts off where a GPU rounds; `test_fused` reads the rounding in PTX
}
"""Of w and m, relative. Half-precision tensors are compared after one step from the same w and m: that is one rounding.
"""
HALF = (torch.float16, torch.bfloat16)


def check(problem: Problem, options: Options, betas: tuple[float, float], path: Path) -> None:
    """Run one cell of the table. Raises AssertionError if it differs from the reference."""
    weights = problem.weights()
    holes = [_holes(weight) for weight in weights]
    parameters = [weight.requires_grad_() for weight in weights]
    shared = {"lr": LR, "betas": betas, **options.novograd}
    groups = problem.groups or [{}] * len(parameters)
    own = [{**shared, **group, "elements": p.numel()} for p, group in zip(parameters, groups, strict=True)]
    whole_step = {name: shared[name] for name in ("max_grad_norm", "skip_nonfinite") if name in shared}
    paper = PaperNovoGradModel([_real(p) for p in parameters], own, **whole_step)
    precise = [p.dtype in (torch.float64, torch.complex128) for p in parameters]
    if "max_grad_norm" in shared and not all(precise):
        precise = [False] * len(precise)  # the global norm is as precise as that of the fp32 gradients
    optimizer = _optimizer(problem, parameters, shared, path, tensor_lr=options.tensor_lr)
    step = optimizer.step
    if path.compiler is not None:
        torch._dynamo.reset()
        step = torch.compile(optimizer.step, backend=path.compiler, fullgraph=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    base_rates = [float(rate) for rate in rates]

    for t in range(STEPS):
        for group, rate, base in zip(optimizer.param_groups, rates, base_rates, strict=True):
            now = base * (1 - t / STEPS) * (1.0 if t else problem.first_rate)
            group["lr"] = rate.fill_(now) if isinstance(rate, Tensor) else now
        scale = 1.0 if options.scaler is None else GRAD_SCALE
        gradients = [problem.gradient(t, i, p.detach()) for i, p in enumerate(parameters)]
        gradients = [g if g is None or scale == 1.0 else g * scale for g in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else _copy(gradient)
        finite = all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients)
        found_inf = None
        if options.scaler is not None:
            optimizer.grad_scale = torch.tensor(GRAD_SCALE)
        if options.scaler == "torch":
            found_inf = t == OVERFLOW_STEP or not finite
            optimizer.found_inf = torch.tensor(float(found_inf))
        for i, parameter in enumerate(parameters):
            if parameter.dtype in HALF:
                paper.take_over(i, parameter, optimizer.state.get(parameter, {}))
        before = [_snapshot(optimizer, parameter) for parameter in parameters]

        step()
        rate_of = [float(group["lr"]) for group in optimizer.param_groups for _ in group["params"]]
        moved = paper.step(
            [None if g is None else _real(g) for g in gradients],
            rate_of,
            grad_scale=scale if options.scaler else None,
            found_inf=found_inf,
        )
        if options.scaler == "ours":
            assert bool(optimizer.found_inf) == (not finite)
        for name in ("grad_scale", "found_inf"):
            optimizer.__dict__.pop(name, None)

        for i, parameter in enumerate(parameters):
            where = f"tensor {i} after step {t + 1}"
            if gradients[i] is not None:
                torch.testing.assert_close(parameter.grad, gradients[i], rtol=0, atol=0, equal_nan=True)
            if moved[i]:
                amsgrad = own[i].get("amsgrad", False)
                _compare(optimizer, parameter, paper.tensors[i], amsgrad=amsgrad, precise=precise[i], where=where)
            else:
                _check_unchanged(optimizer, parameter, before[i], had_gradient=gradients[i] is not None, where=where)
    for weight, hole in zip(weights, holes, strict=True):
        assert torch.equal(_holes(weight), hole), "memory between the elements of a weight was written"


def _optimizer(
    problem: Problem, parameters: list[Tensor], shared: dict[str, Any], path: Path, *, tensor_lr: bool
) -> NovoGrad:
    """The optimizer of a cell. A compiled step needs tensor rates: another number would be another graph."""
    tensors = tensor_lr or path.compiler is not None
    groups: list[Any] = list(parameters)
    if problem.groups:
        groups = [{"params": [p], **group} for p, group in zip(parameters, problem.groups, strict=True)]
        for group in groups:
            group["lr"] = torch.tensor(group.get("lr", LR)) if tensors else group.get("lr", LR)
    return NovoGrad(groups, **{**shared, "lr": torch.tensor(LR) if tensors else LR}, **path.options)


def _compare(
    optimizer: NovoGrad, parameter: Tensor, paper: PaperNovoGrad, *, amsgrad: bool, precise: bool, where: str
) -> None:
    """Weight and state against the float64 loop. `precise`: the step can be as precise as fp64."""
    state, tolerance = optimizer.state[parameter], TOLERANCES[parameter.dtype]
    if not precise:
        tolerance = max(tolerance, TOLERANCES[torch.float32])
    for name, value, expected in (("weight", parameter, paper.w), ("exp_avg", state["exp_avg"], paper.m)):
        found = _real(value).double().numpy()
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=f"{name} of {where}")
    assert state["exp_avg"].dtype is parameter.dtype
    tolerance = TOLERANCES[torch.float64 if precise else torch.float32]
    for name, expected in (("exp_avg_sq", paper.v), *([("max_exp_avg_sq", paper.v_max)] if amsgrad else [])):
        double = parameter.dtype in (torch.float64, torch.complex128)
        assert state[name].dtype is (torch.float64 if double else torch.float32)
        np.testing.assert_allclose(float(state[name]), expected, rtol=tolerance, atol=0, err_msg=f"{name} of {where}")


def _check_unchanged(
    optimizer: NovoGrad, parameter: Tensor, before: dict[str, Tensor], *, had_gradient: bool, where: str
) -> None:
    """Same bits; a skipped gradient may have created a state, but an empty one."""
    after = _snapshot(optimizer, parameter)
    if "exp_avg" not in before and "exp_avg" in after:
        assert had_gradient, f"{where} has a state without ever having had a gradient"
        assert float(after.pop("exp_avg_sq")) == -1.0, where
        assert not after.pop("exp_avg").any(), where
        assert not after.pop("max_exp_avg_sq", torch.zeros(())).any(), where
    assert after.keys() == before.keys(), where
    for name, value in before.items():
        assert torch.equal(after[name], value), f"{name} of {where} changed"


def _snapshot(optimizer: NovoGrad, parameter: Tensor) -> dict[str, Tensor]:
    state = optimizer.state.get(parameter, {})
    return {"weight": parameter.detach().clone(), **{name: value.clone() for name, value in state.items()}}


def _real(x: Tensor) -> Tensor:
    x = x.detach()
    return torch.view_as_real(x) if x.is_complex() else x


def _copy(x: Tensor) -> Tensor:
    """A copy that lies in memory as x does, holes and overlaps included."""
    copy = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    whole = torch.as_strided(x, (x.untyped_storage().nbytes() // x.element_size() - x.storage_offset(),), (1,))
    if x.numel():
        flat = torch.as_strided(copy, (copy.untyped_storage().nbytes() // x.element_size(),), (1,))
        flat.copy_(whole[: len(flat)])
    return copy


def _holes(x: Tensor) -> Tensor:
    """The numbers in x's memory that are not elements of x."""
    x = x.detach()
    size = x.untyped_storage().nbytes() // x.element_size()
    own = torch.arange(size).as_strided(x.shape, x.stride(), x.storage_offset()).reshape(-1)
    others = torch.ones(size, dtype=torch.bool)
    others[own] = False
    return torch.as_strided(x, (size,), (1,), 0)[others].clone()
