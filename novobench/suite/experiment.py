"""Experiments: the YAML files of `experiments/`, their rows, columns and what each row overrides."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf

from novobench import places
from novobench.config import SCALES
from novobench.config_loading import check_overridable, load_tree
from novobench.errors import ConfigError, suggestion
from novobench.places import display_path
from novobench.ranges import NOT_EMPTY, FileName, Name
from novobench.schema import typed
from novobench.suite.margins import Margins, check_margins
from novobench.suite.search_space import Search, check_search, split_ranges
from novobench.tasks.catalog import task_config


@dataclass(frozen=True)
class Column:
    """A metric that cells are judged by. The paper may have a value for it."""

    key: Name
    """Name in a row's `paper:` and in the CSV."""
    split: Name
    metric: Name
    label: str
    """Heading in Markdown."""
    better: Literal["larger", "smaller"] = "larger"
    difference_to: str = ""
    """Another split, whose value of the metric is subtracted: the gap between training and validation."""


@dataclass(frozen=True)
class Comparison:
    """A row to compare with others, seed by seed, below the table."""

    row: FileName
    to: Annotated[list[FileName], NOT_EMPTY]
    """Ids of other rows."""
    column: str = ""
    """Key of the column to compare; the first by default."""


@dataclass(frozen=True)
class Flag:
    """A warning next to a row in which a cell's metric is above a limit."""

    split: Name
    metric: Name
    above: float
    text: str


@dataclass(frozen=True)
class Panel:
    """One pair of axes of a figure. A series is `<split>/<metric>` of `curves.csv`."""

    x: Name
    """`update`, `epoch`, `seconds` of training, a series, or a config key in which rows differ, e.g. `batch.size`."""
    y: Annotated[list[Name], NOT_EMPTY]
    """Series; each is one line per row. Over a config key: metrics of finished cells, whose means make one line per
    label."""
    x_label: str
    y_label: str
    difference_to: str = ""
    """A series to subtract from each of `y`."""
    logarithmic: bool = False
    """The y axis."""
    logarithmic_x: bool = False
    diagonal: bool = False
    """Draw y = x for comparison."""

    @property
    def over_key(self) -> bool:
        """Whether x is a config key."""
        return "." in self.x and "/" not in self.x


@dataclass(frozen=True)
class Cost:
    """The time to train all rows of an experiment with one seed, at each scale. Shown where `summary` is."""

    laptop: str = ""
    """On two CPU cores."""
    gpu: str = ""
    """On one H100 with `runtime.cells_per_gpu` cells at a time."""
    full: str = ""
    """On the hardware that it names."""


@dataclass(frozen=True)
class ScaleOverrides:
    """What a row changes at one scale. In YAML, `tuned` and the dotted keys are written in one mapping:
    `laptop: {tuned: sgd-b32, budget: 8ep}`."""

    overrides: dict[str, Any] = field(default_factory=dict)
    """Dotted overrides of the task's config."""
    tuned: FileName | None = None
    """Name of a set of rates that `novobench search` finds. Until it has, the row's own `optimizer.lr` applies."""


@dataclass(frozen=True)
class Row:
    """One line of an experiment."""

    id: FileName
    label: str
    note: str = ""
    """Shown below the table: what is special about this row."""
    special_case_of: str = ""
    """Id of a row whose optimizer includes this row's, with other settings. If that row is worse than this one, its
    search failed, and the table says so."""
    quoted: str = ""
    """Source of a number that the paper itself quotes from elsewhere; such a row trains nothing."""
    diagnostic: bool = False
    """Trained but shown separately, and in no figure; no claim is judged by it."""
    in_paper: bool = True
    """Whether the paper has this row, with or without a number. Markdown marks the others with †. Rows of other groups
    than `tables` are never in the paper."""
    paper: dict[str, float] = field(default_factory=dict)
    """The paper's values by column key."""
    set: dict[str, Any] = field(default_factory=dict)
    """Dotted overrides of the task's config at every scale."""
    full: ScaleOverrides | None = None
    """What the row changes at one scale; None if it has no cell there."""
    gpu: ScaleOverrides | None = None
    laptop: ScaleOverrides | None = None

    def at(self, scale: str) -> ScaleOverrides | None:
        """What the row changes at a scale; None if it has no cell there."""
        return None if self.quoted else getattr(self, scale)

    def tuned_key(self, scale: str) -> str | None:
        """The name under which the row's rates are searched at a scale; None if they are not."""
        at_scale = self.at(scale)
        return None if at_scale is None else at_scale.tuned


@dataclass(frozen=True)
class Layer:
    """Overrides on top of the layers before it."""

    origin: str
    """Where they are written, e.g. `row set`."""
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """A table, a figure or a claim's test."""

    title: str
    """Heading of the table."""
    where: str
    """Place in the paper."""
    task: str
    columns: Annotated[list[Column], NOT_EMPTY]
    rows: Annotated[list[Row], NOT_EMPTY]
    summary: str = ""
    """What it compares, in a few words, for `novobench list`. `make docs` copies it to the Makefile and README."""
    figure: list[Panel] = field(default_factory=list)
    """The panels of its figure; without any, only the table is written."""
    cost: Cost = field(default_factory=Cost)
    legend: str = ""
    """Config key whose value the figure's legend shows after each row's label, e.g. `batch.size`."""
    baselines: list[Column] = field(default_factory=list)
    """Values that come from the data alone, without training; printed below the table."""
    comparisons: list[Comparison] = field(default_factory=list)
    """Differences between rows, to print below the table with their intervals."""
    flags: list[Flag] = field(default_factory=list)
    """Warnings to show next to rows."""
    reproduction: Margins = field(default_factory=Margins)
    """The margins within which the paper's values are reproduced."""
    settings: dict[str, str] = field(default_factory=dict)
    """Config keys printed in each row -> heading."""
    notes: list[str] = field(default_factory=list)
    """Printed below the table; one note states the clipping policy."""
    set: dict[str, Any] = field(default_factory=dict)
    """Dotted overrides of all rows at every scale."""
    full: dict[str, Any] = field(default_factory=dict)
    """Dotted overrides of all rows at one scale."""
    gpu: dict[str, Any] = field(default_factory=dict)
    laptop: dict[str, Any] = field(default_factory=dict)
    search: Search = field(default_factory=Search)
    group: Literal["tables", "rivals", "claims"] = "tables"
    """The make target that trains it: the paper's tables and figures, optimizers of other authors, or tests of the
    paper's claims that no table of the paper has."""
    name: str = ""
    origin: str = ""
    """What made it, for messages, if no file did: `compare` does not read its experiments from YAML."""

    @property
    def file(self) -> Path:
        return places.workspace().experiment(self.name)

    @property
    def place(self) -> str:
        """Where it is declared, for messages."""
        return self.origin or display_path(self.file)

    def row(self, row_id: str) -> Row:
        return next(row for row in self.rows if row.id == row_id)

    def overrides(self, row: Row, scale: str) -> list[Layer]:
        """The overrides that the experiment and the row put on top of the task's config at a scale, lowest first."""
        at_scale = row.at(scale)
        return [
            Layer("experiment set", self.set),
            Layer(f"experiment {scale}", getattr(self, scale)),
            Layer("row set", row.set),
            Layer(f"row {scale}", at_scale.overrides if at_scale else {}),
        ]


# ---------------------------------------------------------------------------------------------- loading


def experiment_names() -> list[str]:
    return [path.stem for path in places.workspace().experiment_files()]


def load_experiment(name: str) -> Experiment:
    """Read and check `experiments/<name>.yaml`."""
    names = experiment_names()
    if name not in names:
        raise ConfigError(
            f"There is no experiment '{name}'.{suggestion(name, names)} Available: {', '.join(names)}. "
            "Run: novobench list experiments"
        )
    path = places.workspace().experiment(name)
    where = display_path(path)
    experiment: Experiment = typed(_as_typed(load_tree(path), where), Experiment, {}, where)
    ids = [row.id for row in experiment.rows]
    keys = [column.key for column in experiment.columns]
    for row in experiment.rows:
        if ids.count(row.id) > 1:
            raise ConfigError(f"{where}: two rows are called '{row.id}'.")
        for key in row.paper:
            if key not in keys:
                raise ConfigError(f"{where} row '{row.id}': 'paper.{key}' is not a column.{suggestion(key, keys)}")
        general = row.special_case_of
        if general and (general == row.id or general not in ids):
            place = f"{where} row '{row.id}': 'special_case_of'"
            raise ConfigError(f"{place} must be the id of another row, not '{general}'.{suggestion(general, ids)}")
        if row.paper and not row.in_paper:
            raise ConfigError(f"{where} row '{row.id}': 'paper' has values, so 'in_paper' cannot be false.")
        if row.paper and experiment.group != "tables":
            raise ConfigError(f"{where} row '{row.id}': 'paper' has values, but the group is '{experiment.group}'.")
    _check_comparisons(experiment, where)
    check_margins(experiment.reproduction, keys, where)
    _check_overrides(experiment, where)
    _check_figure(experiment.figure, where)
    check_search(experiment.search, where)
    task_config(experiment.task, where)
    ours = [dataclasses.replace(row, in_paper=row.in_paper and experiment.group == "tables") for row in experiment.rows]
    return dataclasses.replace(experiment, name=name, rows=ours)


def _check_comparisons(experiment: Experiment, where: str) -> None:
    """Raise ConfigError for comparisons of rows or columns that do not exist, and of a row with itself."""
    ids = [row.id for row in experiment.rows]
    keys = [column.key for column in experiment.columns]
    for number, comparison in enumerate(experiment.comparisons):
        place = f"{where}: 'comparisons[{number}]"
        for row_id in (comparison.row, *comparison.to):
            if row_id not in ids:
                raise ConfigError(f"{place}' names '{row_id}', which is no row.{suggestion(row_id, ids)}")
        if comparison.row in comparison.to:
            raise ConfigError(f"{place}.to' has the row '{comparison.row}' itself.")
        if comparison.column and comparison.column not in keys:
            column = comparison.column
            raise ConfigError(f"{place}.column' is '{column}', which is no column.{suggestion(column, keys)}")


def _check_overrides(experiment: Experiment, where: str) -> None:
    """Raise ConfigError for keys that no override may set."""
    overrides = {f"{where}: '{kind}'": getattr(experiment, kind) for kind in ("set", *SCALES)}
    for row in experiment.rows:
        overrides[f"{where} row '{row.id}': 'set'"] = row.set
        for scale in SCALES:
            if (at_scale := getattr(row, scale)) is not None:
                overrides[f"{where} row '{row.id}': '{scale}'"] = at_scale.overrides
    for place, changes in overrides.items():
        check_overridable(changes, place)
        if "tuned" in changes:
            raise ConfigError(f"{place} cannot set 'tuned': only a scale of a row can, e.g. `laptop: {{tuned: sgd}}`.")


def _check_figure(panels: Sequence[Panel], where: str) -> None:
    for number, panel in enumerate(panels):
        series_by_key = {
            "x": [] if panel.over_key or panel.x in ("update", "epoch", "seconds") else [panel.x],
            "y": panel.y,
            "difference_to": [panel.difference_to] if panel.difference_to else [],
        }
        for key, names in series_by_key.items():
            for name in names:
                if "/" not in name:
                    other = ", a config key, or update, epoch or seconds" if key == "x" else ""
                    place = f"{where}: 'figure[{number}].{key}'"
                    raise ConfigError(f"{place} is '{name}' and must be a series, <split>/<metric>{other}.")


def _as_typed(tree: DictConfig, where: str) -> DictConfig:
    """An experiment's file in the shape of `Experiment`: with `Search.ranges` and `ScaleOverrides`.

    Anything malformed is left as it is, for `typed` to report.
    """
    content: Any = OmegaConf.to_container(tree)
    if isinstance(content.get("search"), dict):
        content["search"] = split_ranges(content["search"], where)
    rows = content.get("rows")
    for number, row in enumerate(rows if isinstance(rows, list) else []):
        for scale in SCALES if isinstance(row, dict) else ():
            if row.get(scale) is not None:
                row[scale] = _scale_overrides(row[scale], f"{where}: 'rows[{number}].{scale}'")
    return OmegaConf.create(content)


def _scale_overrides(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{where} must be a mapping, not {content}.")
    return {"tuned": content.pop("tuned", None), "overrides": content}
