"""torch's Muon for weights of any dimension above one: a convolution's is the matrix (output channels, rest)."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, which accepts matrices alone; here dimensions after the first count as one.

    Args:
        params: parameters of two dimensions or more, or groups of these. Real floating-point dtypes.
        arguments: as `torch.optim.Muon`'s, with its defaults.

    Raises:
        ValueError: a parameter has fewer than two dimensions, or an argument is out of range.

    State of a parameter: `momentum_buffer` (shape and dtype of the parameter).
    """

    def __init__(self, params: Any, **arguments: Any) -> None:
        super().__init__([{"params": []}], **arguments)  # the constructor's check refuses more than two dimensions
        self.param_groups.clear()
        params = list(params)
        for group in params if params and isinstance(params[0], dict) else [{"params": params}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in `torch.optim.Optimizer`. Raises ValueError for a parameter of fewer than two dimensions."""
        super().add_param_group(param_group)
        for parameter in param_group["params"]:
            if parameter.dim() < 2:
                raise ValueError(
                    f"Muon takes matrices, not a parameter of shape {tuple(parameter.shape)}. Leave vectors and "
                    "scalars to another optimizer."
                )

    def _init_group(
        self,
        group: MutableMapping[str, Any],
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        muon_momentum_bufs: list[Tensor],
    ) -> bool:
        for parameter in group["params"]:
            if parameter.grad is not None and not self.state[parameter]:
                # In the parameter's memory format, which its gradient may not have.
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        has_complex: bool = super()._init_group(group, params_with_grad, grads, muon_momentum_bufs)
        for index, parameter in enumerate(params_with_grad):
            last = not parameter.is_contiguous()  # channels last: the order of columns changes no orthogonalization
            params_with_grad[index] = _columns_last(parameter, last).view(len(parameter), -1)
            grads[index] = _columns_last(grads[index], last).reshape(len(parameter), -1)
            muon_momentum_bufs[index] = _columns_last(muon_momentum_bufs[index], last).view(len(parameter), -1)
        return has_complex


def _columns_last(tensor: Tensor, channels_last: bool) -> Tensor:
    return tensor.movedim(1, -1) if channels_last else tensor
