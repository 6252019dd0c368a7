"""Finds tasks by name and turns a config tree into a typed, checked `CellConfig`. Imports no torch.

A task is a folder beside this file with a `config.py` (its dataclasses and `RECIPE_VERSION`) and a `task.py`
(its LightningModule and data). Nothing else needs to know that it exists.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from novobench.config import CellConfig, override, parse_budget, typed
from novobench.errors import ConfigError, suggestion
from novobench.optim import registry, schedules


def task_names() -> list[str]:
    """The tasks that exist: the folders here that have a config."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/config.py"))


def task_config(name: str, where: str = "task") -> ModuleType:
    """The torch-free `config` module of a task."""
    if name not in task_names():
        hint = suggestion(str(name), task_names())
        raise ConfigError(f"{where}: there is no task '{name}'.{hint} Known: {', '.join(task_names())}.")
    return importlib.import_module(f"novobench.tasks.{name}.config")


def resolve(tree: DictConfig, where: str) -> CellConfig:
    """Check a whole cell: keys, types, optimizer and its options, budget, schedule, batch arithmetic.

    `where` names the file and row for error messages.
    """
    task = task_config(tree.get("task"), where)
    name = OmegaConf.select(tree, "optimizer.name")
    try:
        entry = registry.get(str(name))
    except LookupError as error:
        raise ConfigError(f"{where}: 'optimizer.name': {error.args[0]}") from None
    tree = _with_preset(tree, entry, where)
    tree = override(tree, {"recipe_version": task.RECIPE_VERSION}, where)
    nodes = {
        "model": task.MODEL,
        "data": task.DATA,
        "schedule": schedules.ScheduleSpec,
        "optimizer.options": entry.options,
    }
    config: CellConfig = typed(tree, CellConfig, nodes, where)
    try:
        schedules.validate(config.schedule)
        registry.validate(entry, config.optimizer.options, config.optimizer.weight_decay)
        _ = config.accumulation
        parse_budget(config.budget)
        if hasattr(task, "validate"):
            task.validate(config)
        if epoch_updates(config) < 1:
            raise ConfigError(
                f"data '{config.data.name}' is less than one optimizer batch of {config.batch.size}. Lower batch.size."
            )
        if total_updates(config) < 1:
            raise ConfigError(f"budget '{config.budget}' is less than one update of {config.batch.size} samples.")
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None
    return config


def _with_preset(tree: DictConfig, entry: registry.OptimizerEntry, where: str) -> DictConfig:
    preset = OmegaConf.select(tree, "optimizer.preset")
    if preset is None:
        return tree
    if preset not in entry.presets:
        known = list(entry.presets)
        raise ConfigError(
            f"{where}: 'optimizer.preset': {entry.name} has no preset '{preset}'.{suggestion(preset, known)} "
            f"Known: {', '.join(known) or 'none'}."
        )
    given = OmegaConf.to_container(OmegaConf.select(tree, "optimizer.options") or OmegaConf.create({}))
    options = {**entry.presets[preset], **given}  # type: ignore[dict-item]
    return override(tree, {"optimizer.options": options}, where)


def epoch_updates(config: CellConfig) -> int:
    """Updates in one epoch of the training data, as the config declares them."""
    return config.data.updates_per_epoch(config.batch.size)


def total_updates(config: CellConfig) -> int:
    """All updates of a cell; from the config alone, never from a trainer or a data loader."""
    amount, unit = parse_budget(config.budget)
    if unit == "ep":
        return round(amount * epoch_updates(config))
    if unit == "steps":
        return round(amount)
    tokens = getattr(config.data, "tokens_per_sample", None)
    if tokens is None:
        raise ConfigError(f"budget '{config.budget}': task '{config.task}' does not count tokens; use ep or steps.")
    return math.ceil(amount / (config.batch.size * tokens))


def epochs(config: CellConfig) -> float:
    """The budget in epochs."""
    return total_updates(config) / max(epoch_updates(config), 1)


def plain(config: Any) -> dict[str, Any]:
    """A typed config as nested plain data."""
    return dataclasses.asdict(config)
