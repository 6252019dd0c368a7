"""SCALE: SGD on gradients normalized per output, with momentum in the output layer alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class SCALE(Optimizer):
    r"""Stochastic column-normalized last-layer momentum (Glentis et al., 2025, Algorithm 1).

    .. math::
        w \leftarrow (1 - \lambda d) w - \lambda \, u / \mathrm{rms}(u), \qquad u = g \text{ or, in the output layer, }
        m \leftarrow \beta m + (1 - \beta) g

    The RMS is taken per output: over each row of a weight (outputs, inputs...), over each column of an embedding
    (vocabulary, width). The key `role` of a group names the output layer (`head`) and embeddings (`embedding`); any
    other group, or one without this key, has other weights. Leave vectors to AdamW, as the paper does.

    Args:
        params: parameters of two dimensions or more, or groups of these. Real floating-point dtypes.
        lr: λ. Default 1e-3, the paper's.
        momentum: β in [0, 1). Default 0.9, the paper's.
        weight_decay: d, decoupled. Default 0.
        eps: smallest RMS to divide by. Default 1e-8, as in the authors' code.

    Raises:
        ValueError: a parameter has fewer than two dimensions, or an argument is out of range.

    State of a parameter of the output layer: `momentum_buffer` (m: shape and dtype of the parameter); of others: none.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0, eps: float = 1e-8
    ) -> None:
        for name, value in (("learning rate", lr), ("weight_decay value", weight_decay)):
            if not value >= 0.0:
                raise ValueError(f"Invalid {name}: {value}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if not eps > 0.0:
            raise ValueError(f"Invalid epsilon value: {eps}")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eps": eps, "role": "matrix"}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in `torch.optim.Optimizer`. Raises ValueError for a parameter of fewer than two dimensions."""
        super().add_param_group(param_group)
        for parameter in param_group["params"]:
            if parameter.dim() < 2:
                raise ValueError(
                    f"SCALE takes matrices, not a parameter of shape {tuple(parameter.shape)}. Leave vectors and "
                    "scalars to another optimizer."
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step: update all parameters that have a gradient, which stays as it is.

        Args:
            closure: recomputes the loss and the gradients; called once, with gradients enabled.

        Returns:
            The closure's loss, or None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        direction = gradient
        if group["role"] == "head":
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            direction = state["momentum_buffer"].lerp_(gradient, 1.0 - group["momentum"])
        others = 0 if group["role"] == "embedding" else tuple(range(1, parameter.dim()))
        rms = direction.square().mean(others, keepdim=True).sqrt_().clamp_min_(group["eps"])
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"]).addcdiv_(direction, rms, value=-group["lr"])
