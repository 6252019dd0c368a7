"""Stochastic normalized gradient descent, the family to which NovoGrad belongs (paper §2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class NormalizedSGD(Optimizer):
    r"""Normalized SGD: m ← β·m + g / (‖g‖ + ε) + d·w and w ← w − λ·m. §2 of the NovoGrad paper has β = d = ε = 0.

    ‖g‖ is the norm of all gradients of all groups together or, with `layer_wise`, that of each tensor. NovoGrad with
    β₂ = 0 is the layer-wise form with momentum (the paper's Note 1).

    Args:
        params: parameters, or parameter groups. Any shape; real floating-point dtypes.
        lr: λ, the length of a step when β = 0 and d = 0. No default.
        momentum: β in [0, 1). Default 0, as in §2.
        weight_decay: d, added to the normalized gradient. Default 0.
        layer_wise: divide the gradient of each tensor by its own norm. Default False.
        eps: ε, added to the norm. Default 1e-8, NovoGrad's.

    Raises:
        ValueError: an option is out of range.

    State of a parameter, only with momentum: `momentum_buffer` (m: shape and dtype of the parameter).
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        layer_wise: bool = False,
        eps: float = 1e-8,
    ) -> None:
        for name, value in (("learning rate", lr), ("weight_decay value", weight_decay), ("epsilon value", eps)):
            if not value >= 0.0:
                raise ValueError(f"Invalid {name}: {value}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eps": eps})
        self.layer_wise = layer_wise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step: update the weights and m of all parameters that have a gradient.

        Args:
            closure: recomputes the loss and the gradients; called once, with gradients enabled.

        Returns:
            The closure's loss, or None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = None if self.layer_wise or not gradients else torch.nn.utils.get_total_norm(gradients)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                divisor = torch.linalg.vector_norm(parameter.grad) if norm is None else norm.to(parameter.device)
                update = parameter.grad / (divisor + group["eps"])
                if group["weight_decay"]:
                    update.add_(parameter, alpha=group["weight_decay"])
                if group["momentum"]:
                    state = self.state[parameter]
                    if not state:
                        state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                    update = state["momentum_buffer"].mul_(group["momentum"]).add_(update)
                parameter.sub_(update * group["lr"])
        return loss
