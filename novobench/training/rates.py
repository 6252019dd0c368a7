"""The learning rate and the weight decay of each update, in the groups of one optimizer or of the parts of several."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch.optim import Optimizer

from novobench.config import CellConfig, OptimizerConfig
from novobench.optim import registry, schedules
from novobench.optim.composite import Composite, Part


def optimizer_parts(optimizer: Optimizer, config: OptimizerConfig) -> Sequence[Part]:
    """The parts of a `Composite`; any other optimizer, built from `config`, is a single part."""
    if isinstance(optimizer, Composite):
        return optimizer.parts
    return [Part(registry.get(config.name), optimizer, config.weight_decay)]


def set_rates(parts: Sequence[Part], update: int, total: int, config: CellConfig) -> None:
    """Give each parameter group the rate and the weight decay of an update, in `lr` and `weight_decay`.

    The rate is that of the schedule which the part's entry expects, times `lr_ratio` of the group. With schedule `own`,
    `lr` stays as it is. The weight decay is the part's, with the milestones of the config's schedule, times
    `weight_decay_factor` of the group.
    """
    base = config.optimizer.lr * config.optimizer.lr_factor
    for part in parts:
        spec = config.schedule
        if part.entry.schedule == "constant":
            spec = dataclasses.replace(spec, name="constant")
        lr = schedules.learning_rate(update, total, base, spec)
        decay = schedules.weight_decay(update, total, part.weight_decay, spec)
        for group in part.optimizer.param_groups:
            if part.entry.schedule != "own":
                group["lr"] = lr * group.get("lr_ratio", 1.0)
            group["weight_decay"] = decay * group["weight_decay_factor"]
