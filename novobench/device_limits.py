"""Settings that a device does not support, and would silently replace. Imports no torch."""

from __future__ import annotations

from novobench.config import CellConfig
from novobench.errors import ConfigError


def check_device(config: CellConfig, device: str) -> None:
    """Raise ConfigError if a training on `device` (`cpu`, `cuda` or `mps`) would not do what the config says."""
    runtime = config.runtime
    if runtime.precision == "16-mixed" and device == "cpu":
        raise ConfigError(
            "'runtime.precision' 16-mixed needs a GPU: on a CPU, where this training runs, Lightning would use "
            "bfloat16 instead. Set runtime.precision=bf16-mixed or 32-true."
        )
    if runtime.precision == "64-true" and device == "mps":
        raise ConfigError("'runtime.precision' 64-true: Apple's GPUs have no float64. Set runtime.accelerator=cpu.")
    if runtime.cuda_graphs and device != "cuda":
        raise ConfigError(f"'runtime.cuda_graphs' is true, but this training runs on {device}. Set it to false.")
