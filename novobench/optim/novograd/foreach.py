"""All tensors of a device at once, by torch's `_foreach` operations: the default on CUDA without Triton."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from novobench.optim.novograd import norms
from novobench.optim.novograd.backend import (
    GradScaling,
    Group,
    ParamState,
    scalar_update,
)
from novobench.optim.novograd.layout import same_layout
from novobench.optim.novograd.reference import ReferenceBackend, update_tensor

_WITHOUT_LAUNCHES = ("cpu",)
"""Devices on which `_foreach` operations are loops, and a copy of all gradients costs more than it saves."""


class ForeachBackend(ReferenceBackend):
    """For fp32 and fp64 tensors; `update_tensor` takes the others. Reads the norms from the device once per step."""

    def update(self, scaling: GradScaling) -> None:
        grad_norms = self._norms or self._grad_norms()
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

    def _grad_norms(self) -> list[Tensor]:
        """By few launches if no tensor is sharded."""
        tensors = [t for _, t in self._tensors]
        if any(t.dtensor is not None or t.weight.device.type in _WITHOUT_LAUNCHES for t in tensors):
            return list(norms.grad_norms(tensors))
        batches: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for i, t in enumerate(tensors):
            batches.setdefault((t.grad.device, t.exp_avg_sq.dtype), []).append(i)
        by_place: dict[int, Tensor] = {}
        for (_, dtype), places in batches.items():
            by_place |= zip(places, torch._foreach_norm([tensors[i].grad for i in places], 2, dtype=dtype), strict=True)
        return [by_place[i] for i in range(len(tensors))]


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
    amsgrad, dtype, device = group["amsgrad"], tensors[0].exp_avg_sq.dtype, tensors[0].weight.device
    scalars = scalar_update(group, lr, scale, dtype)
    exp_avg_sqs = [t.exp_avg_sq for t in tensors]
    absent = torch.full_like(exp_avg_sqs[0], -1.0)
    max_exp_avg_sqs = [absent if not amsgrad or t.max_exp_avg_sq is None else t.max_exp_avg_sq for t in tensors]
    # The only wait for the device.
    numbers = torch.stack([*grad_norms, *exp_avg_sqs, *max_exp_avg_sqs]).view(3, -1).tolist()
    steps = [(t, scalars(norm * norm, v, v_max)) for t, norm, v, v_max in zip(tensors, *numbers, strict=True)]
    moving = [(t, *scalar) for t, scalar in steps if scalar is not None]
    if not moving:
        return
    factors, averages, new_v = ([scalar[i] for _, *scalar in moving] for i in range(3))
    exp_avg_sqs = [t.exp_avg_sq for t, *_ in moving]
    torch._foreach_zero_(exp_avg_sqs)
    torch._foreach_add_(exp_avg_sqs, new_v)
    if amsgrad:
        torch._foreach_maximum_([t.max_exp_avg_sq for t, *_ in moving], new_v)

    weights, grads, exp_avgs = ([t[i] for t, *_ in moving] for i in range(3))
    decay = group["weight_decay"]
    coupled, decoupled = (0.0, decay) if group["decoupled_weight_decay"] else (decay, 0.0)
    rates = [lr * t.rate_scale for t, *_ in moving]
    torch._foreach_mul_(exp_avgs, group["betas"][0])
    if device.type in _WITHOUT_LAUNCHES:
        for weight, grad, exp_avg, factor, average, rate in zip(
            weights, grads, exp_avgs, factors, averages, rates, strict=True
        ):
            exp_avg.add_(grad, alpha=factor * average)
            if coupled:
                exp_avg.add_(weight, alpha=coupled * average)
            if decoupled:
                weight.mul_(1 - lr * decoupled)
            weight.add_(exp_avg, alpha=-rate)
        return
    updates = torch._foreach_mul(grads, factors)
    if coupled:
        torch._foreach_add_(updates, weights, alpha=coupled)
    if group["grad_averaging"]:
        torch._foreach_mul_(updates, averages)
    torch._foreach_add_(exp_avgs, updates)
    if decoupled:
        torch._foreach_mul_(weights, 1 - lr * decoupled)
    by_rate: dict[float, list[int]] = {}  # one launch per rate: a factor per tensor would need a copy of m
    for i, rate in enumerate(rates):
        by_rate.setdefault(rate, []).append(i)
    for rate, places in by_rate.items():
        torch._foreach_add_([weights[i] for i in places], [exp_avgs[i] for i in places], alpha=-rate)
