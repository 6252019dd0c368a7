"""Algorithm 1 of the paper, tensor by tensor: the implementation to read first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from novobench.optim.novograd import half, norms, rounding
from novobench.optim.novograd.backend import Backend, GradScaling, Group, ParamState, State, param_states, rate_scale
from novobench.optim.novograd.layout import same_layout

Number = Any
"""A float on a CPU; elsewhere a 0-d tensor, as reading it would wait for the device. Formulas below hold for both."""


class ReferenceBackend(Backend):
    """For any tensors on any device, in fp32 (fp64) arithmetic. Never reads a number from a device."""

    def __init__(self, members: Sequence[tuple[Group, Tensor]], state: State) -> None:
        self._members = [(group, parameter, rate_scale(parameter, group)) for group, parameter in members]
        self._state = state
        self._tensors: list[tuple[Group, ParamState]] = []
        self._norms: list[Tensor] | None = None

    def is_current(self) -> bool:
        return True  # it looks the state up at each step

    def prepare(self) -> bool:
        self._tensors, self._norms = param_states(self._members, self._state), None
        return len(self._tensors) > 0

    def square_norm(self) -> Tensor:
        self._norms = list(self._grad_norms())
        return norms.square_norm(self._norms)

    def update(self, scaling: GradScaling) -> None:
        scale, take_step = scaling.factor(), scaling.take_step()
        for (group, t), grad_norm in zip(self._tensors, self._norms or self._grad_norms(), strict=True):
            update_tensor(group, t, grad_norm, scale, take_step)
        self._tensors = []

    def _grad_norms(self) -> Iterable[Tensor]:
        """‖g‖ of each tensor, 0-d."""
        return norms.grad_norms([t for _, t in self._tensors])


def update_tensor(
    group: Group, t: ParamState, grad_norm: Tensor, scale: Tensor | None, take_step: Tensor | None
) -> None:
    """One tensor's step; `grad_norm`, `scale` and `take_step` are ‖g‖ and what `GradScaling` says, 0-d."""
    dtype, device = t.exp_avg_sq.dtype, t.exp_avg_sq.device
    on_host = device.type == "cpu" and not group["capturable"] and not torch.compiler.is_compiling()

    def number(x: Any) -> Number:
        if on_host or not isinstance(x, Tensor):
            return float(x)
        return x.to(device=device, dtype=dtype)

    (beta1, beta2), eps, decay, lr = group["betas"], group["eps"], group["weight_decay"], number(group["lr"])
    s = 1.0 if scale is None else number(scale)

    # v ← β₂·v + (1 - β₂)·‖g‖²; at the first step v = ‖g‖²
    norm, v = s * number(grad_norm), number(t.exp_avg_sq)
    square, first = norm * norm, v < 0
    v = _choose(first, square, beta2 * v + (1 - beta2) * square)
    v_max = v
    if t.max_exp_avg_sq is not None:
        v_max = number(t.max_exp_avg_sq)
        v_max = _choose(v > v_max, v, v_max)

    # A norm that is not finite leaves the tensor as it is; so does a first step that has neither gradient nor rate,
    # see `scalar_update`.
    skip = (square != square) | (square > torch.finfo(dtype).max) | (first & (square == 0) & (lr == 0))
    if take_step is not None:
        skip = skip | (number(take_step) == 0)
    if on_host and skip:
        return

    # g / (√v + ε) is `factor` times the gradient; ε = 0 and a zero gradient: 0/0 is taken as 0
    divisor = (v_max + eps) ** 0.5 if group["eps_inside_sqrt"] else v_max**0.5 + eps
    average = 1 - beta1 * number(first == 0) if group["grad_averaging"] else 1.0
    factor = (-s if group["maximize"] else s) / _choose(divisor > 0, divisor, torch.inf) * average
    coupled, decoupled = (0.0, decay) if group["decoupled_weight_decay"] else (decay, 0.0)

    # In place where no old value is needed again, half precision in blocks of fp32, and a rounded m in rows of fp32;
    # else in one copy of m.
    own = (t.weight, t.grad, t.exp_avg)
    parts: Iterable[tuple[Tensor, Tensor, Tensor]] = [own]
    in_place = on_host and all(x.dtype is dtype for x in own)
    if on_host and dtype is torch.float32 and not in_place and group["update_clip"] is None and same_layout(*own):
        counter, in_place = t.rounding_counter, True
        parts = half.update_blocks(*own) if counter is None else rounding.update_rows(*own, counter)
    rate = full_rate = lr if t.rate_scale == 1.0 else lr * t.rate_scale
    for weight, grad, exp_avg in parts:
        # m ← β₁·m + (g / (√v + ε) + d·w)
        m = exp_avg if in_place else exp_avg.to(dtype, copy=True)
        m.mul_(beta1)
        _add(m, grad, factor)
        if coupled:
            _add(m, weight, coupled * average)

        if group["update_clip"] is not None:
            longest = group["update_clip"] * number(norms.norm_of(t, weight))
            clipped = longest / (number(norms.norm_of(t, m)) + 1e-8)
            rate = _choose(clipped < full_rate, clipped, full_rate)

        # w ← w - λ·m (r·λ·m with `layer_scale`), in the memory of m if that is a copy
        if in_place:
            if decoupled:
                weight.mul_(1 - lr * decoupled)
            _add(weight, m, -rate)
        else:
            _store(exp_avg, rounding.as_stored(m, exp_avg, t.rounding_counter), skip)
            if t.rounding_counter is not None:
                _store(t.rounding_counter, t.rounding_counter + 1, skip)
            _store(weight, _add(m.mul_(-rate), weight, 1 - lr * decoupled), skip)

    _store(t.exp_avg_sq, v, skip)
    if t.max_exp_avg_sq is not None:
        _store(t.max_exp_avg_sq, v_max, skip)


def _choose(condition: Any, a: Number, b: Number) -> Number:
    """a if the condition holds, else b."""
    return torch.where(condition, a, b) if isinstance(condition, Tensor) else (a if condition else b)


def _add(x: Tensor, y: Tensor, factor: Number) -> Tensor:
    """x ← x + factor · y, without room for a product."""
    return x.addcmul_(y, factor) if isinstance(factor, Tensor) else x.add_(y, alpha=factor)


def _store(target: Tensor, value: Number, skip: bool | Tensor) -> None:
    """target ← value, unless `skip`."""
    if isinstance(skip, Tensor):
        value = value.to(target.dtype)
        if torch.compiler.is_compiling():  # where `out` must be contiguous
            target.copy_(torch.where(skip, target, value))
        else:
            torch.where(skip, target, value, out=target)
    elif isinstance(value, Tensor):
        target.copy_(value)
    else:
        target.fill_(value)
