"""NovoGrad without one of its design choices, for experiments that show what the choice is worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.optim import Optimizer


class NovoGradVariant(Optimizer):
    r"""NovoGrad tensor by tensor, with a choice of where it normalizes and of its first second moment.

    .. math::
        v \leftarrow \beta_2 v + (1 - \beta_2) \lVert g \rVert^2

    and then, with `normalize` as

    - `gradient`: m ← β₁·m + g / (√v + ε) + d·w and w ← w − λ·m, which is Algorithm 1;
    - `moment`: m ← β₁·m + g and w ← w − λ·(m / (√v + ε) + d·w / (1 − β₁)), where a layer's second moment divides the
      first one, as in Adam. Weight decay is as strong as in the other form.

    `novobench.optim.NovoGrad` is the optimizer to train with: it is faster and has more options.

    Args:
        params: parameters, or parameter groups. Any shape; real floating-point dtypes. m and v have the parameter's
            dtype.
        lr: λ. No default.
        betas: (β₁, β₂), each in [0, 1). Default (0.95, 0.25), the paper's.
        eps: ε. Default 1e-8.
        weight_decay: d. Default 0.
        normalize: `gradient` (default) or `moment`.
        initialize_second_moment: v = ‖g‖² at the first update, as in the paper (default). False: v = 0 before it, so
            that v = (1 − β₂)·‖g‖² then, without bias correction.

    Raises:
        ValueError: an option is out of range.

    State of a parameter: `exp_avg` (m: its shape and dtype) and `exp_avg_sq` (v: 0-d).
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.95, 0.25),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        normalize: Literal["gradient", "moment"] = "gradient",
        initialize_second_moment: bool = True,
    ) -> None:
        for name, value in (("learning rate", lr), ("weight_decay value", weight_decay), ("epsilon value", eps)):
            if not value >= 0.0:
                raise ValueError(f"Invalid {name}: {value}")
        for index, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        if normalize not in ("gradient", "moment"):
            raise ValueError(f"Invalid normalize: {normalize}. Must be gradient or moment.")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})
        self.normalize, self.initialize_second_moment = normalize, initialize_second_moment

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step: update the weights, m and v of all parameters that have a gradient.

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
                    self._update(group, parameter)
        return loss

    def _update(self, group: dict[str, Any], parameter: torch.Tensor) -> None:
        (beta1, beta2), decay, state = group["betas"], group["weight_decay"], self.state[parameter]
        gradient = parameter.grad
        assert gradient is not None
        square = torch.linalg.vector_norm(gradient) ** 2
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = square.clone() if self.initialize_second_moment else (1 - beta2) * square
        else:
            state["exp_avg_sq"].mul_(beta2).add_((1 - beta2) * square)
        divisor = state["exp_avg_sq"].sqrt() + group["eps"]
        moment = state["exp_avg"].mul_(beta1)
        if self.normalize == "gradient":
            update = moment.add_(gradient / divisor).add_(parameter, alpha=decay)
        else:
            update = (moment.add_(gradient) / divisor).add_(parameter, alpha=decay / (1 - beta1))
        parameter.sub_(update * group["lr"])
