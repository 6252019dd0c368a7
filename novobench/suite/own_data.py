"""Measures data of a user's own: from `path=photos` to all config values that a training on them needs.

The knowledge of layouts and sizes is the task's: see `novobench.tasks.inspection`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from novobench import places, yaml_text
from novobench.config import BatchConfig, CellConfig
from novobench.config_loading import check_overridable, override
from novobench.console import counted
from novobench.errors import ConfigError, DataError, one_line, suggestion
from novobench.schema import typed
from novobench.tasks.catalog import default_list, load_task, resolve, task_config
from novobench.tasks.inspection import BadItems, Draft, Inspection
from novobench.tasks.sources import list_folder, printable

_TOP_KEYS = {spec.name for spec in dataclasses.fields(CellConfig)}
_WHERE = "--data"
_MOST_REASONS = 10


@dataclass(frozen=True)
class Measured:
    """Data of a user's own, and the config that trains on them."""

    task: str
    name: str
    """`data.name`, under which results are filed."""
    overrides: dict[str, Any]
    """Every dotted key that a config needs for these data, in the order in which the keys must be set: measured values,
    then the user's own."""
    given_words: list[str]
    """The user's own `--data` words."""
    facts: list[tuple[str, str]] = field(default_factory=list)
    """What the data are: heading and text."""
    bad: list[BadItems] = field(default_factory=list)
    """Items that cannot be used, by reason."""
    notes: list[str] = field(default_factory=list)
    """What was decided for the user: sentences."""
    scale: str = "laptop"

    @cached_property
    def config(self) -> CellConfig:
        """The task's config at the scale with these data and any optimizer."""
        tree = load_task(self.task, places.workspace().task_config(self.task, self.scale))
        fixed = {"task": self.task, "scale": self.scale, "seed": 0, "optimizer.name": "sgd", "optimizer.lr": 0.1}
        return resolve(override(tree, {**fixed, **self.overrides}, _WHERE, default_list), _WHERE)

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the content, as in the records of trainings. Reads all data once per machine."""
        _, data = importlib.import_module(f"novobench.tasks.{self.task}.task").build(self.config)
        return data.identify()

    @property
    def options(self) -> list[str]:
        """The overrides as words of `--set`."""
        return [f"{key}={_as_argument(value)}" for key, value in self.overrides.items()]


def measure(task: str, scale: str, overrides: Mapping[str, Any]) -> Measured:
    """Measure the data that `overrides` name, for a task's config at a scale.

    `overrides` are those of `--data`: keys of the task's data config without `data.` in front (`path`, `limit`), or
    whole keys of a config (`model.classes`, `batch.size`). `path` is a folder under the data root or the current
    folder or, with `source` hub, a hub id. Raises ConfigError for a wrong key, and DataError if data cannot be read.
    """
    config = task_config(task)
    given = {_full_key(key): value for key, value in overrides.items()}
    check_overridable(given, _WHERE)
    root = places.data_root(str(given.get("data_root", "")))
    path = given.get("data.path") or given.get("data.name")
    if not isinstance(path, str):
        raise ConfigError(f"{_WHERE} needs the folder of the data: --data path=FOLDER.")
    given["data.path"] = path if given.get("data.source") == "hub" else _located(path, root)
    given.setdefault("data.name", _own_name(path, config.SHIPPED))
    tree = load_task(task, places.workspace().task_config(task, scale))
    tree = override(tree, given, _WHERE, default_list)
    parts = OmegaConf.create({key: tree[key] for key in ("data", "model", "batch") if key in tree})
    typed_parts = typed(parts, _Parts, {"data": config.DATA, "model": config.MODEL}, _WHERE)
    draft = Draft(typed_parts.data, typed_parts.model, typed_parts.batch, scale, root, frozenset(given))
    found: Inspection = _measuring_module(task).measure(draft)
    measured = {key: value for key, value in found.settings.items() if key not in given}
    names = {key: given[key] for key in ("data.name", "data.path")}
    return Measured(
        task=task,
        name=str(given["data.name"]),
        overrides=names | measured | {key: value for key, value in given.items() if key not in names},
        given_words=[f"{key}={_as_argument(value)}" for key, value in overrides.items()],
        facts=found.facts,
        bad=found.bad,
        notes=found.notes,
        scale=scale,
    )


def overrides_for(tasks: Iterable[str], scale: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides of all configs for the data of `--data`; none without data.

    Says on standard error what was decided. Raises ConfigError if there are several tasks.
    """
    if not data:
        return {}
    names = sorted(set(tasks))
    if len(names) > 1:
        raise ConfigError(f"{_WHERE}: data are of one task, but this command has {', '.join(names)}. Name one task.")
    measured = measure(names[0], scale, data)
    for line in (*problem_lines(measured), *measured.notes):
        print(one_line(line), file=sys.stderr)
    return measured.overrides


def problem_lines(measured: Measured) -> list[str]:
    """A line for each reason why items cannot be used."""
    lines = [
        f"{counted(item.count, 'bad item')}: {item.reason}, e.g. {printable(item.example)}" for item in measured.bad
    ]
    if rest := measured.bad[_MOST_REASONS:]:
        count = sum(item.count for item in rest)
        lines[_MOST_REASONS:] = [f"{counted(count, 'bad item')} for {counted(len(rest), 'other reason')}"]
    return lines


@dataclass(frozen=True)
class _Parts:
    """The parts of a config that `Draft` holds."""

    batch: BatchConfig
    data: Any = field(default_factory=dict)
    model: Any = field(default_factory=dict)


def _measuring_module(task: str) -> Any:
    """The task's module `measure`. Raises ConfigError if the task has none."""
    name = f"novobench.tasks.{task}.measure"
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"{_WHERE}: the task {task} cannot measure data. Set its keys with --set instead.")
    return importlib.import_module(name)


def _full_key(key: str) -> str:
    """A key of `--data` as a dotted key of a config."""
    first = re.split(r"[.\[]", key)[0]
    return key if first in _TOP_KEYS else f"data.{key}"


def _located(path: str, root: Path) -> str:
    """`data.path` for a folder under the data root, in the current folder or anywhere. Raises DataError if there is
    none."""
    here = Path(path).expanduser()
    for folder, name in ((root / path, path), (here, str(here.absolute()))):
        if os.path.isdir(folder):
            return name
        if os.path.exists(folder):
            raise DataError(f"{_WHERE} path={path}: {folder} is a file. Name the folder that holds it.")
    near = [*list_folder(root), *list_folder(Path.cwd())]
    raise DataError(
        f"{_WHERE} path={path}: there is no such folder under the data root {root} or in {Path.cwd()}."
        f"{suggestion(path, near)} For a Hugging Face data set add source=hub."
    )


def _own_name(path: str, shipped: Mapping[str, Sequence[str]]) -> str:
    """A name from the last part of a path, which no shipped data set has."""
    last = Path(path).expanduser().absolute().name if path in (".", "..") else Path(path.rstrip("/")).name
    name = re.sub(r"[^\w.-]+", "-", last).strip("-.") or "data"
    return f"my-{name}" if name in shipped or name in {each for paths in shipped.values() for each in paths} else name


def _as_argument(value: Any) -> str:
    """A value as `parse_overrides` reads it."""
    if isinstance(value, str):
        return value if value and value[0] not in "[{\"'" and value == value.strip() else yaml_text.dump_inline(value)
    return yaml_text.dump_inline(value)
