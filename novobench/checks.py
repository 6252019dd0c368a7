"""What types alone cannot tell of the fields that all trainings share. Imports no torch."""

from __future__ import annotations

import math
from operator import attrgetter

from novobench.config import CellConfig
from novobench.errors import ConfigError

_AT_LEAST = {
    "seed": 0,
    "batch.size": 1,
    "batch.micro": 1,
    "optimizer.lr": 0,
    "optimizer.weight_decay": 0,
    "runtime.threads": 1,
    "runtime.devices": 1,
    "runtime.nodes": 1,
    "runtime.cells_per_gpu": 1,
    "runtime.workers": 0,
    "runtime.log_every": 0,
    "runtime.curve_points": 0,
    "runtime.checkpoint_every": 1,
    "runtime.max_nonfinite": 1,
}
_ABOVE_ZERO = (
    "optimizer.lr_factor",
    "optimizer.clip_norm",
    "optimizer.larc_trust",
    "runtime.stall_minutes",
    "forecast.samples_per_second",
)


def check(config: CellConfig) -> None:
    """Raise ConfigError with the key where a number makes no sense, or what is asked cannot be had on any machine."""
    for key, least in _AT_LEAST.items():
        number = attrgetter(key)(config)
        if not least <= number < math.inf:
            raise ConfigError(f"'{key}' must be {least} or more and finite, not {number}.")
    for key in _ABOVE_ZERO:
        number = attrgetter(key)(config)
        if number is not None and not 0 < number < math.inf:
            raise ConfigError(f"'{key}' must be above 0 and finite, not {number}.")
    if config.runtime.accelerator != "auto":
        check_device(config, config.runtime.accelerator)


def check_device(config: CellConfig, device: str) -> None:
    """Raise ConfigError where a training on `device`, `cpu`, `cuda` or `mps`, would not be what the config says."""
    runtime = config.runtime
    if runtime.precision == "16-mixed" and device == "cpu":
        raise ConfigError(
            "'runtime.precision' 16-mixed needs a GPU: on a CPU, where this training runs, Lightning would take "
            "bfloat16 in its place. Set runtime.precision=bf16-mixed or 32-true."
        )
    if runtime.precision == "64-true" and device == "mps":
        raise ConfigError("'runtime.precision' 64-true: Apple's GPUs have no float64. Set runtime.accelerator=cpu.")
    if runtime.cuda_graphs and device != "cuda":
        raise ConfigError(f"'runtime.cuda_graphs' is true, but this training runs on {device}. Set it to false.")
