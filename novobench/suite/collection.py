"""From run folders to `results/<scale>/`.

A collection replaces the results of the cells it is given, completes those that a killed command left incomplete, and
leaves all others. Nothing needs `runs/` afterwards.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from novobench import places
from novobench.errors import NovobenchError, one_line
from novobench.files import json_text, number, remove_leftovers
from novobench.places import display_path
from novobench.suite import up_to_date
from novobench.suite.checked_files import SCHEMA, Line, check_entry, check_line
from novobench.suite.records import (
    CELL_SCHEMA,
    CURVE_KINDS,
    RECORD_KINDS,
    CurveLine,
    RecordLine,
    Results,
    StoredCell,
)
from novobench.training import metrics_log
from novobench.training.record import Record
from novobench.training.run_folder import RunFolder

_TRAINING_NUMBERS = {
    "train_seconds": "s",
    "skipped_updates": "updates",
    "skipped_samples": "samples",
    "parameters": "parameters",
}
"""Last in a cell's lines, and `parameters` last of all."""
_CURVE_POINTS = 200
_EXAMPLES = 20
_PRIVATE = ("data_root", "path", "trackers")
"""Config keys that name this machine's folders or accounts; results do not carry them."""


def collect(folders: Iterable[RunFolder], scale: str, results: Results | None = None) -> list[str]:
    """Put the finished cells among `folders` into the results of their scale. The caller holds `records.locked`.

    A run folder that is as it was when its cell was collected is not read again. `results`: if they are read already.
    Returns a line for each cell that could not be collected: a damaged file in its run folder, or results that are
    incomplete and have no run folder. Raises NovobenchError, with nothing written, if a results file is damaged.
    """
    remove_leftovers(places.workspace().results(scale))
    results = results or Results(scale)
    results.seal()
    given = {folder.path.name: folder for folder in folders}
    given |= {
        cell: RunFolder(places.workspace().runs(scale) / cell) for cell in results.incomplete if cell not in given
    }
    problems = []
    for cell, folder in given.items():
        state = up_to_date.state(folder.path)
        if not results.is_up_to_date(cell, state) and folder.finished:
            try:
                results.put(cell, read_run(folder), state)
            except NovobenchError as error:
                problems.append(str(error))
    results.write()
    return [line for line in (*problems, results.complaint()) if line]


def read_run(folder: RunFolder) -> StoredCell:
    """What results keep of a finished cell. Raises NovobenchError, naming the file, if one of them is damaged."""
    with undamaged(folder, "record.json"):
        record = folder.read_record()
        if record.cell != folder.path.name:
            raise ValueError(f"it is the record of {record.cell}")
        records = _record_lines(record)
        kept = ("epochs", "weights_sha256", "fingerprint", "counts", "scoring", "finished", "purpose")
        kept_entry = {key: getattr(record, key) for key in kept}
        check_entry({"schema": CELL_SCHEMA, **kept_entry}, {"fingerprint": str}, (CELL_SCHEMA,))
        splits = list(record.metrics)
    with undamaged(folder, "config.yaml"):
        config = yaml.load(folder.config.read_text(encoding="utf-8"), Loader=_Yaml)
        if (config["task"], config["seed"]) != (record.task, record.seed):
            raise ValueError("it is another cell's")
    with undamaged(folder, "environment.json", record):
        environment = json.loads(folder.environment.read_text(encoding="utf-8"))
        if not isinstance(environment, dict):
            raise ValueError("it holds no object")
    with undamaged(folder, "metrics.jsonl", record):
        curves = _curve_lines(folder.metrics, record.cell)
    examples: dict[str, Any] = {"schema": SCHEMA}
    for split in splits:
        if folder.predictions(split).exists() or folder.predictions(split).name in record.files:
            with undamaged(folder, folder.predictions(split).name, record):
                if not folder.predictions(split).stat().st_size:
                    raise ValueError("it is empty")  # gzip would read no lines
                examples[split] = _as_stored(folder.read_predictions(split)[:_EXAMPLES])
    with undamaged(folder, "record.json"):
        kept_entry = _as_stored(kept_entry)
    with undamaged(folder, "config.yaml"):
        config = _as_stored(_without_private(config))
    with undamaged(folder, "environment.json"):
        environment = _as_stored(environment)
    entry = {"schema": CELL_SCHEMA, "config": config, "environment": environment, **kept_entry}
    return StoredCell(records, curves, examples, entry)


def _as_stored(content: Any) -> Any:
    """What readers of a JSON file will find. Raises ValueError or TypeError if it cannot be written."""
    text = json_text(content)
    text.encode()  # half a character is no text
    return json.loads(text)


@contextmanager
def undamaged(folder: RunFolder, name: str, record: Record | None = None) -> Iterator[None]:
    """Tell whatever goes wrong in reading the file `name` of a finished run in one line, and if it is not the file that
    its record was written for."""
    try:
        if record is not None and folder.altered(name, record):
            raise ValueError("its content is not what record.json says")
        yield
    except NovobenchError:
        raise
    except Exception as error:  # readers of damaged files can fail anywhere
        reason = f"it lacks {error}" if isinstance(error, KeyError) else one_line(error) or type(error).__name__
        raise NovobenchError(
            f"{display_path(folder.path / name)} of a finished cell is damaged: {reason}. What was collected from it "
            f"before stays. Restore the file, or remove the folder {display_path(folder.path)} to train the cell again."
        ) from None


_Yaml = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, and much faster where PyYAML has it


def _record_lines(record: Record) -> list[RecordLine]:
    shared = {"schema": SCHEMA, "update": record.updates, "dirty": int(record.dirty)}
    shared |= {key: getattr(record, key) for key in ("seed", "cell", "task", "optimizer", "code", "hardware")}
    lines = []
    for by_split in (record.metrics, record.baselines):
        for split, metrics in by_split.items():
            lines += [{**shared, "split": split, "metric": name, **metrics[name]._asdict()} for name in metrics]
    for name, unit in _TRAINING_NUMBERS.items():
        value = getattr(record, name)
        lines.append({**shared, "split": "train", "metric": name, "value": value, "n": 1, "unit": unit})
    places = [(line["split"], line["metric"]) for line in lines]
    if len(set(places)) < len(places):
        raise ValueError("a metric of a split is there twice")
    return [RecordLine(**check_line(_as_text(line), RECORD_KINDS)) for line in lines]


def _curve_lines(path: Path, cell: str) -> list[CurveLine]:
    """The curves of a finished cell, whose log has whole lines only."""
    if not (b"\n" + path.read_bytes()).endswith(b"\n"):
        raise ValueError("its last line is cut")
    series: dict[str, dict[int, CurveLine]] = {}
    for entry in metrics_log.read(path):
        for name, value in entry.items():
            if name not in ("update", "split", "epoch", "seconds"):
                point = {"schema": SCHEMA, "cell": cell, "series": f"{entry['split']}/{name}"}
                point |= {"update": entry["update"], "epoch": round(entry["epoch"], 6), "value": _value(value)}
                point["seconds"] = round(entry["seconds"], 3) if "seconds" in entry else ""
                line = CurveLine(**check_line(_as_text(point), CURVE_KINDS))
                of_update = series.setdefault(line.series, {})
                if int(line.update) in of_update:
                    raise ValueError(f"{line.series} of update {line.update} is there twice")
                of_update[int(line.update)] = line
    thinned: list[CurveLine] = []
    for points in (list(of_update.values()) for of_update in series.values()):
        step = -(-len(points) // _CURVE_POINTS)
        thinned += points[::-1][::step][::-1]  # the last point always stays
    return thinned


def _value(value: Any) -> Any:
    """A number as it is; NaN if it is not finite, which JSON says as null."""
    return number(value) if math.isnan(number(value)) else value


def _as_text(line: dict[str, Any]) -> Line:
    """As CSV holds it: floats with all their digits."""
    return {key: repr(value) if isinstance(value, float) else str(value) for key, value in line.items()}


def _without_private(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _without_private(value) for key, value in config.items() if key not in _PRIVATE}
    return config
