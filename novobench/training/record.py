"""The record of a finished cell (one training run): `record.json`, typed, read and written in this file only.

Imports no torch, so that tables can be made where torch is not installed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from novobench.files import write_json
from novobench.tasks.metric import Metric

SCHEMA = 1
"""Version of the file's layout. `Record.read` refuses any other."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a finished cell leaves behind. The fields are the keys of `record.json`, in the order of the file.

    A float that is not finite is written as null and read as NaN.
    """

    schema: int = SCHEMA
    cell: str
    """Cell id: task, optimizer, seed and a hash of the config."""
    task: str
    optimizer: str
    seed: int
    scale: str
    purpose: str
    """`table`, or `search` for a trial that never sees a test set."""
    updates: int
    """Weight updates of the training, skipped ones included."""
    epochs: float
    """The same budget in epochs of the training data."""
    metrics: dict[str, dict[str, Metric]]
    """Split -> name -> metric of the judged weights."""
    baselines: dict[str, dict[str, Metric]]
    """Split -> name -> metric that needs no training, e.g. the accuracy of always guessing the majority class."""
    scoring: dict[str, str]
    """Metric -> how it is computed, e.g. the signature of sacreBLEU."""
    search_split: str | None
    """The split that searches choose rates by; None if the data have none."""
    skipped_updates: int
    """Updates whose gradients were not finite."""
    skipped_samples: int
    """Training samples that could not be used, e.g. damaged files; a sample counts once per epoch."""
    train_seconds: float
    """Time spent in training, without setup, evaluation and checkpoints, over all attempts."""
    selected_update: int | None = None
    """The update whose weights are judged. None, and absent from the file, without `runtime.selection_points`."""
    determinism: str
    """`strict` (the same bits every time), `to rounding`, or `off`."""
    parameters: int
    """Trainable parameters."""
    weights_sha256: str
    """Over all parameters and buffers: equal digests mean equal bits."""
    fingerprint: str
    """Identity of the data, measured from their content."""
    counts: dict[str, int]
    """Split -> number of samples."""
    files: dict[str, str] = field(default_factory=dict)
    """File name -> sha256 of each other file of the run folder that results are made from. Empty if the record was
    written before records had it."""
    claims: dict[str, str] = field(default_factory=dict)
    """Claim of `configs/claims.yaml` -> hash of its test, as they were declared when the training started."""
    code: str
    """Commit of the code."""
    dirty: bool
    """Whether code, configs or dependencies had uncommitted changes."""
    hardware: str
    finished: str
    """Time of writing: UTC, `2026-01-31T23:59:59Z`."""

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read `record.json`.

        Raises ValueError, which says what is wrong, if the file is damaged: no JSON object, another schema, a key that
        is missing or unknown, a value of the wrong type. Raises OSError if it cannot be read.
        """
        try:
            content = json.loads(path.read_bytes())
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
        if content.get("schema") != SCHEMA:
            raise ValueError(f"its schema is {content.get('schema')!r:.100}; this version reads {SCHEMA}")
        fields = {spec.name: spec for spec in dataclasses.fields(cls)}
        required = fields.keys() - {"selected_update", "files", "claims"}
        if missing := required - content.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        if unknown := content.keys() - fields:
            raise ValueError(f"it has the unknown key {min(unknown)!r:.100}")
        types = get_type_hints(cls)
        return cls(**{name: _typed(value, types[name], name) for name, value in content.items()})

    def write(self, path: Path) -> None:
        """Write `record.json` atomically. Raises NovobenchError if the file cannot be written."""
        content = {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self)}
        for key in ("metrics", "baselines"):
            content[key] = {
                split: {name: metric._asdict() for name, metric in metrics.items()}
                for split, metrics in content[key].items()
            }
        if self.selected_update is None:
            del content["selected_update"]
        write_json(path, content)


def _typed(value: Any, expected: Any, where: str) -> Any:
    """`value`, read from JSON, as the `expected` type of a field of `Record`; `where` names it in errors."""
    if get_origin(expected) is dict and isinstance(value, dict):
        _, of_values = get_args(expected)
        return {name: _typed(item, of_values, f"{where}.{name}") for name, item in value.items()}
    if expected is Metric and isinstance(value, dict) and value.keys() == set(Metric._fields):
        types = get_type_hints(Metric)
        return Metric(**{name: _typed(item, types[name], f"{where}.{name}") for name, item in value.items()})
    if expected is float and (value is None or type(value) in (int, float)):
        return _finite_or_nan(value)
    if type(value) is expected or (isinstance(expected, UnionType) and type(value) in get_args(expected)):
        return value
    name = getattr(expected, "__name__", str(expected))
    raise ValueError(f"its {where} is {value!r:.100}, not {name}")


def _finite_or_nan(value: float | None) -> float:
    """The number as it was written, an int stays one; NaN for null or a number beyond the range of floats."""
    try:
        return value if value is not None and math.isfinite(value) else math.nan
    except OverflowError:  # an int beyond the largest float
        raise ValueError("a number in it is too large") from None
