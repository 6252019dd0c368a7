"""What `novobench compare` compares: optimizers with their ranges, the recipe of a task, and an experiment of both.

The experiment has one row per optimizer and no file. Searches, cells and tables treat it like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf

from novobench import places
from novobench.config import CellConfig
from novobench.config_loading import check_overridable, read_yaml
from novobench.errors import ConfigError, suggestion
from novobench.optim import registry
from novobench.places import display_path
from novobench.ranges import NOT_EMPTY
from novobench.schema import typed
from novobench.suite.experiment import Column, Experiment, Row, ScaleOverrides
from novobench.suite.row_configs import row_config
from novobench.suite.search_space import Ranges, Search, is_range, unequal_ranges
from novobench.suite.table_rows import setting
from novobench.yaml_text import untyped_value


@dataclass(frozen=True)
class Recipe:
    """What `compare` trains and judges on a task; one section of `configs/compare.yaml`."""

    columns: Annotated[list[Column], NOT_EMPTY]
    """The first one decides. `split` may be a key of the config, such as `data.test_sets[0]`."""
    set: dict[str, Any] = field(default_factory=dict)
    """Dotted overrides of the task's config at every scale."""
    laptop: dict[str, Any] = field(default_factory=dict)
    """Dotted overrides at one scale."""
    gpu: dict[str, Any] = field(default_factory=dict)
    full: dict[str, Any] = field(default_factory=dict)


def load_recipe(task: str) -> Recipe:
    """The section of a task in `configs/compare.yaml`. Raises ConfigError if it is missing or malformed."""
    path = places.workspace().find(places.workspace().root / "configs" / "compare.yaml")
    sections = read_yaml(path)
    if task not in sections:
        raise ConfigError(
            f"{display_path(path)} has no recipe for task '{task}'.{suggestion(task, list(sections))} Add a section "
            "with its columns."
        )
    where = f"{display_path(path)}, {task}"
    if not isinstance(sections[task], dict):
        raise ConfigError(f"{where}: must be a mapping, not {sections[task]}.")
    recipe: Recipe = typed(OmegaConf.create(sections[task]), Recipe, {}, where)
    return recipe


# ---------------------------------------------------------------------------------------------- optimizers


@dataclass(frozen=True)
class Contestant:
    """An optimizer to compare."""

    id: str
    """Unique in the comparison and usable in a file name."""
    label: str
    name: str
    """As a config names it: of the registry, `package.module:Class` or `file.py:Class`."""
    ranges: Ranges
    """Config key -> [low, high], to be searched. Empty if all rates are given."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Config key -> a value that is not searched."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Further overrides of its config, e.g. of its options."""


def contestants(names: Sequence[str], rates_file: Path | None) -> list[Contestant]:
    """The optimizers with these names. Raises ConfigError for one that does not exist, and for a malformed file.

    rates_file: YAML with a mapping per optimizer: numbers are rates that are not searched, `search` has ranges in place
    of the registry's, and `set` has overrides, e.g. `novograd: {lr: 0.02, set: {options.betas: [0.9, 0.25]}}`.
    """
    declared = {} if rates_file is None else read_yaml(rates_file)
    labels = [registry.label(name) for name in names]
    result = []
    for name, label in zip(names, labels, strict=True):
        if names.count(name) > 1:
            raise ConfigError(f"compare: '{name}' is named twice. Name each optimizer once.")
        try:
            entry = registry.get(name)
        except LookupError as error:
            raise ConfigError(f"compare: {error.args[0]}") from None
        ranges = {f"optimizer.{key}": [bounds.low, bounds.high] for key, bounds in entry.tunable.items()}
        unique = label if labels.count(label) == 1 else name
        rates = {} if "optimizer.lr" in ranges else {"optimizer.lr": 1.0}  # the config needs one
        contestant = Contestant(re.sub(r"[^A-Za-z0-9_]+", "_", unique).strip("_"), unique, name, ranges, rates)
        if name in declared:
            contestant = _with_declared(contestant, declared[name], f"{rates_file}: '{name}'")
        result.append(contestant)
    if unknown := [name for name in declared if name not in names]:
        hint = suggestion(str(unknown[0]), list(names))
        raise ConfigError(f"{rates_file}: '{unknown[0]}' is no optimizer of this comparison.{hint}")
    return result


def _with_declared(contestant: Contestant, content: Any, where: str) -> Contestant:
    """The contestant with what a file of rates says about it."""
    if not isinstance(content, dict):
        raise ConfigError(f"{where} must be a mapping, not {content}.")
    ranges, rates = dict(contestant.ranges), dict(contestant.rates)
    for key, value in content.items():
        value = untyped_value(value)
        if key in ("search", "set"):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: '{key}' must be a mapping, not {value}.")
        elif type(value) not in (int, float) or value < 0:
            raise ConfigError(f"{where}: '{key}' must be a number of 0 or more, or `search:` or `set:`, not {value}.")
        else:
            rates[f"optimizer.{key}"] = float(value)
            ranges.pop(f"optimizer.{key}", None)
    for key, bounds in content.get("search", {}).items():
        if not is_range(untyped_value(bounds)):
            raise ConfigError(f"{where}: 'search.{key}' must be [low, high], two rising numbers above 0, not {bounds}.")
        ranges[f"optimizer.{key}"] = [float(bound) for bound in bounds]
    overrides = {f"optimizer.{key}": value for key, value in content.get("set", {}).items()}
    return replace(contestant, ranges=ranges, rates=rates, overrides=overrides)


# ---------------------------------------------------------------------------------------------- the experiment


def contest(
    name: str, task: str, scale: str, entrants: Sequence[Contestant], trials: int, extra: Mapping[str, Any]
) -> Experiment:
    """The experiment that compares optimizers on a task: a row for each, with searched or given rates.

    extra: overrides of a command line, which the config of columns needs; they are not part of the experiment. Raises
    ConfigError if the config of an optimizer is invalid.
    """
    recipe = load_recipe(task)
    check_overridable(extra, "--set")
    rows = [
        Row(
            id=each.id,
            label=each.label,
            in_paper=False,
            set={"optimizer.name": each.name, **each.overrides, **each.rates},
            laptop=ScaleOverrides(tuned=each.id if each.ranges else None),
            gpu=ScaleOverrides(tuned=each.id if each.ranges else None),
            full=ScaleOverrides(tuned=each.id if each.ranges else None),
        )
        for each in entrants
    ]
    ranges = {each.name: {key: list(bounds) for key, bounds in each.ranges.items()} for each in entrants if each.ranges}
    experiment = Experiment(
        title=f"{', '.join(each.label for each in entrants)} on {task}",
        where="Not in the paper",
        task=task,
        columns=recipe.columns,
        rows=rows,
        set=recipe.set,
        laptop=recipe.laptop,
        gpu=recipe.gpu,
        full=recipe.full,
        search=Search(trials=trials, seeds=SEEDS_PER_TRIAL, reason=unequal_ranges(ranges), ranges=ranges),
        name=name,
        origin=f"compare, {task}:",
    )
    configs = [row_config(experiment, row, scale, 0, extra, lowest_rates(experiment, row, scale)) for row in rows]
    first = configs[0]
    assert first is not None
    return replace(experiment, columns=[_resolved(column, first) for column in recipe.columns])


SEEDS_PER_TRIAL = 1
"""Trainings per trial. The seeds of a search only choose rates; the verdict comes from other seeds."""


def lowest_rates(experiment: Experiment, row: Row, scale: str) -> dict[str, float] | None:
    """The rates at the low end of a row's ranges, for a config before its search; None if it has no search."""
    if row.tuned_key(scale) is None:
        return None
    ranges = experiment.search.ranges_of(str(row.set["optimizer.name"]))
    return {key: bounds[0] for key, bounds in ranges.items()}


def _resolved(column: Column, config: CellConfig) -> Column:
    """The column with the name of its split."""
    return replace(column, split=setting(config, column.split)) if "." in column.split else column
