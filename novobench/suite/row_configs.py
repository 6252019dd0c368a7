"""From a row of an experiment to the config of its cell (one training run)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from novobench import places
from novobench.config import CellConfig
from novobench.config_loading import check_overridable, read_yaml, set_keys
from novobench.errors import ConfigError, suggestion
from novobench.places import display_path
from novobench.suite.experiment import Experiment, Layer, Row
from novobench.tasks.catalog import default_list, load_task, resolve


def row_config(
    experiment: Experiment,
    row: Row,
    scale: str,
    seed: int,
    extra: Mapping[str, Any] | None = None,
    rates: Mapping[str, Any] | None = None,
    base: DictConfig | None = None,
) -> CellConfig | None:
    """The config of a row's cell: the task's config with `row_layers` on top. None if the row has no cell at the scale.

    `base` is the result of `task_tree`, for a caller that has read it already.
    """
    if row.at(scale) is None:
        return None
    tree = copy.deepcopy(base) if base is not None else task_tree(experiment, scale)
    where = row_place(experiment, row, scale)
    for layer in row_layers(experiment, row, scale, seed, extra, rates):
        set_keys(tree, layer.overrides, where, default_list)
    return resolve(tree, where)


def row_layers(
    experiment: Experiment,
    row: Row,
    scale: str,
    seed: int,
    extra: Mapping[str, Any] | None = None,
    rates: Mapping[str, Any] | None = None,
) -> list[Layer]:
    """All overrides on top of the task's config, lowest first: experiment, row, tuned rates, then `extra`.

    `rates` replace the tuned ones, for a search that is about to find them.
    """
    layers = experiment.overrides(row, scale)
    if (key := row.tuned_key(scale)) is not None:
        where = row_place(experiment, row, scale)
        own = any("optimizer.lr" in layer.overrides for layer in layers)
        rates = rates or tuned_rates(experiment.task, scale, key, where, own=own)
        file = display_path(places.workspace().find(places.workspace().tuned_rates(experiment.task, scale)))
        check_overridable(rates, f"{where}: '{key}' in {file}")
        layers.append(Layer(f"{file}, {key}", rates))
    layers.append(Layer("experiment task", {"task": experiment.task}))
    layers.append(Layer("--scale and --seeds", {"scale": scale, "seed": seed}))
    return [*layers, Layer("--set", extra or {})]


def row_place(experiment: Experiment, row: Row, scale: str) -> str:
    """File, row and scale, for error messages."""
    return f"{experiment.place} row '{row.id}' at {scale} scale"


def task_tree(experiment: Experiment, scale: str) -> DictConfig:
    """The task's config at a scale, without the overrides of rows."""
    return load_task(experiment.task, places.workspace().task_config(experiment.task, scale))


def searched(experiment: Experiment, row: Row, scale: str) -> bool:
    """Whether the row's rates were found by a search at that scale."""
    key = row.tuned_key(scale)
    return key is not None and key in _tuned(experiment.task, scale)


def _tuned(task: str, scale: str) -> dict[str, Any]:
    tuned: dict[str, Any] = {}
    for path in places.workspace().tuned_rate_files(task, scale):
        tuned |= read_yaml(path)
    return tuned


def tuned_rates(task: str, scale: str, key: str, where: str, *, own: bool = False) -> dict[str, Any]:
    """The rates that `search` found under `key`.

    Without any yet: no rates for a row with rates of its `own`, else ConfigError.
    """
    path, tuned = places.workspace().tuned_rates(task, scale), _tuned(task, scale)
    if key not in tuned and own:
        return {}
    if key not in tuned:
        raise ConfigError(
            f"{where}: no tuned rates '{key}' in {display_path(path)}.{suggestion(key, list(tuned))} "
            f"Run: novobench search <experiment> --scale {scale}"
        )
    if not isinstance(tuned[key], dict):
        raise ConfigError(f"{display_path(path)}: '{key}' must be a mapping of rates, not {tuned[key]}.")
    return tuned[key]
