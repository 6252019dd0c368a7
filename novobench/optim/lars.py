"""Layer-wise adaptive rates: the LARS optimizer, and LARC, which rescales gradients before any optimizer's step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    r"""SGD with momentum whose rate each layer scales by trust · ‖w‖ / (‖g‖ + d·‖w‖) (You et al., 2017).

    .. math::
        u = g + d w, \qquad m \leftarrow \beta m + \lambda \cdot r \cdot u, \qquad w \leftarrow w - m

    with r = trust · ‖w‖ / (‖g‖ + d·‖w‖ + ε), and r = 1 where ‖w‖ or ‖g‖ is 0. Differences from the paper, which
    has neither ε nor exceptions: r = 1 also in groups with `weight_decay_factor` 0, such as batch norm and biases, as
    in public large-batch recipes. `weight_decay_groups` sets this key.

    Args:
        params: parameters, or parameter groups. Any shape; real floating-point dtypes. Norms and momentum have the
            parameter's dtype.
        lr: λ. No default.
        momentum: β in [0, 1). Default 0.9, the paper's.
        weight_decay: d, added to the gradient. Default 0.
        trust: trust coefficient. Default 0.001, the paper's.
        eps: ε, added to the denominator of r. Default 1e-8.

    Raises:
        ValueError: an option is out of range.

    State of a parameter: `momentum_buffer` (m: shape and dtype of the parameter).
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        eps: float = 1e-8,
    ) -> None:
        for name, value in (("learning rate", lr), ("weight_decay value", weight_decay), ("trust value", trust)):
            if not value >= 0.0:
                raise ValueError(f"Invalid {name}: {value}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "eps": eps}
        super().__init__(params, {**defaults, "weight_decay_factor": 1.0})

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
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        decay = group["weight_decay"]
        rate: Tensor | float = 1.0
        if group["weight_decay_factor"] != 0.0:
            weight_norm, gradient_norm = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(gradient)
            adapted = group["trust"] * weight_norm / (gradient_norm + decay * weight_norm + group["eps"])
            rate = torch.where((weight_norm > 0) & (gradient_norm > 0), adapted, 1.0)
        update = gradient.add(parameter, alpha=decay) if decay else gradient
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(update * (rate * group["lr"]))
        parameter.sub_(buffer)


@torch.no_grad()
def larc_(
    param_groups: Iterable[dict[str, Any]],
    trust: float,
    mode: Literal["clip", "scale"] = "clip",
    *,
    decay_first: bool = False,
) -> None:
    """Scale each gradient in place, so that the next optimizer step has a layer-wise adaptive rate.

    Call it between `backward` and `optimizer.step`. The factor is trust · ‖w‖ / (‖g‖ + 1e-7), at least 1e-7; with
    `mode="clip"` it is divided by lr and is at most 1. This is the form of OpenSeq2Seq (optimizers/optimizers.py,
    `post_process_gradients`), which the NovoGrad paper calls LARC (§4.3). NovoGrad with β₂ = 0 is not affected, because
    the factor cancels in g/‖g‖.

    Args:
        param_groups: an optimizer's `param_groups`, with `params`, `lr` and, for `decay_first`, `weight_decay`. Tensors
            of any shape and real floating-point dtype; tensors without a gradient are skipped.
        trust: trust coefficient.
        mode: `"clip"` (default): the adaptive rate replaces λ where it is smaller. `"scale"`: it multiplies λ.
        decay_first: for optimizers that add d·w to the gradient. OpenSeq2Seq, apex and NeMo add it before LARC,
            which then measures and scales the sum. This function adds d·w to the gradients and sets the groups'
            `weight_decay` to 0, so that the step does not add it again. Default False.
    """
    for group in param_groups:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        decay = group["weight_decay"] if decay_first else 0.0
        if decay_first:
            group["weight_decay"] = 0.0
        clips = mode == "clip"
        for weights, gradients in _by_device_and_dtype(parameters):
            if decay:
                torch._foreach_add_(gradients, weights, alpha=decay)
            if clips and float(group["lr"]) == 0.0:
                continue
            weight_norms = torch.stack(torch._foreach_norm(weights))
            gradient_norms = torch.stack(torch._foreach_norm(gradients)) + 1e-7
            factors = trust * weight_norms / (group["lr"] * gradient_norms if clips else gradient_norms)
            factors = factors.clamp_min(1e-7)
            torch._foreach_mul_(gradients, list(factors.clamp_max(1.0) if clips else factors))


def _by_device_and_dtype(parameters: Iterable[Tensor]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Parameters and their gradients, grouped by device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for parameter in parameters:
        assert parameter.grad is not None
        weights, gradients = groups.setdefault((parameter.device, parameter.dtype), ([], []))
        weights.append(parameter)
        gradients.append(parameter.grad)
    yield from groups.values()
