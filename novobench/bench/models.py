"""The parameter shapes of the paper's four models, on which optimizer steps are timed."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor

from novobench.tasks.catalog import task_config

Shapes = list[tuple[int, ...]]


def shapes_of(task: str) -> Shapes:
    """Parameter shapes of the task's model at the paper's size."""
    model = importlib.import_module(f"novobench.tasks.{task}.model")
    with torch.device("meta"):
        parameters = model.build(task_config(task).MODEL()).parameters()
    return [tuple(p.shape) for p in parameters if p.requires_grad]


MODELS: dict[str, Callable[[], Shapes]] = {
    "ResNet-50v2": lambda: shapes_of("image"),
    "Jasper DR 10x5": lambda: shapes_of("speech"),
    "Transformer-big": lambda: shapes_of("translation"),
    "Transformer-XL": lambda: shapes_of("language"),
}


def random_parameters(shapes: Shapes, device: torch.device) -> list[Tensor]:
    """fp32 parameters with gradients, the same ones every time."""
    generator = torch.Generator(device).manual_seed(0)
    parameters = []
    for shape in shapes:
        parameter = torch.randn(shape, generator=generator, device=device).requires_grad_()
        parameter.grad = torch.randn(shape, generator=generator, device=device)
        parameters.append(parameter)
    return parameters
