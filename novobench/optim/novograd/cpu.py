"""The fused NovoGrad step on a CPU: norm and update of one tensor back to back, by torch's fused SGD kernel.

SGD's m ← β₁·m + (1 - dampening)·(g + wd·w) is NovoGrad's with dampening = 1 - a·f and wd = d / f, where f = s/D (see
`backend`). The gradient is read twice and nothing but m and w is written: 24 bytes a parameter; AdamW moves 28.

A large tensor drives everything else out of the cache, so that each object and each kernel touched between two
tensors costs a wait for memory. Hence v of all tensors lies in one vector, which is read before the first tensor and
written after the last, and no state is looked up.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from novobench.optim.novograd import backend as paths
from novobench.optim.novograd import rounding, sharding

FUSED_SGD = getattr(torch, "_fused_sgd_", None)
"""The kernel behind `torch.optim.SGD(fused=True)`; private, so it may be missing one day."""

_LARGEST_DIVISOR = 1e8
"""The kernel is given 1 - 1/D, which loses 1/D to rounding for larger D."""
_NO_MOMENTUM = sys.float_info.min
"""Stands for β₁ = 0, at which the kernel would keep no m: too small to add anything to it."""
_LARGEST_DOT = 1 << 18
"""Elements of which a dot product in fp32, the fastest way, gives ‖g‖² to a millionth; of millions it is 1e-4 off."""


def takes(parameter: Tensor) -> bool:
    """Whether the kernel computes in this parameter's own precision, and all of the parameter lies here."""
    return (
        FUSED_SGD is not None
        and parameter.device.type == "cpu"
        and parameter.dtype in (torch.float32, torch.float64)
        and not sharding.is_sharded(parameter)
    )


class CpuStep:
    """The fused step of parameters of one group and one dtype, called as `cuda.FusedStep` is."""

    at_once = True

    def __init__(
        self,
        group: dict[str, Any],
        parameters: Sequence[Tensor],
        state: dict[Tensor, dict[str, Any]],
        moment_dtype: torch.dtype | None = None,
    ) -> None:
        self.group, self.state = group, state
        self.parameters = parameters = sorted(parameters, key=Tensor.numel)  # small ones run faster in a row
        dtype = parameters[0].dtype
        self.v = paths.gathered(parameters, state, "exp_avg_sq", -1.0, dtype)
        self.largest: Tensor | None = None
        if group["amsgrad"]:
            self.largest = paths.gathered(parameters, state, "max_exp_avg_sq", 0.0, dtype)
        self.counters: Tensor | None = None
        """See `rounding`, if m is kept in bf16."""
        if rounding.applies(parameters[0], moment_dtype):
            self.counters = paths.gathered(parameters, state, "rounding_counter", 0, torch.int64)
        self.moment_dtype = dtype if self.counters is None else torch.bfloat16
        self.moments: list[Any] = [state.get(p, {}).get("exp_avg") for p in parameters]
        """m, or None before the first step."""
        self._squares: dict[int, float] = {}
        """‖g‖² by place, if they had to be known before the update."""

    def is_current(self) -> bool:
        """Whether `state` still is what this step reads and writes, by the sample of the first parameter."""
        return self.state.get(self.parameters[0], {}).get("exp_avg") is self.moments[0]

    def prepare(self) -> bool:
        """Whether any parameter has a gradient."""
        return any(parameter.grad is not None for parameter in self.parameters)

    def norms(self) -> None:
        """Work out all norms before the update."""
        for i, parameter in enumerate(self.parameters):
            gradient = parameter.grad
            if gradient is None:
                continue
            if self.moments[i] is None:
                self._begin(i, gradient)
            if gradient.dtype is parameter.dtype and paths.dense(gradient):
                self._squares[i] = _square(gradient)
            else:
                self._squares[i] = _square_of(paths.norm_on_cpu(gradient))

    def total_square(self) -> Tensor:
        """The square of the norm of all gradients, float64."""
        return torch.tensor(sum(self._squares.values()), dtype=torch.float64)

    def decide(self, limit: float | None, grad_scale: Tensor | None, found_inf: Tensor | None) -> Tensor:
        """What gradients are multiplied by, whether to take the step, and the opposite."""
        return paths.limited([self.total_square()], limit, *paths.unscaled(grad_scale, found_inf))

    def norms_and_update(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Tensor by tensor."""
        scale, go = paths.unscaled(grad_scale, found_inf)
        if go is None or go:
            self._step(1.0 if scale is None else scale.item())

    def update(self, grad_scale: Tensor | None, found_inf: Tensor | None, decided: Tensor) -> None:
        """With the norms known, and what was decided about the whole step."""
        scale, go, _ = decided.tolist()
        if go:
            self._step(scale)
        self._squares = {}

    def _step(self, scale: float) -> None:
        assert FUSED_SGD is not None
        group, squares = self.group, self._squares
        lr = group["lr"].item() if isinstance(group["lr"], Tensor) else group["lr"]
        beta1, decay, maximize = group["betas"][0], group["weight_decay"], group["maximize"]
        coupled, shrink = (0.0, 1 - lr * decay) if group["decoupled_weight_decay"] else (decay, 1.0)
        advance = paths.advancing(group, lr, scale, self.v.dtype)
        v = self.v.tolist()
        largest = None if self.largest is None else self.largest.tolist()
        counters = [] if self.counters is None else self.counters.tolist()
        others = []
        for i, (parameter, moment) in enumerate(zip(self.parameters, self.moments, strict=True)):
            gradient = parameter.grad
            if gradient is None:
                continue
            if moment is None:
                moment = self._begin(i, gradient)
                if self.counters is not None:
                    counters[i] = int(self.counters[i])
            if not paths.plain(parameter, gradient, moment, self.moment_dtype):
                others.append(i)
                continue
            step = advance(squares[i] if squares else _square(gradient), v[i], largest[i] if largest else -1.0)
            if step is None:
                continue
            factor, average, second = step
            size = abs(factor)
            if not size * _LARGEST_DIVISOR > 1:
                others.append(i)
                continue
            v[i] = second
            if largest:
                largest[i] = max(largest[i], second)
            if shrink != 1.0:
                parameter.mul_(shrink)
            options = {
                "weight_decay": coupled / size,
                "momentum": beta1 or _NO_MOMENTUM,
                "lr": lr,
                "dampening": 1 - average * size,
                "nesterov": False,
                "maximize": maximize,
                "is_first_step": False,
            }
            if not counters:
                FUSED_SGD([parameter], [gradient], [moment], **options)
            else:
                w, g, m = (x.as_strided((x.numel(),), (1,)) for x in (parameter, gradient, moment))
                for part, m_part in rounding.fp32_rows(m, counters[i]):
                    FUSED_SGD([w[part]], [g[part]], [m_part], **options)
                counters[i] += 1
        self.v.copy_(torch.tensor(v, dtype=self.v.dtype))
        if self.largest is not None:
            self.largest.copy_(torch.tensor(largest, dtype=self.v.dtype))
        if self.counters is not None:
            self.counters.copy_(torch.tensor(counters))
        if others:
            paths.loop(group, [self._tensors(i) for i in others], paths.Whole(torch.tensor(scale).double(), None))

    def _begin(self, i: int, gradient: Tensor) -> Tensor:
        """State of a parameter at its first gradient."""
        if gradient.layout is not torch.strided:
            raise RuntimeError("NovoGrad does not support sparse gradients")
        parameter = self.parameters[i]
        own = self.state[parameter]
        own["exp_avg"] = torch.zeros_like(parameter, dtype=self.moment_dtype, memory_format=torch.preserve_format)
        own["exp_avg_sq"] = self.v[i]
        if self.largest is not None:
            own["max_exp_avg_sq"] = self.largest[i]
        if self.counters is not None:
            own["rounding_counter"] = self.counters[i].fill_(rounding.first_counter(len(self.state)))
        self.moments[i] = own["exp_avg"]
        return own["exp_avg"]

    def _tensors(self, i: int) -> paths.Tensors:
        parameter = self.parameters[i]
        gradient = parameter.grad
        assert gradient is not None
        largest = None if self.largest is None else self.largest[i]
        counter = None if self.counters is None else self.counters[i]
        return paths.Tensors(parameter, gradient, self.moments[i], self.v[i], largest, counter=counter)


def _square(gradient: Tensor) -> float:
    """‖g‖² of a dense gradient, its elements taken in the order of memory, whatever its layout."""
    count = gradient.numel()
    if count > _LARGEST_DOT:
        return _square_of(paths.norm_on_cpu(gradient))
    flat = gradient if gradient.dim() == 1 else gradient.as_strided((count,), (1,))
    return torch.dot(flat, flat).item()


def _square_of(norm: Tensor) -> float:
    """The square of a norm that is a tensor still."""
    size: float = norm.item()
    return size * size  # inf if that is too large, where ** raises
