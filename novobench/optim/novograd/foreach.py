"""All tensors of a device at once, by torch's `_foreach` operations: the default on CUDA where there is no Triton."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from novobench.optim.novograd import norms
from novobench.optim.novograd.backend import (
    Backend,
    GradScaling,
    Group,
    ParamState,
    State,
    param_states,
    scalar_update,
)
from novobench.optim.novograd.layout import same_layout
from novobench.optim.novograd.reference import update_tensor


class ForeachBackend(Backend):
    """For fp32 and fp64 tensors; `update_tensor` takes the others. Reads the norms from the device once per step."""

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
        scale, take_step = scaling.on_host()
        batches: dict[tuple[int, torch.device, torch.dtype], list[tuple[Group, ParamState, Tensor]]] = {}
        if take_step:
            for (group, t), grad_norm in zip(self._tensors, grad_norms, strict=True):
                if group["update_clip"] is None and _fits(t):
                    batches.setdefault((id(group), t.weight.device, t.weight.dtype), []).append((group, t, grad_norm))
                else:
                    update_tensor(group, t, grad_norm, scaling.factor(), None)
        for batch in batches.values():
            _update(batch[0][0], [t for _, t, _ in batch], [grad_norm for _, _, grad_norm in batch], scale)
        self._tensors = []


def _fits(t: ParamState) -> bool:
    """Whether all three tensors have one dtype of fp32 or more, and one layout: `_foreach` operations check neither."""
    dtype = t.weight.dtype
    return (
        dtype in (torch.float32, torch.float64)
        and t.grad.dtype is dtype
        and t.exp_avg.dtype is dtype
        and t.weight.numel() > 0
        and same_layout(t.weight, t.grad, t.exp_avg)
    )


def _update(group: Group, tensors: Sequence[ParamState], grad_norms: Sequence[Tensor], scale: float) -> None:
    """The step of tensors of one group, device and dtype."""
    lr = group["lr"].item() if isinstance(group["lr"], Tensor) else group["lr"]
    scalars = scalar_update(group, lr, scale, tensors[0].exp_avg_sq.dtype)
    moving, factors, averages = [], [], []
    for t, norm in zip(tensors, torch.stack(list(grad_norms)).tolist(), strict=True):
        v_max = -1.0 if t.max_exp_avg_sq is None else t.max_exp_avg_sq.item()
        scalar = scalars(norm * norm, t.exp_avg_sq.item(), v_max)
        if scalar is None:
            continue
        factor, average, v = scalar
        t.exp_avg_sq.fill_(v)
        if t.max_exp_avg_sq is not None:
            t.max_exp_avg_sq.clamp_min_(v)
        moving.append(t)
        factors.append(factor * average)
        averages.append(average)
    if not moving:
        return
    weights, exp_avgs = [t.weight for t in moving], [t.exp_avg for t in moving]
    decay = group["weight_decay"]
    updates = torch._foreach_mul([t.grad for t in moving], factors)
    if decay and not group["decoupled_weight_decay"]:
        torch._foreach_add_(updates, torch._foreach_mul(weights, [decay * average for average in averages]))
    torch._foreach_mul_(exp_avgs, group["betas"][0])
    torch._foreach_add_(exp_avgs, updates)
    if decay and group["decoupled_weight_decay"]:
        torch._foreach_mul_(weights, 1 - lr * decay)
    torch._foreach_add_(weights, exp_avgs, alpha=-lr)
