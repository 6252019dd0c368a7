"""Algorithm 1 of the paper, tensor by tensor: the implementation to read first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from novobench.optim.novograd import norms, rounding
from novobench.optim.novograd.backend import Backend, GradScaling, Group, ParamState, State, param_states


class ReferenceBackend(Backend):
    """For any tensors on any device, in fp32 (fp64) arithmetic. Never reads a number from a device."""

    def __init__(self, members: Sequence[tuple[Group, Tensor]], state: State) -> None:
        self._members, self._state = list(members), state
        self._tensors: list[tuple[Group, ParamState]] = []
        self._norms: list[Tensor] | None = None

    def is_current(self) -> bool:
        return True  # it looks the state up at each step

    def prepare(self) -> bool:
        self._tensors, self._norms = param_states(self._members, self._state), None
        return len(self._tensors) > 0

    def square_norm(self) -> Tensor:
        self._norms = norms.grad_norms([t for _, t in self._tensors])
        return norms.square_norm(self._norms)

    def update(self, scaling: GradScaling) -> None:
        grad_norms = self._norms or norms.grad_norms([t for _, t in self._tensors])
        scale, take_step = scaling.factor(), scaling.take_step()
        for (group, t), grad_norm in zip(self._tensors, grad_norms, strict=True):
            update_tensor(group, t, grad_norm, scale, take_step)
        self._tensors = []


def update_tensor(
    group: Group, t: ParamState, grad_norm: Tensor, scale: Tensor | None, take_step: Tensor | None
) -> None:
    """One tensor's step; `grad_norm`, `scale` and `take_step` are ‖g‖ and what `GradScaling` says, 0-d."""
    beta1, beta2 = group["betas"]
    lr, decay, dtype, device = group["lr"], group["weight_decay"], t.exp_avg_sq.dtype, t.exp_avg_sq.device
    if isinstance(lr, Tensor):
        lr = lr.to(device=device, dtype=dtype)
    scale = torch.ones((), dtype=dtype, device=device) if scale is None else scale.to(device, dtype)
    grad, weight, exp_avg = (x.to(dtype) for x in (t.grad, t.weight, t.exp_avg))

    square = (grad_norm * scale) ** 2
    first = t.exp_avg_sq < 0
    skip = ~torch.isfinite(square) if take_step is None else ~(torch.isfinite(square) & take_step.to(device))
    skip |= first & (square == 0) & (lr == 0)  # see `scalar_update`
    v = torch.where(first, square, beta2 * t.exp_avg_sq + (1 - beta2) * square)
    v_max = v if t.max_exp_avg_sq is None else torch.maximum(t.max_exp_avg_sq, v)
    divisor = (v_max + group["eps"]).sqrt() if group["eps_inside_sqrt"] else v_max.sqrt() + group["eps"]
    factor = torch.where(divisor > 0, scale / divisor, 0.0)  # ε = 0 and a zero gradient: 0/0 is taken as 0
    update = grad * (-factor if group["maximize"] else factor)
    new_weight = weight
    if decay and group["decoupled_weight_decay"]:
        new_weight = weight * (1 - lr * decay)
    elif decay:
        update = update + decay * weight
    if group["grad_averaging"]:
        update = update * torch.where(first, torch.ones_like(v), 1 - beta1)
    exp_avg = beta1 * exp_avg + update
    if group["update_clip"] is not None:
        limit = group["update_clip"] * norms.norm_of(t, weight)
        lr = (limit / (norms.norm_of(t, exp_avg) + 1e-8)).clamp_max(lr)
    new_weight = new_weight - lr * exp_avg

    t.weight.copy_(torch.where(skip, t.weight, new_weight.to(t.weight.dtype)))
    t.exp_avg.copy_(torch.where(skip, t.exp_avg, rounding.as_stored(exp_avg, t.exp_avg, t.rounding_counter)))
    if t.rounding_counter is not None:
        t.rounding_counter.add_(~skip)
    t.exp_avg_sq.copy_(torch.where(skip, t.exp_avg_sq, v))
    if t.max_exp_avg_sq is not None:
        t.max_exp_avg_sq.copy_(torch.where(skip, t.max_exp_avg_sq, v_max))
