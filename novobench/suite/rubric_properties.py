"""Numbers of a recipe that the paper prints and that follow from several config keys together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from novobench.config import CellConfig
from novobench.optim import registry
from novobench.suite.show import parameters
from novobench.suite.table_rows import value_at


def value_of(config: CellConfig, key: str) -> Any:
    """The value of a property or of a config key. Raises KeyError if there is neither."""
    return PROPERTIES[key](config) if key in PROPERTIES else value_at(config, key)


def _learning_rate(config: CellConfig) -> float:
    return config.optimizer.lr * config.optimizer.lr_factor


def _warmup_updates(config: CellConfig) -> int:
    return config.schedule.warmup_updates or round(config.schedule.warmup_fraction * config.total_updates)


def _warmup_share(config: CellConfig) -> float:
    return config.schedule.warmup_fraction or config.schedule.warmup_updates / config.total_updates


def _passes_on_8_gpus(config: CellConfig) -> int:
    """Forward passes of a process, if 8 share the batch. Raises ConfigError if the batch cannot be divided so."""
    on_8_gpus = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, devices=8))
    return on_8_gpus.total_updates * on_8_gpus.accumulation


def _weight_layers(config: CellConfig) -> int:
    """Of a ResNet with bottleneck blocks: the first convolution, three per block, and the classifier."""
    return 2 + 3 * sum(config.model.depths)


def _residual_blocks(config: CellConfig) -> str:
    """Of Jasper, as its name has them: blocks × sub-blocks."""
    repeats = [block.repeat for block in config.model.blocks if block.residual]
    return f"{len(repeats)}x{'/'.join(map(str, sorted(set(repeats))))}"


def _state_relative_to_adam(config: CellConfig) -> float:
    """Bytes of optimizer state per parameter, relative to Adam's."""
    return (
        registry.get(config.optimizer.name).state_bytes_per_parameter / registry.get("adam").state_bytes_per_parameter
    )


PROPERTIES: dict[str, Callable[[CellConfig], Any]] = {
    "epochs": lambda config: config.epochs,
    "learning_rate": _learning_rate,
    "learning_rate_per_sample": lambda config: _learning_rate(config) / config.batch.size,
    "parameters": parameters,
    "passes_on_8_gpus": _passes_on_8_gpus,
    "residual_blocks": _residual_blocks,
    "state_relative_to_adam": _state_relative_to_adam,
    "tokens": lambda config: config.total_updates * config.batch.size * config.data.tokens_per_sample,
    "transformer_layers": lambda config: config.model.encoder_layers + config.model.decoder_layers,
    "updates": lambda config: config.total_updates,
    "updates_per_epoch": lambda config: config.epoch_updates,
    "warmup_share": _warmup_share,
    "warmup_updates": _warmup_updates,
    "weight_decay_steps": lambda config: len(config.schedule.weight_decay_milestones),
    "weight_layers": _weight_layers,
}
"""Name in configs/rubric.yaml -> the property of a config. No config key has one of these names."""
