"""CUDA graphs of a training step: what a task does alike in every step is launched as one thing.

Only the launches change: operations, inputs and random numbers are those of a step without, so are the bits.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch

from novobench.config import CellConfig
from novobench.errors import ConfigError
from novobench.tasks.base import TaskModule


def check(config: CellConfig, module: TaskModule, trainer: pl.Trainer) -> None:
    """Raise `ConfigError` where `runtime.cuda_graphs` cannot be had."""
    reason = ""
    if trainer.world_size > 1:
        reason = f"this training runs on {trainer.world_size} devices, and graphs were made for one"
    elif type(module).graphable is TaskModule.graphable:
        reason = f"shapes of the task '{config.task}' differ from step to step"
    if reason:
        raise ConfigError(f"runtime.cuda_graphs is true, but {reason}. Set runtime.cuda_graphs=false.")


def capture(module: TaskModule, batch: Any, trainer: pl.Trainer) -> None:
    """Make the graph before this process's first step; `batch` is that step's, on the device.

    Its warm-up would move the statistics of batch norm, which are put back. Random numbers it uses do not matter: the
    generator is seeded before each micro-batch, and a replay takes seed and offset from it.
    """
    with trainer.precision_plugin.forward_context():  # Lightning's autocast keeps no casts, as a graph demands
        part, inputs = module.graphable(batch)
        kept = {name: buffer.clone() for name, buffer in part.named_buffers()}
        # By itself torch forbids all threads what may not be captured; a loader's thread pins memory meanwhile.
        one_thread = partial(torch.cuda.graph, capture_error_mode="thread_local")
        with mock.patch("torch.cuda.graph", one_thread):
            torch.cuda.make_graphed_callables(part, inputs, allow_unused_input=True)  # replaces `part.forward`
    with torch.no_grad():
        for name, buffer in part.named_buffers():
            buffer.copy_(kept[name])


def own_gradients(module: TaskModule) -> None:
    """After the first of several micro-batches: autograd has made the graph's own memory the gradient, and the next
    replay would overwrite what it is to be added to."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clone()
