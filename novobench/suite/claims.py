"""Claims: the testable sentences of the paper with their tests, `configs/claims.yaml`, declared before the trainings.

A claim names trainings to compare and a margin. Its hash stands in the record of every training that was made for it.
After a change of the margin, seeds whose trainings were all made before it do not count.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from omegaconf import OmegaConf

from novobench import places
from novobench.config import without_seed
from novobench.config_loading import read_yaml
from novobench.errors import ConfigError, suggestion
from novobench.places import display_path
from novobench.ranges import NOT_EMPTY, FileName, Name, PositiveFloat
from novobench.schema import typed
from novobench.seeds import FIRST_SEED
from novobench.suite.experiment import Experiment, load_experiment
from novobench.suite.plan import PlannedCell, planned_rows

Expectation = Literal["better", "not_worse", "equivalent"]


@dataclass(frozen=True)
class Comparison:
    """Two values per seed, and what the claim says of them. A value is the mean of some rows, minus that of others.

    `better` is meant in the direction of the column: a larger accuracy, a smaller perplexity. So is a margin.
    """

    first: Annotated[list[FileName], NOT_EMPTY]
    """Ids of rows; several are averaged."""
    second: Annotated[list[FileName], NOT_EMPTY]
    expect: Expectation = "better"
    """What the first is, compared with the second: `better`, `not_worse` by the margin or more, or `equivalent` within
    the margin."""
    first_minus: list[FileName] = field(default_factory=list)
    """Ids of rows whose mean is subtracted, for changes and gaps."""
    second_minus: list[FileName] = field(default_factory=list)
    margin: dict[str, PositiveFloat] = field(default_factory=dict)
    """Instead of the claim's, by scale."""

    @property
    def rows(self) -> list[str]:
        """All rows that it needs."""
        return [*self.first, *self.first_minus, *self.second, *self.second_minus]


@dataclass(frozen=True)
class Claim:
    """A testable sentence of the paper and its test: paired comparisons, or a measurement that needs no training."""

    paper: Name
    """The sentence, quoted."""
    where: Name
    """Its place in the paper."""
    says: Name
    """What is tested, in a few words, for tables."""
    reason: Name
    """Why this margin or bound."""
    experiment: str = ""
    """The experiment whose rows are compared."""
    column: str = ""
    """Key of the experiment's column to compare."""
    comparisons: list[Comparison] = field(default_factory=list)
    """All must hold. They are one family: any wrong statement among them has a probability of at most 5 %."""
    margin: dict[str, PositiveFloat] = field(default_factory=dict)
    """Scale -> the smallest difference that matters, in the column's unit. The claim is tested at these scales."""
    measure: str = ""
    """Name of a measurement of `novobench.suite.measures` instead of an experiment."""
    at_least: float | None = None
    at_most: float | None = None
    """The bounds within which the measured value supports the claim."""
    not_testable: dict[str, Name] = field(default_factory=dict)
    """Scale -> why the claim cannot be tested there."""
    note: str = ""
    """What a reader of the verdict should know."""
    id: str = ""

    def hash(self, scale: str) -> str:
        """8 hex digits over all that decides the verdict at a scale. Texts may be corrected without changing it."""
        tests = [dataclasses.asdict(each) | {"margin": self.margin_of(each, scale)} for each in self.comparisons]
        content = [self.experiment, self.column, tests, self.measure, self.at_least, self.at_most]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    def margin_of(self, comparison: Comparison, scale: str) -> float | None:
        """The margin of one of the comparisons; None if the claim is not tested at that scale."""
        return (comparison.margin or self.margin).get(scale) if scale in self.margin else None


def claims_file() -> Path:
    """`configs/claims.yaml`, the workspace's or novobench's own."""
    return places.workspace().find(places.workspace().root / "configs" / "claims.yaml")


def load_claims() -> list[Claim]:
    """All claims in the order of the file. Raises ConfigError, which names the claim, if one is not well-formed."""
    path = claims_file()
    return [_claim(id, content, f"{display_path(path)} claim '{id}'") for id, content in read_yaml(path).items()]


def _claim(id: str, content: object, where: str) -> Claim:
    if not isinstance(content, dict):
        raise ConfigError(f"{where} must be a mapping, not {content}.")
    claim: Claim = dataclasses.replace(typed(OmegaConf.create(content), Claim, {}, where), id=str(id))
    if bool(claim.measure) == bool(claim.comparisons):
        raise ConfigError(f"{where} needs either 'comparisons' or a 'measure'.")
    if claim.measure and claim.at_least is None and claim.at_most is None:
        raise ConfigError(f"{where} has a 'measure' but no bound: set 'at_least' or 'at_most'.")
    if claim.comparisons and not (claim.experiment and claim.column):
        raise ConfigError(f"{where} has 'comparisons', so it needs 'experiment' and 'column'.")
    if claim.measure:
        from novobench.suite.measures import MEASURES

        if claim.measure not in MEASURES:
            hint = suggestion(claim.measure, list(MEASURES))
            raise ConfigError(f"{where}: 'measure' is '{claim.measure}', which novobench does not have.{hint}")
    if both := claim.margin.keys() & claim.not_testable.keys():
        raise ConfigError(f"{where}: '{min(both)}' is in 'margin' and in 'not_testable'.")
    return claim


def check_against(claim: Claim, experiment: Experiment) -> None:
    """Raise ConfigError if the experiment of a claim lacks a row or the column that the claim names."""
    where = f"{display_path(claims_file())} claim '{claim.id}'"
    ids = [row.id for row in experiment.rows]
    for row in (row for comparison in claim.comparisons for row in comparison.rows):
        if row not in ids:
            raise ConfigError(f"{where} names '{row}', which is no row of {experiment.name}.{suggestion(row, ids)}")
    keys = [column.key for column in experiment.columns]
    if claim.column not in keys:
        column = claim.column
        raise ConfigError(f"{where}: 'column' is '{column}', no column of {experiment.name}.{suggestion(column, keys)}")


def hashes_by_training(claims: Iterable[Claim], scale: str) -> dict[str, dict[str, str]]:
    """The part of a cell's id that all seeds have in common -> claim id -> hash, for the trainings that claims need."""
    by_training: dict[str, dict[str, str]] = {}
    planned: dict[str, dict[str, str]] = {}
    for claim in claims:
        if not claim.comparisons or scale not in claim.margin:
            continue
        if claim.experiment not in planned:
            planned[claim.experiment] = _trainings(load_experiment(claim.experiment), scale)
        for row in (row for comparison in claim.comparisons for row in comparison.rows):
            if training := planned[claim.experiment].get(row):
                by_training.setdefault(training, {})[claim.id] = claim.hash(scale)
    return by_training


def _trainings(experiment: Experiment, scale: str) -> dict[str, str]:
    """Row id -> the common part of its cells' ids."""
    configs = ((each.row.id, each.config) for each in planned_rows(experiment, scale))
    return {row: without_seed(PlannedCell(config).id) for row, config in configs if config is not None}


def declare(cells: Sequence[PlannedCell], scale: str) -> None:
    """Tell each cell that is still to be trained which claims its training is made for."""
    judged = [cell for cell in cells if cell.config.seed >= FIRST_SEED and not cell.folder.finished]
    by_training = hashes_by_training(load_claims(), scale) if judged else {}
    for cell in judged:
        cell.claims = by_training.get(without_seed(cell.id), {})
