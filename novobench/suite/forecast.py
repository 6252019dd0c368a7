"""How long a training will take: from finished cells, else from the speed that the task's config declares.

A speed belongs to one model. It is scaled to another model by the cost of a sample where the task defines one
(`relative_cost` in its config.py), and is unknown otherwise.
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

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from novobench import places
from novobench.config import CellConfig
from novobench.errors import ConfigError
from novobench.schema import typed
from novobench.suite.plan import PlannedCell
from novobench.suite.results import Results
from novobench.tasks.catalog import load_task, task_config


@dataclass(frozen=True)
class Forecast:
    """An expected training time and where it comes from."""

    seconds: float | None
    """None if the speed is unknown."""
    source: str


def measured_speeds(results: Results) -> dict[str, tuple[float, float]]:
    """How fast finished cells (training runs) were: key of task, model and data -> samples, and seconds of one device.

    Both are summed over cells. Cells that shared a GPU count with their share of its time. A cell is left out if its
    config lacks what is needed (it is old) or if its time is not finite.
    """
    speeds: dict[str, tuple[float, float]] = {}
    for cell in results.cells:
        seconds = results.value(cell, "train", "train_seconds") or 0.0
        try:
            config = results.config(cell)
            key = json.dumps({part: config[part] for part in ("task", "model", "data")}, sort_keys=True)
            runtime = config["runtime"]
            # Old configs have `nodes` and lack `cells_per_gpu`.
            devices = runtime["devices"] * runtime.get("nodes", 1) / runtime.get("cells_per_gpu", 1)
            samples, seconds = float(results.updates(cell) * config["batch"]["size"]), float(seconds * devices)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
            continue
        if 0 < samples < math.inf and 0 < seconds < math.inf:  # NaN is neither
            samples_before, seconds_before = speeds.get(key, (0.0, 0.0))
            speeds[key] = samples_before + samples, seconds_before + seconds
    return speeds


def forecast(cell: PlannedCell, speeds: Mapping[str, tuple[float, float]]) -> Forecast:
    """Expected training time of a cell. speeds: from `measured_speeds`.

    The number of samples is updates × effective batch, divided among the devices. `runtime.cells_per_gpu` cells share
    one GPU.
    """
    config, runtime = cell.config, cell.config.runtime
    samples = config.total_updates * config.batch.size / runtime.devices
    ratios = {key: _relative_speed(key, _key(config)) for key in speeds}
    for same_model in (True, False):
        usable = {key: ratio for key, ratio in ratios.items() if ratio is not None and (not same_model or ratio == 1)}
        past_seconds = sum(speeds[key][1] for key in usable)
        past_samples = sum(ratio * speeds[key][0] for key, ratio in usable.items())
        if 0 < past_seconds < math.inf and 0 < past_samples < math.inf:  # NaN is neither
            seconds = samples * runtime.cells_per_gpu / (past_samples / past_seconds)
            return Forecast(seconds, "finished cells" + ("" if same_model else _SCALED))
    speed = config.forecast.samples_per_second
    file_speed, file_key = _declared(places.workspace().task_config(config.task, config.scale), config.task)
    declared_ratio = _relative_speed(file_key, _key(config)) if speed == file_speed else 1.0  # else set for this cell
    if speed and declared_ratio is not None:
        source = config.forecast.source + ("" if declared_ratio == 1 else _SCALED)
        return Forecast(samples / (speed * declared_ratio), source)
    return Forecast(None, "unknown")


_SCALED = ", scaled to the size of the model"


def _key(config: CellConfig) -> str:
    """What determines the cost of a sample, as `measured_speeds` writes it."""
    parts = {part: dataclasses.asdict(getattr(config, part)) for part in ("model", "data")}
    return json.dumps({"task": config.task, **parts}, sort_keys=True)


@cache
def _declared(path: Path, task: str) -> tuple[float | None, str]:
    """The speed that a task's config file declares, and the key of the file's model and data."""
    tree = load_task(task, path)
    parts = {part: OmegaConf.to_container(tree.get(part, OmegaConf.create({}))) for part in ("model", "data")}
    speed = OmegaConf.select(tree, "forecast.samples_per_second")
    return None if speed is None else float(speed), json.dumps({"task": task, **parts}, sort_keys=True)


def _relative_speed(other: str, own: str) -> float | None:
    """How many times as fast samples of key `own` are as those of key `other`, by their costs.

    1 for the same model, None if unknown.
    """
    other_cost, own_cost = _cost(other), _cost(own)
    if other_cost is None or own_cost is None or other_cost[0] != own_cost[0]:
        return None
    if isinstance(other_cost[1], float) and isinstance(own_cost[1], float):
        return 1.0 if math.isclose(other_cost[1], own_cost[1]) else other_cost[1] / own_cost[1]
    return 1.0 if other_cost == own_cost else None


@cache
def _cost(key: str) -> tuple[str, float | str] | None:
    """The task and the cost of a sample; in place of the cost the model's config, where the task defines no cost.

    None if `key` is not valid under today's config fields.
    """
    content = json.loads(key)
    try:
        task = task_config(content["task"])
        schemas = {"model": task.MODEL, "data": task.DATA}
        parts = {part: typed(OmegaConf.create(content[part]), kind, {}, part) for part, kind in schemas.items()}
        if not hasattr(task, "relative_cost"):
            return content["task"], repr(parts["model"])
        cost = float(task.relative_cost(SimpleNamespace(**parts)))
    except (ConfigError, OmegaConfBaseException, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None
    return (content["task"], cost) if 0 < cost < math.inf else None
