"""What the implementations of the NovoGrad step share: their interface, the state, and what scales the gradients.

Symbols: g gradient, w weight, m first moment (`exp_avg`), v second moment (`exp_avg_sq`, one number per tensor), λ
rate, d weight decay. s is what the raw gradient is multiplied by before anything else: 1 / grad scale × clip factor.
With n = (s·‖g‖)² and D = √v + ε a step is

    v ← β₂·v + (1 - β₂)·n          v = n at the first step
    m ← β₁·m + a·(s·g / D + d·w)   a = 1 - β₁ with gradient averaging after the first step, else 1
    w ← w - λ·m                    r·λ instead of λ with `layer_scale="rms"`: r = √n, n the number of elements of w
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from novobench.optim.novograd import rounding, sharding

Group = dict[str, Any]
"""One of an optimizer's `param_groups`."""
State = dict[Tensor, dict[str, Any]]
"""An optimizer's `state`."""


class Backend(Protocol):
    """The step of some of an optimizer's parameters by one implementation.

    `dispatch` makes it and keeps it for the steps to come. Each step calls `prepare`; if that returns True, `clip` or
    `square_norm` where the global norm decides about the step; then `update`.
    """

    def is_current(self) -> bool:
        """Whether the optimizer's state still holds the tensors that this backend remembers."""
        ...

    def prepare(self) -> bool:
        """Look up gradients and make missing state. Returns whether any parameter has a gradient."""
        ...

    def square_norm(self) -> Tensor:
        """The square of the norm of all its gradients, 0-d float64 on their device. `update` then uses these norms."""
        ...

    def clip(self, scaling: GradScaling, max_grad_norm: float | None) -> GradScaling:
        """`GradScaling.clip` for a backend that has all gradients; it may know a faster way."""
        return scaling.decide([self.square_norm()], max_grad_norm)

    def update(self, scaling: GradScaling) -> None:
        """Move v, m and w, and forget the gradients."""
        ...


class ParamState(NamedTuple):
    """A parameter with its gradient and state. Complex tensors are real views, sharded ones this process's part."""

    weight: Tensor
    grad: Tensor
    exp_avg: Tensor
    """m, with the weight's shape, and its dtype unless `moment_dtype` is another."""
    exp_avg_sq: Tensor
    """v, 0-d, see `second_moment_dtype`; -1 before the first step."""
    max_exp_avg_sq: Tensor | None
    """The largest v so far, with amsgrad."""
    dtensor: Tensor | None = None
    """The parameter as a whole, if it is sharded."""
    rounding_counter: Tensor | None = None
    """The counter behind the random bits that round m to bf16, 0-d int64, see `rounding`; None without rounding."""
    rate_scale: float = 1.0
    """r: what multiplies the rate at which m moves the weight."""


def second_moment_dtype(parameter: Tensor) -> torch.dtype:
    """fp64 for fp64 parameters, and fp32 for all others, those of half precision included."""
    return torch.float64 if parameter.dtype in (torch.float64, torch.complex128) else torch.float32


def rate_scale_squared(parameter: Tensor, group: Group) -> int:
    """r²: 1, or with `layer_scale="rms"` the number of elements of the whole parameter, all its shards included."""
    scale = group.get("layer_scale")
    if scale not in (None, "rms"):
        raise ValueError(f"Invalid layer_scale value: {scale!r} (choose 'rms' or None)")
    return parameter.numel() if scale == "rms" else 1


def rate_scale(parameter: Tensor, group: Group) -> float:
    """r, as a number for backends whose rate is one."""
    return math.sqrt(rate_scale_squared(parameter, group))


def init_state(
    parameter: Tensor,
    group: Group,
    state: State,
    exp_avg_sq: Tensor | None = None,
    max_exp_avg_sq: Tensor | None = None,
    rounding_counter: Tensor | None = None,
) -> None:
    """Create the state of a parameter that has its first gradient.

    v, the largest v and the counter are new tensors, or the 0-d arguments, which are elements of a backend's vectors.
    Raises RuntimeError for a sparse gradient.
    """
    assert parameter.grad is not None
    if parameter.grad.layout is not torch.strided:
        raise RuntimeError("NovoGrad does not support sparse gradients")
    own, device = state[parameter], sharding.local(parameter).device
    dtype = torch.bfloat16 if rounding.applies(parameter, group) else None
    own["exp_avg"] = torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format)
    if exp_avg_sq is None:
        exp_avg_sq = torch.full((), -1.0, dtype=second_moment_dtype(parameter), device=device)
    own["exp_avg_sq"] = exp_avg_sq
    if max_exp_avg_sq is None and group["amsgrad"]:
        max_exp_avg_sq = torch.zeros_like(exp_avg_sq)
    if max_exp_avg_sq is not None:
        own["max_exp_avg_sq"] = max_exp_avg_sq
    if dtype is not None:
        if rounding_counter is None:
            rounding_counter = torch.zeros((), dtype=torch.int64, device=device)
        own["rounding_counter"] = rounding_counter.fill_(rounding.first_counter(len(state)))


def param_states(members: Iterable[tuple[Group, Tensor, float]], state: State) -> list[tuple[Group, ParamState]]:
    """The parameters that have a gradient, with their state, which is created if it is missing. Members come with r."""
    with_grad = []
    for group, parameter, scale in members:
        grad = parameter.grad
        if grad is None:
            continue
        own = state[parameter]
        if not own:
            init_state(parameter, group, state)
        elif group["amsgrad"] and "max_exp_avg_sq" not in own:
            own["max_exp_avg_sq"] = torch.zeros_like(own["exp_avg_sq"])
        weight, exp_avg, dtensor = parameter, own["exp_avg"], None
        if torch.compiler.is_compiling():
            own = {name: writable_in_graph(x) for name, x in own.items()}
            weight, exp_avg = writable_in_graph(weight), own["exp_avg"]
        if sharding.is_sharded(parameter):
            grad, dtensor = sharding.like(grad, parameter), parameter
            weight, exp_avg = sharding.local(parameter), sharding.local(exp_avg)
        if weight.is_complex():
            weight, grad, exp_avg = (torch.view_as_real(x) for x in (weight, grad, exp_avg))
        v, v_max, counter = own["exp_avg_sq"], own.get("max_exp_avg_sq"), own.get("rounding_counter")
        with_grad.append((group, ParamState(weight, grad, exp_avg, v, v_max, dtensor, counter, scale)))
    return with_grad


def gather(parameters: Sequence[Tensor], state: State, name: str, empty: float, dtype: torch.dtype) -> Tensor:
    """One vector with a number of each parameter, `empty` where `state` has none, on the parameters' device.

    `state` holds the vector's elements from then on.
    """
    vector = torch.full((len(parameters),), empty, dtype=dtype, device=sharding.local(parameters[0]).device)
    for i, parameter in enumerate(parameters):
        own = state.get(parameter)
        if own:
            if name in own:
                vector[i] = own[name]
            own[name] = vector[i]
    return vector


def writable_in_graph(x: Tensor) -> Tensor:
    """x, or a view of it if it is a 0-d fp64 tensor on a CPU: a compiled graph loses what is copied into such a tensor
    itself (torch 2.11)."""
    return x.view(1)[0] if x.dim() == 0 and x.dtype is torch.float64 and x.device.type == "cpu" else x


class GradScaling(NamedTuple):
    """The factor of the gradients, and whether the step is taken. All are tensors, so the host never waits."""

    grad_scale: Tensor | None = None
    """From a GradScaler: the factor by which gradients are too large."""
    found_inf: Tensor | None = None
    """From a GradScaler: 0 if the step is to be taken."""
    decision: Tensor | None = None
    """The result of `decide` for these two and the global norm: s, 1 to take the step or 0, and the opposite."""

    def factor(self) -> Tensor | None:
        """s, 0-d, or None for 1."""
        if self.decision is not None:
            return self.decision[0]
        return None if self.grad_scale is None else self.grad_scale.double().reciprocal().squeeze()

    def take_step(self) -> Tensor | None:
        """Whether to take the step, 0-d bool, or None for True."""
        if self.decision is not None:
            return self.decision[1].bool()
        return None if self.found_inf is None else (self.found_inf == 0).squeeze()

    def skipped(self) -> Tensor:
        """1 if a decision was not to take the step, else 0; 0-d fp32, as a GradScaler's `found_inf`."""
        assert self.decision is not None
        return self.decision[2].float()

    def on_host(self) -> tuple[float, bool]:
        """The same two as numbers: waits for the device."""
        if self.decision is not None:
            factor, take_step, _ = self.decision.tolist()
            return factor, bool(take_step)
        factor, take_step = self.factor(), self.take_step()
        return 1.0 if factor is None else factor.item(), take_step is None or bool(take_step)

    def clip(self, backends: Sequence[Backend], max_grad_norm: float | None) -> GradScaling:
        """Clip the norm of all gradients of `backends` to `max_grad_norm` (None: do not), and take no step if it is
        not finite."""
        if len(backends) == 1:
            return backends[0].clip(self, max_grad_norm)
        return self.decide([backend.square_norm() for backend in backends], max_grad_norm)

    def decide(self, squares: Sequence[Tensor], max_grad_norm: float | None) -> GradScaling:
        """As `clip`, from the squares of the norms; the decision lies where the first of them does."""
        norm = torch.stack([square.double().to(squares[0].device) for square in squares]).sum().sqrt()
        factor, take_step = self.factor(), self.take_step()
        factor = torch.ones_like(norm) if factor is None else factor.to(norm)
        finite = torch.isfinite(norm)
        take_step = finite if take_step is None else take_step.to(norm.device) & finite
        if max_grad_norm is not None:  # 1e-6 as torch.nn.utils.clip_grad_norm_
            factor = factor * (max_grad_norm / (norm * factor + 1e-6)).clamp_max(1.0)
        return self._replace(decision=torch.stack([factor, take_step, ~take_step]))


Scalars = Callable[[float, float, float], "tuple[float, float, float] | None"]


def scalar_update(group: Group, lr: float, scale: float, dtype: torch.dtype) -> Scalars:
    """The scalar part of a step on the host: a function of ‖g‖², v and the largest v (-1 without amsgrad) of a tensor.

    It returns ± s / D (negative to maximize), a, and the new v; or None if the tensor must be left as it is: if the
    norm is not finite in v's precision, `dtype`, or if a first step has neither gradient nor rate, which is how
    torch.distributed.checkpoint makes an optimizer create its state.
    """
    (beta1, beta2), eps, eps_inside_sqrt = group["betas"], group["eps"], group["eps_inside_sqrt"]
    signed_scale, square_scale = -scale if group["maximize"] else scale, scale * scale
    later_average = 1 - beta1 if group["grad_averaging"] else 1.0
    limit = torch.finfo(dtype).max

    def update(square: float, v: float, v_max: float) -> tuple[float, float, float] | None:
        square *= square_scale
        if not square <= limit:
            return None
        if v < 0:
            if square == 0.0 and lr == 0.0:
                return None
            v, average = square, 1.0
        else:
            v, average = beta2 * v + (1 - beta2) * square, later_average
        if v > v_max:
            v_max = v
        divisor = math.sqrt(v_max + eps) if eps_inside_sqrt else math.sqrt(v_max) + eps
        if divisor == 0.0:  # ε = 0 and a zero gradient: 0/0 is taken as 0
            return 0.0, average, v
        return signed_scale / divisor, average, v

    return update
