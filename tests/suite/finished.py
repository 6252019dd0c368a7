"""Finished cells without training: the files that a run folder holds in the end, and the results made from them."""

import csv
import functools
import gzip
import json
from pathlib import Path

from novobench import places
from novobench.config import cell_id, to_yaml
from novobench.suite import experiment as suite
from novobench.suite.collection import collect
from novobench.suite.plan import PlannedCell
from novobench.suite.results import Results, locked
from novobench.suite.row_configs import row_config
from novobench.suite.table_rows import table_rows
from novobench.suite.tables import write_table

CURVE = (4.0, 2.0, 1.0)


def config_of(name, row, scale="laptop", seed=0):
    """The config of a row, computed once for all tests that have the same files."""
    files = [
        places.workspace().experiment(name),
        *(path for path in places.workspace().config_files() if path.name == f"tuned-{scale}.yaml"),
    ]
    return _config(name, row, scale, seed, tuple(path.read_text() for path in files))


@functools.cache
def _config(name, row, scale, seed, _contents):
    experiment = suite.load_experiment(name)
    return row_config(experiment, experiment.row(row), scale, seed)


def finished(
    experiment,
    row,
    metrics,
    *,
    scale="laptop",
    seed=100,
    curves=None,
    fingerprint="digits:0123",
    overrides=None,
    **fields,
):
    """Write a finished run folder of the row.

    metrics: split -> name -> value. curves: `split/name` -> values. overrides: of the row's config. fields: other
    ones of the record.
    """
    config = config_of(experiment, row, scale, seed)
    if overrides:
        loaded = suite.load_experiment(experiment)
        config = row_config(loaded, loaded.row(row), scale, seed, overrides)
    return finished_cell(config, metrics, curves=curves, fingerprint=fingerprint, **fields)


def finished_cell(config, metrics, *, curves=None, fingerprint="digits:0123", **fields):
    """Write a finished run folder of a cell with this config."""
    folder = PlannedCell(config).folder
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.config.write_text(to_yaml(config))
    folder.environment.write_text(json.dumps({"python": "3", "packages": {}}))
    content = {
        "schema": 1,
        "cell": cell_id(config),
        "task": config.task,
        "optimizer": config.optimizer.name,
        "seed": config.seed,
        "scale": config.scale,
        "purpose": config.purpose,
        "updates": config.total_updates,
        "epochs": config.epochs,
        "metrics": {
            split: {name: {"value": value, "n": 597, "unit": "%"} for name, value in values.items()}
            for split, values in metrics.items()
        },
        "baselines": {},
        "scoring": {},
        "search_split": "search",
        "skipped_updates": 0,
        "skipped_samples": 0,
        "train_seconds": 1.5,
        "determinism": "strict",
        "parameters": 100,
        "weights_sha256": "0" * 64,
        "fingerprint": fingerprint,
        "counts": {"train": 1040},
        "files": {},
        "code": "0123456789ab",
        "dirty": False,
        "hardware": "a machine, 2 cores",
        "finished": "2020-01-01T00:00:00Z",
        **fields,
    }
    log = [
        {"update": update, "epoch": update / 8, "seconds": update / 2, **{"split": series.split("/")[0]}}
        | {series.split("/")[1]: value}
        for series, values in (curves or {"train/loss": CURVE}).items()
        for update, value in enumerate(values, 1)
    ]
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in log))
    for split in metrics:
        folder.predictions(split).write_bytes(gzip.compress(b'{"index": 0, "reference": 1, "output": 1}\n'))
    folder.record.write_text(json.dumps(content))
    return folder


def collected(*folders, scale="laptop"):
    """Collect the folders; returns the lines about those that could not be collected."""
    with locked(scale):
        return collect(folders, Results.load(scale))


def written_table(name="small", scale="laptop"):
    """Write the table of an experiment; returns the lines of its CSV by row, and its Markdown."""
    experiment = suite.load_experiment(name)
    csv_path, markdown_path = write_table(experiment, scale, table_rows(experiment, Results.load(scale)))
    with csv_path.open(newline="") as file:
        return {line["row"]: line for line in csv.DictReader(file)}, markdown_path.read_text()


TOP1 = {"test": {"top1": 50.0, "loss": 1.25}}
FILES = ("records.csv", "curves.csv", "examples.json", "cells.json")
"""The files that hold a cell's results."""


def content(folder: Path) -> dict[str, bytes]:
    """File name -> content."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
