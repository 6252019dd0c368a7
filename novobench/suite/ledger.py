"""The ledger, `configs/deviations.yaml`: where the paper is silent, or contradicts itself or its code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from omegaconf import OmegaConf

from novobench import places
from novobench.config import SCALES
from novobench.config_loading import read_yaml
from novobench.errors import ConfigError
from novobench.places import display_path
from novobench.ranges import NOT_EMPTY, Name
from novobench.schema import typed
from novobench.suite.row_patterns import matches


@dataclass(frozen=True)
class Switch:
    """How to try another choice: one of these."""

    set: list[Name] = field(default_factory=list)
    """Overrides `key=value`, as after `--set`."""
    row: str = ""
    """`<experiment>/<row>`, which has another choice."""
    none: str = ""
    """Why there is no switch."""


@dataclass(frozen=True)
class Deviation:
    """An entry of the ledger."""

    paper: Name
    """What the paper says."""
    alternatives: Name
    choice: Name
    why: Name
    rows: Annotated[list[Name], NOT_EMPTY]
    """Patterns of `<experiment>/<row>`: the rows that it touches."""
    switch: Switch
    scales: list[Name] = field(default_factory=lambda: list(SCALES))
    """The scales at which the choice was made."""
    id: str = ""

    @property
    def is_general(self) -> bool:
        """Whether it is about an optimizer wherever it trains, instead of some experiments."""
        return any(pattern.startswith("*") for pattern in self.rows)

    def touches(self, experiment: str, row: str, scale: str) -> bool:
        """Whether it is about a row at a scale."""
        return scale in self.scales and matches(f"{experiment}/{row}", self.rows)


@dataclass(frozen=True)
class _Ledger:
    entries: dict[str, Deviation]


def load_ledger() -> dict[str, Deviation]:
    """Id -> entry, in the order of the file. Raises ConfigError for an entry that is not well-formed."""
    path = places.workspace().find(places.workspace().root / "configs" / "deviations.yaml")
    where = display_path(path)
    ledger: _Ledger = typed(OmegaConf.create({"entries": read_yaml(path)}), _Ledger, {}, where)
    for id, entry in ledger.entries.items():
        if sum(map(bool, (entry.switch.set, entry.switch.row, entry.switch.none))) != 1:
            raise ConfigError(f"{where}: '{id}.switch' needs one of 'set', 'row' and 'none'.")
        if unknown := [scale for scale in entry.scales if scale not in SCALES]:
            raise ConfigError(f"{where}: '{id}.scales' has '{unknown[0]}'. Known: {', '.join(SCALES)}.")
    return {id: dataclasses.replace(entry, id=id) for id, entry in ledger.entries.items()}


_MOST_LINES = 6
"""With more entries, a table only names them."""


def ledger_notes(experiment: str, rows: Sequence[str], scale: str) -> list[str]:
    """What stands below a table about the choices in its rows, without those that are the same in all tables."""
    entries = [
        entry
        for entry in load_ledger().values()
        if not entry.is_general and any(entry.touches(experiment, row, scale) for row in rows)
    ]
    if len(entries) <= _MOST_LINES:
        return [f"`{entry.id}`: the paper: {entry.paper} Here: {entry.choice}." for entry in entries]
    names = ", ".join(f"`{entry.id}`" for entry in entries)
    return [f"Choices where the paper is silent or contradicts itself, see `configs/deviations.yaml`: {names}."]
