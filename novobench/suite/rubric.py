"""The rubric of the paper: everything that it prints as leaves, each of which code judges against configs and results.

A leaf of a table's row, a figure's series, a formula or a constant is `implemented` if the recipe of full scale has the
printed values. It `runs` if results/<scale>/ has a whole cell (training run) of it. A `result matches` if it reproduces
the printed values (at full scale) or if a claim is supported (at any scale).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, get_args

from novobench import places
from novobench.config import CellConfig
from novobench.console import counted
from novobench.errors import ConfigError, suggestion
from novobench.files import read_csv
from novobench.suite import rubric_formulas
from novobench.suite.claims import load_claims
from novobench.suite.experiment import Experiment, load_experiment
from novobench.suite.plan import PlannedRow, planned_rows
from novobench.suite.reproduction import reproductions
from novobench.suite.results import Results
from novobench.suite.row_patterns import matching
from novobench.suite.rubric_file import Printed, Rubric, load_rubric, rubric_place
from novobench.suite.rubric_properties import value_of
from novobench.suite.table_rows import TableRow, table_rows

Kind = Literal["implemented", "runs", "result matches"]
KINDS: tuple[Kind, ...] = get_args(Kind)
State = Literal["met", "not met", "not judged"]
STATES: tuple[State, ...] = get_args(State)
Judgement = tuple[State, str]
"""The state of a leaf and its reason."""


@dataclass(frozen=True)
class Leaf:
    """One thing that the paper prints, and whether novobench has it."""

    section: str
    """Of the paper."""
    group: str
    """The experiment; `formulas`, `constants` or `claims`."""
    name: str
    """Row, series, formula, constant or claim."""
    kind: Kind
    paper: str
    """What the paper prints, in short."""
    state: State
    reason: str = ""
    """Why it is not met or not judged, or what is deliberately not followed."""


def leaves(scales: Sequence[str]) -> dict[str, list[Leaf]]:
    """Scale -> all leaves, in the order of the paper's sections."""
    rubric = load_rubric()
    experiments = [load_experiment(name) for name in (*rubric.tables, *rubric.figures)]
    planned = {(each.name, scale): planned_rows(each, scale) for each in experiments for scale in {*scales, "full"}}
    configs = {each.name: _of_paper(planned[each.name, "full"]) for each in experiments}
    of_all_scales = [*_formulas(rubric), *_constants(rubric, configs)]
    by_scale = {}
    for scale in scales:
        results, found = Results.load(scale), list(of_all_scales)
        for each in experiments:
            rows = table_rows(each, results, planned[each.name, scale])
            leaves_of = _figure if each.name in rubric.figures else _table
            found += leaves_of(rubric, each, rows, configs[each.name])
        found += _claims(rubric, scale)
        order = list(rubric.sections)
        by_scale[scale] = sorted(found, key=lambda leaf: order.index(leaf.section))
    return by_scale


def _of_paper(planned: Sequence[PlannedRow]) -> dict[str, CellConfig]:
    """Id -> config of the rows that the paper has."""
    return {
        each.row.id: each.config
        for each in planned
        if each.config is not None and each.row.in_paper and not each.row.diagnostic
    }


# ---------------------------------------------------------------------------------------------- tables and figures


def _table(
    rubric: Rubric, experiment: Experiment, rows: Sequence[TableRow], configs: Mapping[str, CellConfig]
) -> Iterator[Leaf]:
    """The leaves of each row of a table: what is printed of its recipe, its trainings, and its values."""
    section, printed = rubric.section(experiment.where), rubric.tables[experiment.name]
    for id in printed:
        if id not in configs:
            place = f"{rubric_place()}: 'tables.{experiment.name}.{id}'"
            raise ConfigError(
                f"{place} is no row of the paper with a cell at full scale.{suggestion(id, list(configs))}"
            )
    for row in (row for row in rows if row.row.in_paper and not row.row.diagnostic):
        leaf = partial(Leaf, section, experiment.name, row.row.id)
        values = _listed(row.row.paper)
        if row.row.quoted:
            reason = f"quoted from {row.row.quoted}, who had another network"
            yield leaf("result matches", values, "not judged", reason)
            continue
        expected, config = printed.get(row.row.id, {}), configs.get(row.row.id)
        yield leaf("implemented", _listed(expected), *_has(expected, {row.row.id: config} if config else {}))
        yield leaf("runs", _listed(expected), *_runs(row))
        if row.row.paper:
            yield leaf("result matches", values, *_reproduces(experiment, row))


def _figure(
    rubric: Rubric, experiment: Experiment, rows: Sequence[TableRow], configs: Mapping[str, CellConfig]
) -> Iterator[Leaf]:
    """The leaves of each series of a figure: whether it is drawn, and its points."""
    section, figure = rubric.section(experiment.where), rubric.figures[experiment.name]
    drawn = {series for panel in experiment.figure for series in panel.y}
    by_id = {row.row.id: row for row in rows if row.row.id in configs}
    for id in matching(figure.rows, list(by_id), f"{rubric_place()}: 'figures.{experiment.name}.rows'"):
        for series in figure.series:
            leaf = partial(Leaf, section, experiment.name, f"{id} {series}")
            missing = "" if series in drawn else f"no panel of {experiment.name} draws it"
            yield leaf("implemented", experiment.title, "not met" if missing else "met", missing)
            yield leaf("runs", experiment.title, *_runs(by_id[id], series))


def _listed(values: Mapping[str, object]) -> str:
    """`top1 76.38, top5 93.08`."""
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _runs(row: TableRow, series: str = "") -> Judgement:
    """Whether a whole cell of the row is there, with two points of a series if one is given."""
    if row.config is None:
        return "not judged", "no cell at this scale"
    if not row.cells:
        return "not met", "no finished training"
    if series and not any(len(row.results.curves(cell).get(series, ())) > 1 for cell in row.cells):
        return "not met", f"no training has two points of {series}"
    return "met", ""


def _reproduces(experiment: Experiment, row: TableRow) -> Judgement:
    """Whether the row reproduces all values that the paper prints of it."""
    if row.results.scale != "full":
        return "not judged", "other data: claims are judged instead"
    outcomes = reproductions(experiment, row)
    if not outcomes:
        return "not judged", "no finished training"
    missing = [f"{key} without a value or margin" for key in row.row.paper if key not in outcomes]
    open = [f"{key} {outcome}" for key, outcome in outcomes.items() if outcome.outcome != "reproduced"]
    if not missing and not open:
        return "met", ""
    failed = any(outcome.outcome == "not reproduced" for outcome in outcomes.values())
    return "not met" if failed else "not judged", ", ".join([*open, *missing])


# ---------------------------------------------------------------------------------------------- formulas and constants


def _formulas(rubric: Rubric) -> Iterator[Leaf]:
    for name, formula in rubric.formulas.items():
        if name not in rubric_formulas.FORMULAS:
            hint = suggestion(name, list(rubric_formulas.FORMULAS))
            raise ConfigError(f"{rubric_place()}: 'formulas.{name}' is no formula that the code has.{hint}")
        state, reason = _judgement(_holds(name), formula.deviation)
        if state == "not met" and not reason:
            reason = "the optimizer steps otherwise"
        yield Leaf(rubric.section(formula.where), "formulas", name, "implemented", formula.paper, state, reason)


_holds = cache(rubric_formulas.holds)


def _constants(rubric: Rubric, configs: Mapping[str, Mapping[str, CellConfig]]) -> Iterator[Leaf]:
    by_place = {f"{name}/{row}": config for name, rows in configs.items() for row, config in rows.items()}
    for name, constant in rubric.constants.items():
        named = matching(constant.rows, list(by_place), f"{rubric_place()}: 'constants.{name}.rows'")
        leaf = partial(Leaf, rubric.section(constant.where), "constants", name)
        yield leaf("implemented", constant.paper, *_has(constant.expected, {row: by_place[row] for row in named}))


def _has(expected: Mapping[str, Printed], configs: Mapping[str, CellConfig]) -> Judgement:
    """Whether the configs of some rows have the printed values."""
    if not configs:
        return "not met", "no cell at full scale"
    if not expected:
        return "not met", f"{rubric_place()} does not say what the paper prints of it"
    states: list[State] = []
    rows_by_reason: dict[str, list[str]] = {}
    for key, printed in expected.items():
        for row, config in configs.items():
            try:
                value = value_of(config, key)
            except KeyError:
                raise ConfigError(f"{rubric_place()}: {row} has no config key or property '{key}'.") from None
            state, reason = _judgement(printed.is_met_by(value), printed.deviation)
            states.append(state)
            if state == "not met" or reason:
                text = " ".join(filter(None, (f"{key} is {value} instead of {printed}", reason and f"({reason})")))
                rows_by_reason.setdefault(text, []).append(row)
    some = [
        text if len(configs) == 1 else f"{text} in {rows[0] if len(rows) == 1 else counted(len(rows), 'row')}"
        for text, rows in rows_by_reason.items()
    ]
    return "not met" if "not met" in states else "met", "; ".join(some)


def _judgement(is_followed: bool, deviation: str) -> Judgement:
    """Of something printed that is followed, or is deliberately not, because of a deviation in the ledger."""
    if is_followed and deviation:
        return "not met", f"the deviation {deviation} is declared, but there is none"
    return ("met", f"deviation: {deviation}" if deviation else "") if is_followed or deviation else ("not met", "")


# ---------------------------------------------------------------------------------------------- claims


def _claims(rubric: Rubric, scale: str) -> Iterator[Leaf]:
    """The leaf of each sentence that is tested, judged by the verdicts in results/<scale>/claims.csv."""
    lines = {line["id"]: line for line in read_csv(places.workspace().results(scale) / "claims.csv")}
    states: dict[str, State] = {"supported": "met", "contradicted": "not met"}
    for claim in load_claims():
        line = lines.get(claim.id, {"verdict": "", "text": "no verdict yet"})
        state, reason = states.get(line["verdict"], "not judged"), line["text"]
        if line.get("hash", claim.hash(scale)) != claim.hash(scale):
            state, reason = "not judged", "its test has changed since; run: novobench claims"
        leaf = partial(Leaf, rubric.section(claim.where), "claims", claim.id)
        yield leaf("result matches", claim.says, state, "" if state == "met" else reason)
