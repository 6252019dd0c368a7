"""How long a training will take: from finished cells, else from the speed that the task's config declares.

A speed holds for one model. For another it is scaled by the cost of a sample, where the task can tell it
(`relative_cost` of its config.py), and is unknown where it cannot.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from novobench import places
from novobench.config import CellConfig
from novobench.errors import ConfigError
from novobench.schema import typed
from novobench.suite.plan import PlannedCell
from novobench.tasks.catalog import load_task, task_config


@dataclass(frozen=True)
class Forecast:
    seconds: float | None
    """None: nothing is known about the speed."""
    source: str


def forecast(cell: PlannedCell, past: Mapping[str, tuple[float, float]]) -> Forecast:
    """Expected training time. `past`: what finished cells took, see `records.speeds`.

    Speeds count samples, updates × effective batch, shared by the devices; `runtime.cells_per_gpu` cells share one.
    """
    config, runtime = cell.config, cell.config.runtime
    samples = config.total_updates * config.batch.size / (runtime.devices * runtime.nodes)
    ratios = {key: _ratio(key, _key(config)) for key in past}
    for same in (True, False):
        kept = {key: ratio for key, ratio in ratios.items() if ratio is not None and (not same or ratio == 1)}
        seconds = sum(past[key][1] for key in kept)
        done = sum(ratio * past[key][0] for key, ratio in kept.items())
        if 0 < seconds < math.inf and 0 < done < math.inf:  # NaN is neither
            speed = done / seconds
            return Forecast(samples * runtime.cells_per_gpu / speed, "finished cells" + ("" if same else _SCALED))
    declared = config.forecast.samples_per_second
    of, meant_for = _declared(places.workspace().task_config(config.task, config.scale), config.task)
    ratio = _ratio(meant_for, _key(config)) if declared == of else 1.0  # an override was made for this very cell
    if declared and ratio is not None:
        return Forecast(samples / (declared * ratio), config.forecast.source + ("" if ratio == 1 else _SCALED))
    return Forecast(None, "unknown")


_SCALED = ", scaled to the size of the model"


def _key(config: CellConfig) -> str:
    """What decides the cost of a sample, as `records.speeds` has it."""
    parts = {part: dataclasses.asdict(getattr(config, part)) for part in ("model", "data")}
    return json.dumps({"task": config.task, **parts}, sort_keys=True)


@cache
def _declared(path: Path, task: str) -> tuple[Any, str]:
    """The speed that a task's config file declares, and the key of the model and data that stand there."""
    tree = load_task(task, path)
    parts = {part: OmegaConf.to_container(tree.get(part, OmegaConf.create({}))) for part in ("model", "data")}
    declared = OmegaConf.select(tree, "forecast.samples_per_second")
    return None if declared is None else float(declared), json.dumps({"task": task, **parts}, sort_keys=True)


def _ratio(theirs: str, ours: str) -> float | None:
    """How many times as fast our samples are as theirs, by cost; 1 for the same model, None if it cannot be told."""
    there, here = _cost(theirs), _cost(ours)
    if there is None or here is None or there[0] != here[0]:
        return None
    if isinstance(there[1], float) and isinstance(here[1], float):
        return 1.0 if math.isclose(there[1], here[1]) else there[1] / here[1]
    return 1.0 if there == here else None


@cache
def _cost(key: str) -> tuple[str, float | str] | None:
    """The task and the cost of a sample, or the model where the task tells no cost; None if today's fields are others
    than those in `key`."""
    content = json.loads(key)
    try:
        task = task_config(content["task"])
        schemas = {"model": task.MODEL, "data": task.DATA}
        parts = {part: typed(OmegaConf.create(content[part]), kind, {}, part) for part, kind in schemas.items()}
        if not hasattr(task, "relative_cost"):
            return content["task"], repr(parts["model"])
        cost = float(task.relative_cost(SimpleNamespace(**parts)))
    except (ConfigError, OmegaConfBaseException, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None  # such a config is refused today
    return (content["task"], cost) if 0 < cost < math.inf else None
