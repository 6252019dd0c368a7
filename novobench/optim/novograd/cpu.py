"""Norm and update of one tensor after the other by torch's fused SGD kernel: the default on a CPU.

SGD's m ← β₁·m + (1 - dampening)·(g + wd·w) is NovoGrad's with dampening = 1 - a·f and wd = d / f, where f = s / D (see
`backend` for the symbols). The step reads the gradient twice and everything else once, and writes m and w: 24 bytes per
fp32 parameter; AdamW moves 28.

A large tensor drives everything else out of the cache, so each object and each kernel touched between two tensors costs
a wait for memory. Hence v of all tensors lies in one vector, which is read before the first tensor and written after
the last, and no state is looked up.

Tensors of half precision pass through the kernel in blocks of fp32; see `half`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from novobench.optim.novograd import half, norms, rounding, sharding
from novobench.optim.novograd.backend import (
    Backend,
    GradScaling,
    Group,
    ParamState,
    State,
    gather,
    init_state,
    rate_scale,
    scalar_update,
    second_moment_dtype,
)
from novobench.optim.novograd.layout import is_dense, same_layout
from novobench.optim.novograd.reference import update_tensor

FUSED_SGD = getattr(torch, "_fused_sgd_", None)
"""The kernel behind `torch.optim.SGD(fused=True)`; private, so it may be missing one day."""

_LARGEST_DIVISOR = 1e8
"""The kernel takes 1 - 1/D, which loses 1/D to rounding for larger D."""
_NO_MOMENTUM = sys.float_info.min
"""Stands for β₁ = 0, at which the kernel would keep no m: too small to add anything to it."""


def supports(parameter: Tensor) -> bool:
    """Whether the kernel exists, and the whole parameter is on the CPU, real-valued."""
    return (
        FUSED_SGD is not None
        and parameter.device.type == "cpu"
        and parameter.dtype in (torch.float32, torch.float64, *half.DTYPES)
        and not sharding.is_sharded(parameter)
    )


class CpuBackend(Backend):
    """For parameters of one group and one dtype. Those with another layout or dtype than their gradient or m, and
    updates too small for the kernel, take `update_tensor`."""

    def __init__(self, group: Group, parameters: Sequence[Tensor], state: State) -> None:
        self._group, self._state = group, state
        self._parameters = parameters = sorted(parameters, key=Tensor.numel)  # small ones run faster in a row
        self._is_half, dtype = parameters[0].dtype in half.DTYPES, second_moment_dtype(parameters[0])
        self._v = gather(parameters, state, "exp_avg_sq", -1.0, dtype)
        self._v_max = gather(parameters, state, "max_exp_avg_sq", 0.0, dtype) if group["amsgrad"] else None
        rounds = rounding.applies(parameters[0], group)
        self._counters = gather(parameters, state, "rounding_counter", 0, torch.int64) if rounds else None
        self._rate_scales = [rate_scale(p, group) for p in parameters]
        self._exp_avgs: list[Any] = [state.get(p, {}).get("exp_avg") for p in parameters]
        """m, or None before the first step."""
        self._squares: dict[int, float] = {}
        """‖g‖² by place, if `square_norm` was called."""

    def is_current(self) -> bool:
        """By the sample of the first parameter."""
        return self._state.get(self._parameters[0], {}).get("exp_avg") is self._exp_avgs[0]

    def prepare(self) -> bool:
        return any(parameter.grad is not None for parameter in self._parameters)

    def square_norm(self) -> Tensor:
        for i, parameter in enumerate(self._parameters):
            grad = parameter.grad
            if grad is None:
                continue
            if self._exp_avgs[i] is None:
                self._init_state(i)
            same_kind = grad.dtype is parameter.dtype and is_dense(grad)
            self._squares[i] = norms.square_on_cpu(grad) if same_kind else norms.finite_square(norms.norm_on_cpu(grad))
        return torch.tensor(sum(self._squares.values()), dtype=torch.float64, device="cpu")

    def update(self, scaling: GradScaling) -> None:
        scale, take_step = scaling.on_host()
        if take_step:
            self._update(scale)
        self._squares = {}

    def _update(self, scale: float) -> None:
        assert FUSED_SGD is not None
        group, squares = self._group, self._squares
        lr = group["lr"].item() if isinstance(group["lr"], Tensor) else group["lr"]
        beta1, decay, maximize = group["betas"][0], group["weight_decay"], group["maximize"]
        coupled, shrink = (0.0, 1 - lr * decay) if group["decoupled_weight_decay"] else (decay, 1.0)
        scalars = scalar_update(group, lr, scale, self._v.dtype)
        v = self._v.tolist()
        v_max = None if self._v_max is None else self._v_max.tolist()
        others = []
        for i, (parameter, exp_avg) in enumerate(zip(self._parameters, self._exp_avgs, strict=True)):
            grad = parameter.grad
            if grad is None:
                continue
            if exp_avg is None:
                exp_avg = self._init_state(i)
            if not _fits(parameter, grad, exp_avg, rounds=self._counters is not None):
                others.append(i)
                continue
            scalar = scalars(squares[i] if squares else norms.square_on_cpu(grad), v[i], v_max[i] if v_max else -1.0)
            if scalar is None:
                continue
            factor, average, new_v = scalar
            size = abs(factor)
            if not size * _LARGEST_DIVISOR > 1:
                others.append(i)
                continue
            v[i] = new_v
            if v_max:
                v_max[i] = max(v_max[i], new_v)
            options = {
                "weight_decay": coupled / size,
                "momentum": beta1 or _NO_MOMENTUM,
                "lr": lr * self._rate_scales[i],
                "dampening": 1 - average * size,
                "nesterov": False,
                "maximize": maximize,
                "is_first_step": False,
            }
            own = (parameter, grad, exp_avg)
            parts: Iterable[tuple[Tensor, Tensor, Tensor]] = (own,)
            if self._is_half:
                parts = half.update_blocks(*own)
            elif self._counters is not None:
                parts = rounding.update_rows(*own, self._counters[i])
            for weight, g, m in parts:
                if shrink != 1.0:
                    weight.mul_(shrink)
                FUSED_SGD([weight], [g], [m], **options)
        self._v.copy_(torch.tensor(v, dtype=self._v.dtype, device="cpu"))
        if self._v_max is not None:
            self._v_max.copy_(torch.tensor(v_max, dtype=self._v.dtype, device="cpu"))
        for i in others:
            t = self._param_state(i)
            grad_norm = norms.norm_on_cpu(t.grad)
            update_tensor(group, t, grad_norm, torch.tensor(scale, dtype=torch.float64, device="cpu"), None)

    def _init_state(self, i: int) -> Tensor:
        parameter = self._parameters[i]
        own = self._state[parameter]
        scalars = (None if vector is None else vector[i] for vector in (self._v, self._v_max, self._counters))
        init_state(parameter, self._group, self._state, *scalars)
        exp_avg: Tensor = own["exp_avg"]
        self._exp_avgs[i] = exp_avg
        return exp_avg

    def _param_state(self, i: int) -> ParamState:
        parameter = self._parameters[i]
        grad = parameter.grad
        assert grad is not None
        v_max = None if self._v_max is None else self._v_max[i]
        counter = None if self._counters is None else self._counters[i]
        return ParamState(
            parameter,
            grad,
            self._exp_avgs[i],
            self._v[i],
            v_max,
            rounding_counter=counter,
            rate_scale=self._rate_scales[i],
        )


def _fits(parameter: Tensor, grad: Tensor, exp_avg: Tensor, *, rounds: bool) -> bool:
    """Whether the kernel may take the three, with a copy of m if m is rounded. The kernel itself checks neither dtypes
    nor layouts, and would mix elements."""
    dtype = parameter.dtype
    return (
        grad.dtype is dtype
        and exp_avg.dtype is (torch.bfloat16 if rounds else dtype)
        and parameter.numel() > 0
        and same_layout(parameter, grad, exp_avg)
    )
