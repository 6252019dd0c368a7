"""Claims: the testable sentences of the paper with their tests, `configs/claims.yaml`, declared before the trainings.

A claim names trainings to compare and a margin. Its hash stands in the record of every training that was made for it.
After a change of the margin, seeds whose trainings were all made before it do not count.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf

from novobench import places
from novobench.config import cell_id, without_seed
from novobench.config_loading import read_yaml
from novobench.errors import ConfigError, suggestion
from novobench.places import display_path
from novobench.ranges import NOT_EMPTY, FileName, Name, PositiveFloat
from novobench.schema import typed
from novobench.seeds import FIRST_SEED
from novobench.suite.experiment import Experiment, load_experiment
from novobench.suite.plan import Plan
from novobench.suite.row_configs import row_config, task_tree

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
    return _claims(read_yaml(path), display_path(path))


def _claims(content: dict[str, Any], place: str) -> list[Claim]:
    text = json.dumps(content, sort_keys=False, default=str)
    if text not in _CHECKED:  # tables ask for the claims again and again, and to check them takes half a second
        _CHECKED.clear()
        _CHECKED[text] = [_claim(id, each, f"{place} claim '{id}'") for id, each in content.items()]
    return _CHECKED[text]


_CHECKED: dict[str, list[Claim]] = {}
"""Content of the file -> its claims, of the last file."""


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


def declare(plan: Plan) -> None:
    """Tell each cell that is still to be trained which claims need it, also claims about experiments that are not
    planned but share the cell."""
    judged = [cell for cell in plan.cells if cell.config.seed >= FIRST_SEED and not cell.folder.finished]
    if not judged:
        return
    by_training = hashes_by_training(load_claims(), plan.scale, {cell.config.task for cell in judged})
    for cell in judged:
        cell.claims = by_training.get(without_seed(cell.id), {}) if cell.own_recipe else {}


def hashes_by_training(claims: Iterable[Claim], scale: str, tasks: Collection[str]) -> dict[str, dict[str, str]]:
    """The common part of the ids of all seeds -> claim id -> hash, for the trainings of some tasks that claims need."""
    by_experiment: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim.comparisons and scale in claim.margin:
            by_experiment.setdefault(claim.experiment, []).append(claim)
    by_training: dict[str, dict[str, str]] = {}
    for name, of_experiment in by_experiment.items():
        experiment = load_experiment(name)
        if experiment.task not in tasks:
            continue
        base, trainings = task_tree(experiment, scale), {}
        for claim in of_experiment:
            check_against(claim, experiment)
            for id in dict.fromkeys(row for comparison in claim.comparisons for row in comparison.rows):
                if id not in trainings:
                    config = row_config(experiment, experiment.row(id), scale, FIRST_SEED, base=base)
                    trainings[id] = None if config is None else without_seed(cell_id(config))
                if (training := trainings[id]) is not None:
                    by_training.setdefault(training, {})[claim.id] = claim.hash(scale)
    return by_training
