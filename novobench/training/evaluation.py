"""Evaluates one split during or after a training: each sample once, over all processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from novobench.tasks.base import EvaluationSet, TaskData, TaskModule
from novobench.tasks.metric import Metric


def evaluate(
    trainer: pl.Trainer, module: TaskModule, data: TaskData, split: EvaluationSet, after_batch: Callable[[], None]
) -> tuple[dict[str, Metric], list[dict[str, Any]]]:
    """Metrics of the whole split, and its predictions in the order of their index (all of them on the first process).

    after_batch: called after each batch, to show that the process is alive.
    """
    was_training = module.training
    module.eval()
    module.evaluation_start()
    predictions: list[dict[str, Any]] = []
    with torch.no_grad():
        for batch in data.evaluation_batches(split.dataset, trainer.global_rank, trainer.world_size):
            on_device = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
            with trainer.precision_plugin.val_step_context():
                predictions += module.evaluation_step(on_device)
            after_batch()
    metrics = module.evaluation_end()
    module.train(was_training)
    if trainer.world_size > 1:
        shares: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(shares, predictions)
        predictions = [prediction for share in shares for prediction in share]
    return metrics, sorted(predictions, key=lambda prediction: prediction["index"])


def average_batch_norm(module: torch.nn.Module, world: int) -> None:
    """Set the batch-norm running statistics of all processes to their mean (DDP alone would keep those of rank 0).

    Moving averages are linear in their inputs, so averaging more often changes rounding only.
    """
    if world == 1:
        return
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None:
            for statistic in (layer.running_mean, layer.running_var):
                torch.distributed.all_reduce(statistic)
                statistic /= world
