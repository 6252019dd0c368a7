"""CUDA graphs of a training step: the kernels that are the same in every step are launched at once.

Only the launches change. Operations, inputs and random numbers stay the same, so the weights have the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch

from novobench.config import CellConfig
from novobench.errors import ConfigError
from novobench.tasks.base import TaskModule


def check(config: CellConfig, module: TaskModule, trainer: pl.Trainer) -> None:
    """Raise ConfigError if this training cannot use `runtime.cuda_graphs`."""
    reason = ""
    if trainer.world_size > 1:
        reason = f"this training runs on {trainer.world_size} devices, and graphs support one"
    elif type(module).graphable is TaskModule.graphable:
        reason = f"the shapes of the task '{config.task}' differ from step to step"
    if reason:
        raise ConfigError(f"runtime.cuda_graphs is true, but {reason}. Set runtime.cuda_graphs=false.")


def capture(module: TaskModule, batch: Any, trainer: pl.Trainer) -> None:
    """Capture the graph before the first step of this process; `batch` is the batch of that step, on the device.

    The warm-up would change batch-norm statistics, so they are restored. The random numbers that it draws do not
    matter: the generator is seeded before each micro-batch, and a replay takes seed and offset from it.
    """
    with trainer.precision_plugin.forward_context():  # Lightning's autocast caches no casts, as a graph requires
        part, inputs = module.graphable(batch)
        before = {name: buffer.clone() for name, buffer in part.named_buffers()}
        # By default torch forbids uncapturable calls in all threads; a loader's thread pins memory meanwhile.
        one_thread = partial(torch.cuda.graph, capture_error_mode="thread_local")
        with mock.patch("torch.cuda.graph", one_thread):
            torch.cuda.make_graphed_callables(part, inputs, allow_unused_input=True)  # replaces `part.forward`
    with torch.no_grad():
        for name, buffer in part.named_buffers():
            buffer.copy_(before[name])


@contextmanager
def bypassed(module: TaskModule) -> Iterator[None]:
    """Within it, a module in train mode runs its layers themselves: a graph has batch norm's momentum built in.

    A graph is replayed only in the mode of its capture, which the flag of the captured part tells, not those of its
    layers. That part is the one whose `forward` was replaced.
    """
    captured = [part for part in module.modules() if part.training and "forward" in vars(part)]
    for part in captured:
        part.training = False
    yield
    for part in captured:
        part.training = True


def own_gradients(module: TaskModule) -> None:
    """Call after the first of several micro-batches. The gradients are the graph's own memory by now, which the next
    replay overwrites, so they are copied."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clone()
