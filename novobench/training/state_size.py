"""The memory that an optimizer keeps between updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from novobench.config import CellConfig
from novobench.tasks import base
from novobench.training.evaluation_weights import switchable
from novobench.training.rates import optimizer_parts


def state_bytes(config: CellConfig) -> tuple[int, int]:
    """The bytes of all tensors in the optimizer's state after one update, and the number of trainable parameters.

    Builds the config's model and optimizer on the CPU and takes a step with random gradients. Whatever the optimizer
    raises passes unchanged.
    """
    module, _ = base.build(config)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = module.configure_optimizers()
    parts = optimizer_parts(optimizer, config.optimizer)
    for each in switchable(optimizer):  # a schedule-free one steps in train mode only
        each.train()
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 1e-3
    optimizer.step(lambda: 0.0)  # some optimizers require a closure
    tensors = [tensor for part in parts for tensor in _tensors(part.optimizer.state)]
    weights = {parameter.data_ptr() for parameter in parameters}
    unique = {id(tensor): tensor for tensor in tensors if tensor.data_ptr() not in weights}
    return sum(t.numel() * t.element_size() for t in unique.values()), sum(p.numel() for p in parameters)


def _tensors(state: Any) -> Iterable[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from _tensors(value)
