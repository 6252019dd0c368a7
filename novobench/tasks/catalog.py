"""Finds tasks by name and turns a config tree into a typed, checked `CellConfig`. Imports no torch.

A task is a folder in this package with a `config.py` (see `base_config.TaskConfig`) and a `task.py` (see `base`).
Nothing else lists the tasks.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any, cast, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from novobench import tasks
from novobench.budget import parse_budget, parse_warmup, rounded_share
from novobench.config import CellConfig, OthersConfig, scientific
from novobench.config_loading import load_tree, merge_over, override
from novobench.device_limits import check_device
from novobench.errors import ConfigError, suggestion
from novobench.optim import registry, schedules
from novobench.optim.entry import ROLES
from novobench.places import display_path
from novobench.schema import typed
from novobench.tasks.base_config import TaskConfig

_LARGEST_BUDGET = 10**12
"""Updates: thirty years at a thousand updates per second."""


def task_names() -> list[str]:
    """The folders of this package that have a config, sorted."""
    return sorted(path.parent.name for folder in tasks.__path__ for path in Path(folder).glob("*/config.py"))


def task_config(name: str, where: str = "task") -> TaskConfig:
    """The torch-free `config` module of a task."""
    if name not in task_names():
        hint = suggestion(str(name), task_names())
        raise ConfigError(f"{where}: there is no task '{name}'.{hint} Known: {', '.join(task_names())}.")
    return cast(TaskConfig, importlib.import_module(f"novobench.tasks.{name}.config"))


def load_task(name: str, path: Path) -> DictConfig:
    """The config file of a task, merged over the mappings and lists that are defaults of its fields, so that an
    override of one of their entries keeps the others. Raises ConfigError if the task or the file does not exist."""
    task = task_config(name)
    defaults = {
        part: {
            name: default
            for name, default in dataclasses.asdict(schema()).items()
            if get_origin(hints[name]) in (dict, list)
        }
        for part, schema in (("model", task.MODEL), ("data", task.DATA))
        for hints in [get_type_hints(schema)]
    }
    return merge_over(OmegaConf.create(defaults), load_tree(path), display_path(path))


def resolve(tree: DictConfig, where: str) -> CellConfig:
    """The config of one cell (one training run), checked: keys, types, ranges, optimizer and its options, budget,
    schedule, batch arithmetic.

    where: names the file and row in errors. Raises ConfigError in one line.
    """
    task = task_config(tree.get("task"), where)
    entry = _entry(tree, "optimizer.name", where)
    others = _entry(tree, "optimizer.others.name", where)
    tree = _with_preset(tree, entry, where)
    tree = override(tree, {"recipe_version": task.RECIPE_VERSION}, where)
    warmup = _pop_warmup(tree, where)
    nodes = {
        "model": task.MODEL,
        "data": task.DATA,
        "schedule": schedules.ScheduleSpec,
        "optimizer.options": entry.options,
        "optimizer.others.options": others.options,
    }
    config: CellConfig = typed(tree, CellConfig, nodes, where)
    try:
        if config.runtime.accelerator != "auto":
            check_device(config, config.runtime.accelerator)
        config = _with_code(_with_roles(config, entry, others), entry, others)
        _check_data_name(config, task)
        _ = config.accumulation
        parse_budget(config.budget)
        task.validate(config)
        if config.epoch_updates < 1:
            raise ConfigError(
                f"data '{config.data.name}' is less than one optimizer batch of {config.batch.size}. Lower batch.size."
            )
        if config.total_updates > _LARGEST_BUDGET:
            raise ConfigError(
                f"budget '{config.budget}' is more than {_LARGEST_BUDGET:.0e} updates, which would take decades."
            )
        if config.total_updates < 1:
            raise ConfigError(f"budget '{config.budget}' is less than one update of {config.batch.size} samples.")
        config = _with_warmup(config, warmup)
        schedules.validate(config.schedule)
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None
    return config


def _entry(tree: DictConfig, key: str, where: str) -> registry.OptimizerEntry:
    """The registry entry that a key of the config names; the optimizer of other roles is AdamW by default."""
    default = OthersConfig.name if key == "optimizer.others.name" else None
    try:
        return registry.get(str(OmegaConf.select(tree, key, default=default)))
    except LookupError as error:
        raise ConfigError(f"{where}: '{key}': {error.args[0]}") from None


def _with_roles(config: CellConfig, entry: registry.OptimizerEntry, others: registry.OptimizerEntry) -> CellConfig:
    """Check the optimizers of the config and their roles. Roles come back in the order of `ROLES`, and as None if the
    entry has the same, so that equal trainings have one id."""
    optimizer = config.optimizer
    registry.validate(entry, optimizer.options, optimizer.weight_decay)
    roles = entry.roles if optimizer.roles is None else optimizer.roles
    registry.validate_roles(entry, roles, optimizer.role_patterns, others, bool(scientific(optimizer.others)))
    if set(roles) != set(ROLES):
        decay = optimizer.others.weight_decay
        decay = optimizer.weight_decay if decay is None else decay
        registry.validate(others, optimizer.others.options, decay, "optimizer.others")
    same = set(roles) == set(entry.roles)
    ordered: list[str] | None = None if same else [role for role in ROLES if role in roles]
    return dataclasses.replace(config, optimizer=dataclasses.replace(optimizer, roles=ordered))


def _with_code(config: CellConfig, entry: registry.OptimizerEntry, others: registry.OptimizerEntry) -> CellConfig:
    """The config with the digests of the optimizers' source files. Raises ConfigError if it has another one: the file
    was edited after the cell was planned."""
    optimizer = config.optimizer
    for key, declared, named in (("code", optimizer.code, entry), ("others.code", optimizer.others.code, others)):
        if declared not in ("", named.code):
            raise ConfigError(
                f"'optimizer.{key}' is {declared}, but the source file of {named.name} now has {named.code or 'none'}: "
                "it was edited after this training was planned. Run the same command again."
            )
    changed = dataclasses.replace(optimizer.others, code=others.code)
    return dataclasses.replace(config, optimizer=dataclasses.replace(optimizer, code=entry.code, others=changed))


def _pop_warmup(tree: DictConfig, where: str) -> str | None:
    """Remove `schedule.warmup` from the tree and return it; None if it is not set."""
    schedule = tree.get("schedule")
    if not isinstance(schedule, DictConfig) or schedule.get("warmup") is None:
        return None
    for key in ("warmup_updates", "warmup_fraction"):
        if key in schedule:
            raise ConfigError(
                f"{where}: 'schedule.warmup' {schedule.warmup} and 'schedule.{key}' {schedule[key]} are both set. "
                "Keep schedule.warmup."
            )
    return str(schedule.pop("warmup"))


def _with_warmup(config: CellConfig, warmup: str | None) -> CellConfig:
    """The config with `schedule.warmup` (`5ep`, `500steps`, `0.05`, `5/90`) as an update count or a share."""
    if warmup is None:
        return config
    amount, unit = parse_warmup(warmup)
    if unit == "steps":
        if amount != int(amount):
            raise ConfigError(f"'schedule.warmup' is '{warmup}' and must be a whole number of updates.")
        schedule = dataclasses.replace(config.schedule, warmup_updates=int(amount))
    else:
        share = amount if unit == "share" else rounded_share(amount, config.epochs)
        if not 0 <= share < 1:
            raise ConfigError(f"'schedule.warmup' is '{warmup}' and must be 0 or more and less than the budget.")
        schedule = dataclasses.replace(config.schedule, warmup_fraction=share)
    return dataclasses.replace(config, schedule=schedule)


def default_list(tree: DictConfig, key: str) -> Any:
    """The list that the key of an optimizer option has by preset or default; None for any other key. For `override`: no
    file holds these lists, and they depend on the optimizer."""
    kind, _, option = key.rpartition(".")
    if kind not in ("optimizer.options", "optimizer.others.options"):
        return None
    optimizer = kind.removesuffix(".options")
    name, preset = (OmegaConf.select(tree, f"{optimizer}.{part}") for part in ("name", "preset"))
    if name is None and optimizer == "optimizer.others":
        name = OthersConfig.name
    if not isinstance(name, str):
        return None
    try:
        entry = registry.get(name)
    except LookupError:  # `resolve` raises the error
        return None
    defaults = {
        spec.name: spec.default_factory()
        for spec in dataclasses.fields(entry.options)
        if spec.default_factory is not dataclasses.MISSING
    }
    value = {**defaults, **entry.presets.get(str(preset), {})}.get(option)
    return value if isinstance(value, list) else None


def _check_data_name(config: CellConfig, task: TaskConfig) -> None:
    """Raise ConfigError for other data with the name of a shipped data set: results are filed under that name."""
    data, paths = config.data, task.SHIPPED.get(config.data.name)
    if data.source == task.BUILT_IN:
        if paths != ():
            names = ", ".join(name for name, others in task.SHIPPED.items() if not others)
            raise ConfigError(f"'data.name': source {data.source} has no data set '{data.name}'. It has: {names}.")
    elif paths is not None and (data.path or data.name) not in paths:
        origin = f"comes from {' or '.join(paths)}" if paths else "is built in"
        raise ConfigError(
            f"'data.path' {data.path or data.name}: '{data.name}' is the name of a shipped data set, which {origin}. "
            f"Give other data another name, e.g. data.name=my-{data.name}."
        )


def _with_preset(tree: DictConfig, entry: registry.OptimizerEntry, where: str) -> DictConfig:
    preset = OmegaConf.select(tree, "optimizer.preset")
    if preset is None:
        return tree
    if str(preset) not in entry.presets:
        presets = list(entry.presets)
        raise ConfigError(
            f"{where}: 'optimizer.preset': {entry.name} has no preset '{preset}'.{suggestion(str(preset), presets)} "
            f"Known: {', '.join(presets) or 'none'}."
        )
    own_options = OmegaConf.to_container(OmegaConf.select(tree, "optimizer.options") or OmegaConf.create({}))
    options = {**entry.presets[str(preset)], **own_options}  # type: ignore[dict-item]
    return override(tree, {"optimizer.options": options}, where)
