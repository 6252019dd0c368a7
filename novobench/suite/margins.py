"""The margins within which an experiment reproduces the paper's values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from novobench.errors import ConfigError, suggestion
from novobench.ranges import Name, PositiveFloat


@dataclass(frozen=True)
class Margins:
    """How far a mean over seeds may be from the paper's value and still reproduce it, at full scale."""

    margins: dict[Name, PositiveFloat] = field(default_factory=dict)
    """Column key -> margin, in the column's unit. A column without one is not judged."""
    reason: str = ""
    """Why these; required with margins."""


def check_margins(declared: Margins, columns: Sequence[str], where: str) -> None:
    """Raise ConfigError for a margin of what is no column, and for margins without a reason."""
    for key in declared.margins:
        if key not in columns:
            raise ConfigError(f"{where}: 'reproduction.margins.{key}' is not a column.{suggestion(key, columns)}")
    if declared.margins and not declared.reason:
        raise ConfigError(f"{where}: 'reproduction' has margins, but no 'reason'. Say why they are these.")
