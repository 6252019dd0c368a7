"""What `configs/rubric.yaml` declares: the constants that the paper prints of its recipes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf

from novobench import places
from novobench.config_loading import read_yaml
from novobench.errors import ConfigError, suggestion
from novobench.places import display_path
from novobench.ranges import NOT_EMPTY, Name, NonNegativeFloat
from novobench.schema import typed
from novobench.suite.ledger import load_ledger
from novobench.yaml_text import untyped_value


@dataclass(frozen=True)
class Printed:
    """A printed value of a config key or property. In YAML, a value alone stands for `{value: …}`."""

    value: Any = None
    within: NonNegativeFloat = 0.0
    """How far a value may be from it: printed values are rounded."""
    above: float | None = None
    """Instead of a value that the paper does not print: any number above this."""
    deviation: str = ""
    """Entry of configs/deviations.yaml that says why the printed value is not followed."""

    def __str__(self) -> str:
        if self.above is not None:
            return f"above {self.above:g}"
        return _text(self.value) + (f" ± {self.within:g}" if self.within else "")

    def is_met_by(self, value: Any) -> bool:
        """Whether a config has the printed value."""
        if self.above is not None:
            return _is_number(value) and value > self.above
        if _is_number(value) and _is_number(self.value):
            return abs(value - self.value) <= self.within or math.isclose(value, self.value, rel_tol=1e-9)
        return type(value) is type(self.value) and value == self.value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return f"{value:.10g}" if _is_number(value) else str(value)


@dataclass(frozen=True)
class Constant:
    """Values in a sentence of the paper."""

    where: Name
    """Place in the paper."""
    paper: Name
    """What it says, in short."""
    rows: Annotated[list[Name], NOT_EMPTY]
    """Patterns of `<experiment>/<row>`: the rows that must have the values."""
    expected: Annotated[dict[str, Printed], NOT_EMPTY]
    """Config key or property -> the printed value."""


@dataclass(frozen=True)
class Formula:
    """A formula of `novobench.suite.rubric_formulas`."""

    where: Name
    paper: Name
    deviation: str = ""
    """Entry of configs/deviations.yaml that says why it is not followed."""


@dataclass(frozen=True)
class Figure:
    """What a figure draws."""

    series: Annotated[list[Name], NOT_EMPTY]
    """`<split>/<metric>`; each is drawn for each row."""
    rows: Annotated[list[Name], NOT_EMPTY]


@dataclass(frozen=True)
class Rubric:
    sections: dict[str, str]
    """Section of the paper -> what it is about, in the paper's order."""
    tables: dict[str, dict[str, dict[str, Printed]]] = field(default_factory=dict)
    """Experiment -> row -> config key or property -> what the table prints."""
    figures: dict[str, Figure] = field(default_factory=dict)
    """Experiment -> what it draws."""
    formulas: dict[str, Formula] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)

    def section(self, where: str) -> str:
        """The section of a place such as `Table 1, §4.1`: the first that it names, or the one around that. Raises
        ConfigError if there is none."""
        named = re.search(r"Abstract|(§\d)(\.\d)?", where)
        section = next((name for name in (named[0], named[1]) if name in self.sections), None) if named else None
        if section is None:
            raise ConfigError(f"{rubric_place()}: 'sections' has none of '{where}'. Known: {', '.join(self.sections)}.")
        return section


def _path() -> Path:
    return places.workspace().find(places.workspace().root / "configs" / "rubric.yaml")


def rubric_place() -> str:
    """The file, for messages."""
    return display_path(_path())


def load_rubric() -> Rubric:
    """`configs/rubric.yaml`. Raises ConfigError if it is malformed or names a deviation that the ledger lacks."""
    where, content = rubric_place(), read_yaml(_path())
    for tables in _mappings(content.get("tables")):
        for row in _mappings(tables):
            _expand(row)
    for constant in _mappings(content.get("constants")):
        _expand(constant.get("expected"))
    rubric: Rubric = typed(OmegaConf.create(content), Rubric, {}, where)
    ledger = load_ledger()
    for deviation in _deviations(rubric):
        if deviation not in ledger:
            hint = suggestion(deviation, list(ledger))
            raise ConfigError(f"{where}: 'deviation: {deviation}' is no entry of configs/deviations.yaml.{hint}")
    return rubric


def _mappings(content: Any) -> list[dict[str, Any]]:
    """The values of a mapping that are mappings; anything malformed is left to `typed`."""
    return [each for each in content.values() if isinstance(each, dict)] if isinstance(content, dict) else []


def _expand(row: Any) -> None:
    """Write each printed value as a mapping, with the types of YAML."""
    for key, value in row.items() if isinstance(row, dict) else ():
        row[key] = untyped_value(value if isinstance(value, dict) else {"value": value})


def _deviations(rubric: Rubric) -> list[str]:
    """The entries of the ledger that it names."""
    printed = [each for rows in rubric.tables.values() for row in rows.values() for each in row.values()]
    printed += [each for constant in rubric.constants.values() for each in constant.expected.values()]
    named = [each.deviation for each in printed] + [formula.deviation for formula in rubric.formulas.values()]
    return list(filter(None, named))
