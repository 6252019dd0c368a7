"""Experiments: the YAML files of `experiments/`, their rows, and the cell that each row asks for."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf

from novobench import places
from novobench.config import SCALES, CellConfig, check_not_decided, load_tree, read_yaml, set_keys
from novobench.errors import ConfigError, suggestion
from novobench.optim import registry
from novobench.places import display_path
from novobench.ranges import FILE_NAME, NOT_EMPTY, FileName, Name, PositiveInt, violated
from novobench.schema import typed
from novobench.tasks.catalog import default_list, load_task, resolve, task_config
from novobench.yaml_text import untyped_value


@dataclass(frozen=True)
class Column:
    """A number that cells are judged by and the paper may have printed."""

    key: Name
    """Name in a row's `paper:` and in the CSV."""
    split: Name
    metric: Name
    label: str
    """Heading in Markdown."""
    better: Literal["larger", "smaller"] = "larger"
    difference_to: str = ""
    """Another split, whose value of the metric is taken away: a gap between training and validation."""
    at_equal: str = ""
    """Another split: the value is read off the cell's curves, where this split's metric was what every row reached (the
    worst of their last values). So a row that trained less is not taken for one that generalises better."""


@dataclass(frozen=True)
class Flag:
    """A warning beside a row in which some cell's number is above a limit."""

    split: Name
    metric: Name
    above: float
    text: str


@dataclass(frozen=True)
class Panel:
    """One pair of axes of a figure. A series is `<split>/<metric>` of `curves.csv`."""

    x: Name
    """`update`, `epoch`, `seconds` of training, or a series."""
    y: Annotated[list[Name], NOT_EMPTY]
    """Series, each a line a row."""
    x_label: str
    y_label: str
    difference_to: str = ""
    """A series to take away from each of `y`."""
    logarithmic: bool = False
    diagonal: bool = False
    """Draw y = x for comparison."""


@dataclass(frozen=True)
class Cost:
    """What all rows of an experiment take to train with one seed, at each scale. `make help` and README show it."""

    laptop: str = ""
    """On two CPU cores."""
    gpu: str = ""
    """On one H100, with as many cells at a time as `runtime.cells_per_gpu` says."""
    full: str = ""
    """On the hardware that it names."""


@dataclass(frozen=True)
class Row:
    """One line of an experiment."""

    id: FileName
    label: str
    note: str = ""
    """Shown below the table: what is particular to this row."""
    quoted: str = ""
    """Source of a number that the paper itself took from elsewhere; such a row trains nothing."""
    diagnostic: bool = False
    """Trained and shown apart; no claim is judged by it."""
    paper: dict[str, float] = field(default_factory=dict)
    """The paper's values by column key."""
    set: dict[str, Any] = field(default_factory=dict)
    """Dotted overrides of the task's config at every scale."""
    full: dict[str, Any] | None = None
    """Overrides at one scale. The word `tuned` names a set of rates that `novobench search` found; until it has, a rate
    given in the same row holds."""
    gpu: dict[str, Any] | None = None
    laptop: dict[str, Any] | None = None

    def at(self, scale: str) -> dict[str, Any] | None:
        """The overrides at a scale; None if the row has no cell there."""
        return getattr(self, scale)


@dataclass(frozen=True)
class Search:
    """How `novobench search` looks for the rates that rows name: the same for each of their optimizers."""

    budget: PositiveInt = 16
    """Trials for each set of rates."""
    seeds: PositiveInt = 2
    """Trainings of each trial, with seeds 0, 1, …"""
    ranges: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Optimizer -> key -> [low, high], where to look; else the registry's ranges. In the YAML the optimizers stand
    beside `budget` and `seeds`."""


@dataclass(frozen=True)
class Experiment:
    """A table, a figure or a claim's test."""

    title: str
    where: str
    """Place in the paper."""
    task: str
    columns: Annotated[list[Column], NOT_EMPTY]
    rows: Annotated[list[Row], NOT_EMPTY]
    figure: list[Panel] = field(default_factory=list)
    """What to draw besides the table."""
    cost: Cost = field(default_factory=Cost)
    legend: str = ""
    """Config key whose value the figure's legend shows beside each row's label, e.g. `batch.size`."""
    baselines: list[Column] = field(default_factory=list)
    """Numbers of the data alone, printed below the table: what needs no training."""
    flags: list[Flag] = field(default_factory=list)
    """What a reader of a row must be warned of."""
    settings: dict[str, str] = field(default_factory=dict)
    """Config keys printed in each row -> heading."""
    notes: list[str] = field(default_factory=list)
    """Printed below the table; one states the clipping policy."""
    set: dict[str, Any] = field(default_factory=dict)
    """Overrides of all rows at every scale."""
    full: dict[str, Any] = field(default_factory=dict)
    gpu: dict[str, Any] = field(default_factory=dict)
    laptop: dict[str, Any] = field(default_factory=dict)
    search: Search = field(default_factory=Search)
    name: str = ""

    @property
    def file(self) -> Path:
        return places.workspace().experiment(self.name)

    def row(self, row_id: str) -> Row:
        return next(row for row in self.rows if row.id == row_id)


def experiment_names() -> list[str]:
    return [path.stem for path in places.workspace().experiment_files()]


def load_experiment(name: str) -> Experiment:
    """Read and check `experiments/<name>.yaml`."""
    known = experiment_names()
    if name not in known:
        raise ConfigError(
            f"There is no experiment '{name}'.{suggestion(name, known)} Known: {', '.join(known)}. "
            "Run: novobench list experiments"
        )
    path = places.workspace().experiment(name)
    experiment: Experiment = typed(
        _with_ranges(load_tree(path), display_path(path)), Experiment, {}, display_path(path)
    )
    ids = [row.id for row in experiment.rows]
    keys = [column.key for column in experiment.columns]
    for row in experiment.rows:
        if ids.count(row.id) > 1:
            raise ConfigError(f"{display_path(path)}: two rows are called '{row.id}'.")
        for key in row.paper:
            if key not in keys:
                raise ConfigError(
                    f"{display_path(path)} row '{row.id}': 'paper.{key}' is no column.{suggestion(key, keys)}"
                )
    for layer in (experiment, *experiment.rows):
        where = display_path(path) + (f" row '{layer.id}'" if isinstance(layer, Row) else "")
        for kind in ("set", *SCALES):
            check_not_decided(getattr(layer, kind) or {}, f"{where}: '{kind}'")
    _check_figure(experiment.figure, display_path(path))
    task_config(experiment.task, display_path(path))
    return dataclasses.replace(experiment, name=name)


def _check_figure(panels: Sequence[Panel], where: str) -> None:
    for number, panel in enumerate(panels):
        across = [panel.x] if panel.x not in ("update", "epoch", "seconds") else []
        for key, given in (
            ("x", across),
            ("y", panel.y),
            ("difference_to", [panel.difference_to] if panel.difference_to else []),
        ):
            for series in given:
                if "/" not in series:
                    other = ", or update, epoch or seconds" if key == "x" else ""
                    place = f"{where}: 'figure[{number}].{key}'"
                    raise ConfigError(f"{place} is '{series}' and must be a series, <split>/<metric>{other}.")


def _with_ranges(tree: DictConfig, where: str) -> DictConfig:
    """An experiment's file with the optimizers that stand below `search` put into the field that holds them.

    Raises ConfigError for a name there that is no optimizer, and for a range that is not two rising numbers above 0.
    """
    search = OmegaConf.to_container(tree).get("search")  # type: ignore[union-attr]
    if not isinstance(search, dict):
        return tree
    own = ("budget", "seeds")
    ranges = {name: given for name, given in search.items() if name not in own}
    for name, given in ranges.items():
        try:
            registry.get(name)
        except LookupError as error:
            raise ConfigError(f"{where}: 'search.{name}': {error.args[0]}{suggestion(name, own)}") from None
        if not isinstance(given, dict) or not given:
            raise ConfigError(f"{where}: 'search.{name}' must be a mapping of keys to ranges, not {given}.")
        for key, bounds in given.items():
            numbers = untyped_value(bounds)
            right = isinstance(numbers, list) and all(type(x) in (int, float) and math.isfinite(x) for x in numbers)
            if not right or len(numbers) != 2 or not 0 < numbers[0] < numbers[1]:
                told = f"'search.{name}.{key}' must be [low, high], two rising numbers above 0, not {bounds}."
                raise ConfigError(f"{where}: {told}")
    tree = tree.copy()
    tree.search = {**{name: search[name] for name in own if name in search}, "ranges": ranges}
    return tree


def row_config(
    experiment: Experiment,
    row: Row,
    scale: str,
    seed: int,
    extra: Mapping[str, Any] | None = None,
    rates: Mapping[str, Any] | None = None,
    base: DictConfig | None = None,
) -> CellConfig | None:
    """The cell of a row: task config, experiment, row, scale, tuned rates, then `extra`. None if it has none.

    `rates` stand in for the tuned ones, for a search that is about to find them. `base`: what `task_tree` gives, where
    it is read already.
    """
    at_scale = row.at(scale)
    if at_scale is None or row.quoted:
        return None
    where = f"{display_path(experiment.file)} row '{row.id}' at {scale} scale"
    layers = _layers(experiment, row, scale)
    tree = copy.deepcopy(base) if base is not None else task_tree(experiment, scale)
    for layer in layers:
        set_keys(tree, {name: value for name, value in layer.items() if name != "tuned"}, where, default_list)
    if (key := tuned_key(experiment, row, scale)) is not None:
        own = any("optimizer.lr" in layer for layer in layers)
        rates = rates or tuned_rates(experiment.task, scale, key, where, own=own)
        check_not_decided(
            rates, f"{where}: '{key}' in {display_path(places.workspace().tuned_rates(experiment.task, scale))}"
        )
        set_keys(tree, rates, where, default_list)
    decided = {"task": experiment.task, "scale": scale, "seed": seed}
    set_keys(tree, {**decided, **(extra or {})}, where, default_list)
    return resolve(tree, where)


def task_tree(experiment: Experiment, scale: str) -> DictConfig:
    """The task's config at a scale, on which an experiment's rows lie."""
    return load_task(experiment.task, places.workspace().task_config(experiment.task, scale))


def _layers(experiment: Experiment, row: Row, scale: str) -> tuple[Mapping[str, Any], ...]:
    """What lies on top of the task's config, the lowest first."""
    return experiment.set, getattr(experiment, scale), row.set, row.at(scale) or {}


def tuned_key(experiment: Experiment, row: Row, scale: str) -> str | None:
    """The name under which a row's rates are searched, if they are."""
    if row.at(scale) is None:
        return None
    key = {name: value for layer in _layers(experiment, row, scale) for name, value in layer.items()}.get("tuned")
    if key is None:
        return None
    if isinstance(key, list | dict) or violated(FILE_NAME, str(key)):
        raise ConfigError(f"{display_path(experiment.file)} row '{row.id}': 'tuned' must be a name, not {key}.")
    return str(key)


def searched(experiment: Experiment, row: Row, scale: str) -> bool:
    """Whether the row's rates at a scale were found there by `search`."""
    key = tuned_key(experiment, row, scale)
    return key is not None and key in _tuned(experiment.task, scale)


def _tuned(task: str, scale: str) -> dict[str, Any]:
    tuned: dict[str, Any] = {}
    for path in places.workspace().tuned_rate_files(task, scale):
        tuned |= read_yaml(path)
    return tuned


def tuned_rates(task: str, scale: str, key: str, where: str, *, own: bool = False) -> dict[str, Any]:
    """What `search` found under `key`. Before it has found any, nothing for a row with rates of its `own`; another row
    cannot do without."""
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


def files_of(experiments: Sequence[Experiment]) -> dict[Path, bytes | None]:
    """The files that say what the rows of experiments ask for, with what is in them now."""
    found: dict[Path, bytes | None] = {}
    for path in (*(experiment.file for experiment in experiments), *places.workspace().config_files()):
        try:
            found[path] = path.read_bytes()
        except OSError:
            found[path] = None
    return found
