"""From run folders to `results/<scale>/`: the lines that tables, figures and verdicts are made from.

A collection replaces the lines of the cells it is given and leaves all others. Nothing here needs `runs/`
afterwards, and nothing downstream of here reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from novobench.config import ROOT
from novobench.files import read_csv, write_csv, write_json
from novobench.training import metrics_log
from novobench.training.run_folder import RunFolder

SCHEMA = 1
RECORD_FIELDS = (
    "schema", "cell", "task", "optimizer", "seed", "split", "metric", "value", "n", "unit", "update", "code",
    "dirty", "hardware",
)  # fmt: skip
CURVE_FIELDS = ("schema", "cell", "series", "update", "epoch", "seconds", "value")
_TRAINING_NUMBERS = {
    "train_seconds": "s",
    "skipped_updates": "updates",
    "skipped_samples": "samples",
    "parameters": "parameters",
}
_CURVE_POINTS = 200
_EXAMPLES = 20
_PRIVATE = ("data_root", "path", "trackers")
"""Config keys that name this machine's folders or accounts; results do not carry them."""


def results_folder(scale: str) -> Path:
    return ROOT / "results" / scale


def collect(folders: Iterable[RunFolder], scale: str) -> None:
    """Put the finished cells among `folders` into the results of their scale."""
    done = [(folder, folder.read_record()) for folder in folders if folder.finished]
    if not done:
        return
    target = results_folder(scale)
    cells = {record["cell"] for _, record in done}
    records = [line for _, record in done for line in _record_lines(record)]
    _replace_lines(target / "records.csv", RECORD_FIELDS, cells, records)
    curves = [line for folder, record in done for line in _curve_lines(folder, record)]
    _replace_lines(target / "curves.csv", CURVE_FIELDS, cells, curves)
    _replace_entries(target / "cells.json", {r["cell"]: _cell_entry(f, r) for f, r in done})
    _replace_entries(target / "examples.json", {r["cell"]: _examples(f, r) for f, r in done})


def _record_lines(record: dict[str, Any]) -> list[dict[str, Any]]:
    shared = {key: record[key] for key in ("cell", "task", "optimizer", "seed", "code", "hardware")}
    shared |= {"schema": SCHEMA, "update": record["updates"], "dirty": int(record["dirty"])}
    lines = [
        {**shared, "split": split, "metric": name, **metric}
        for kind in ("metrics", "baselines")
        for split, metrics in record.get(kind, {}).items()
        for name, metric in metrics.items()
    ]
    for name, unit in _TRAINING_NUMBERS.items():
        lines.append({**shared, "split": "train", "metric": name, "value": record[name], "n": 1, "unit": unit})
    return lines


def _curve_lines(folder: RunFolder, record: dict[str, Any]) -> list[dict[str, Any]]:
    series: dict[str, list[dict[str, Any]]] = {}
    for line in metrics_log.read(folder.metrics):
        for name, value in line.items():
            if name not in ("update", "split", "epoch", "seconds"):
                point = {"schema": SCHEMA, "cell": record["cell"], "series": f"{line['split']}/{name}"}
                point |= {"update": line["update"], "epoch": round(line["epoch"], 6), "value": value}
                point["seconds"] = round(line["seconds"], 3) if "seconds" in line else ""
                series.setdefault(point["series"], []).append(point)
    thinned = []
    for points in series.values():
        step = -(-len(points) // _CURVE_POINTS)
        thinned += points[::-1][::step][::-1]  # the last point always stays
    return thinned


def _cell_entry(folder: RunFolder, record: dict[str, Any]) -> dict[str, Any]:
    config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    environment = json.loads(folder.environment.read_text(encoding="utf-8"))
    kept = ("epochs", "weights_sha256", "fingerprint", "counts", "scoring", "finished", "purpose")
    return {
        "schema": SCHEMA,
        "config": _without_private(config),
        "environment": environment,
        **{key: record[key] for key in kept},
    }


def _without_private(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _without_private(value) for key, value in config.items() if key not in _PRIVATE}
    return config


def _examples(folder: RunFolder, record: dict[str, Any]) -> dict[str, Any]:
    splits = [split for split in record["metrics"] if folder.predictions(split).exists()]
    return {"schema": SCHEMA, **{split: folder.read_predictions(split)[:_EXAMPLES] for split in splits}}


# ---------------------------------------------------------------------------------------------- files


def _replace_lines(path: Path, fields: Sequence[str], cells: set[str], lines: list[dict[str, Any]]) -> None:
    kept = [line for line in read_csv(path) if line["cell"] not in cells]
    order: Callable[[dict[str, Any]], Any] = lambda line: line["cell"]  # noqa: E731
    write_csv(path, fields, sorted([*kept, *lines], key=order))  # stable: order within a cell stays


def _replace_entries(path: Path, entries: dict[str, Any]) -> None:
    write_json(path, dict(sorted({**read_json(path), **entries}.items())))


def read_json(path: Path) -> dict[str, Any]:
    """A results file by cell; empty if it does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def speeds(scale: str) -> dict[str, tuple[float, float]]:
    """What finished cells took: JSON of their task, model and data -> samples and seconds of one device, both summed;
    those that shared a GPU had a part of its time each."""
    cells = read_json(results_folder(scale) / "cells.json")
    found: dict[str, tuple[float, float]] = {}
    for line in read_csv(results_folder(scale) / "records.csv"):
        if line["metric"] == "train_seconds" and line["value"] and line["cell"] in cells:
            config = cells[line["cell"]]["config"]
            runtime = config["runtime"]
            devices = runtime["devices"] * runtime["nodes"] / runtime.get("cells_per_gpu", 1)
            key = json.dumps({part: config[part] for part in ("task", "model", "data")}, sort_keys=True)
            samples, seconds = found.get(key, (0.0, 0.0))
            samples += int(line["update"]) * config["batch"]["size"]
            found[key] = samples, seconds + float(line["value"]) * devices
    return found
