"""The switch between the weights that are trained and those that are evaluated, for optimizers with `train()` and
`eval()`, such as schedule-free ones. For any other optimizer they are the same, and nothing here does anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from novobench.config import CellConfig
from novobench.optim.composite import switchable
from novobench.tasks.base import TaskData, TaskModule
from novobench.training import graphs
from novobench.training.evaluation import average_batch_norm
from novobench.training.random_numbers import seed_micro_batch

STATISTICS_BATCHES = 50
"""Micro-batches, over all processes, from which batch-norm statistics of the evaluation weights are computed: rounded
up to whole updates, and at most an epoch."""


class EvaluationWeights:
    """Puts the weights that are evaluated into the module, for a while or for good.

    Batch norm's running statistics follow the weights that are trained. So those of the evaluation weights are computed
    from the first micro-batches of the training, in train mode, with the augmentation and dropout that the training
    saw: means and variances are averages over these micro-batches. They depend on the config alone.
    """

    def __init__(
        self,
        config: CellConfig,
        trainer: pl.Trainer,
        module: TaskModule,
        data: TaskData,
        after_batch: Callable[[], None],
    ) -> None:
        """Call before the first update of this process, after the optimizer has its state. after_batch: called after
        each micro-batch, to show that the process is alive."""
        self.config, self.trainer, self.module, self.data = config, trainer, module, data
        self.after_batch = after_batch
        self.optimizers = switchable(trainer.optimizers[0])
        self.norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        for optimizer in self.optimizers:
            optimizer.train()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within it, the module has its evaluation weights. Afterwards weights and buffers have the bits of before:
        `train()` undoes `eval()` up to rounding only, and a result must not depend on the number of evaluations."""
        if not self.optimizers:
            yield
            return
        tensors = [*self.module.parameters(), *self.module.buffers()]
        kept = [tensor.detach().clone() for tensor in tensors]
        self.use()
        yield
        for optimizer in self.optimizers:
            optimizer.train()
        with torch.no_grad():
            for tensor, value in zip(tensors, kept, strict=True):
                tensor.copy_(value)

    def use(self) -> None:
        """Put the evaluation weights, and batch-norm statistics of theirs, into the module."""
        for optimizer in self.optimizers:
            optimizer.eval()
        if self.optimizers and self.norms:
            self._renew_statistics()

    @torch.no_grad()
    def _renew_statistics(self) -> None:
        trainer, module, batch = self.trainer, self.module, self.config.batch
        world, rank = trainer.world_size, trainer.global_rank
        updates = min(math.ceil(STATISTICS_BATCHES * batch.micro / batch.size), self.config.epoch_updates)
        before = module.training, dict(module.streams), module.skipped_samples
        momenta = [norm.momentum for norm in self.norms]
        for norm in self.norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's sign for the average over all batches
        module.train()
        with graphs.bypassed(module):
            for number, item in enumerate(self.data.train_batches(0, updates, rank, world)):
                update, position = divmod(number, self.config.accumulation)
                seed_micro_batch(self.config.seed, update, position * world + rank, module.device)
                on_device = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(item))
                with trainer.precision_plugin.train_step_context():
                    module.training_step(on_device, number)
                self.after_batch()
        for norm, momentum in zip(self.norms, momenta, strict=True):
            norm.momentum = momentum
        average_batch_norm(module, world)
        was_training, module.streams, module.skipped_samples = before
        module.train(was_training)
