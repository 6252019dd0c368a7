"""From run folders to `results/<scale>/`.

A collection replaces the results of the cells (training runs) that it gets, restores those that a killed command left
incomplete, and leaves all others as they are. Afterwards nothing needs `runs/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml

from novobench import places
from novobench.config import seed_of
from novobench.errors import NovobenchError, one_line
from novobench.files import json_text, number, remove_leftovers
from novobench.places import display_path
from novobench.suite import up_to_date
from novobench.suite.checked_files import SCHEMA, check_line, check_text
from novobench.suite.results import Results
from novobench.suite.stored_cell import LINE_SCHEMA, CurveLine, RecordLine, StoredCell
from novobench.training import metrics_log
from novobench.training.record import Record
from novobench.training.run_folder import RunFolder

_TRAINING_UNITS = {
    "train_seconds": "s",
    "skipped_updates": "updates",
    "skipped_samples": "samples",
    "parameters": "parameters",
}
"""Fields of a record that become numbers of split `train`, with their units. They end a cell's lines in
`records.csv`, `parameters` last."""
_ENTRY_FIELDS = (
    "updates", "epochs", "purpose", "fingerprint", "counts", "scoring", "weights_sha256", "finished", "claims",
)  # fmt: skip
"""Fields of a record that `cells.json` holds."""
_OF_THE_CODE = ("code", "dirty", "hardware")
"""Fields of a record that the environment in `cells.json` holds: those at the end of the training."""
_MAX_POINTS = 25
"""Updates per split in `curves.csv`; of more, every k-th is kept."""
_MAX_TRAIN_POINTS = 12
"""The same for what a training logs between evaluations, which most figures leave out."""
_DIGITS = 7
"""Significant digits of a number: those of a float32."""
_MAX_EXAMPLES = 10
"""Predictions per split: the first ones."""
_PRIVATE = ("data_root", "path", "trackers")
"""Config keys that name folders or accounts of this machine. Results do not contain them."""
_Yaml = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, and much faster where PyYAML has it


def collect(folders: Iterable[RunFolder], results: Results) -> list[str]:
    """Put the finished cells among `folders` into the results and save them. The caller holds `results.locked` and has
    loaded the results under it.

    A run folder that has not changed since its cell was collected is not read again. Returns one line per cell that
    could not be collected: because a file in its run folder is damaged, or because its results are incomplete and it
    has no run folder. Raises NovobenchError if the results cannot be written.
    """
    remove_leftovers(results.folder)
    results.upgrade()
    by_cell = {folder.path.name: folder for folder in folders}
    for cell in results.incomplete:
        by_cell.setdefault(cell, RunFolder(places.workspace().runs(results.scale) / cell))
    problems = []
    for cell, folder in by_cell.items():
        state = up_to_date.state(folder.path)
        if not results.is_up_to_date(cell, state) and folder.finished:
            try:
                results.put(cell, read_run(folder), state)
            except NovobenchError as error:
                problems.append(str(error))
    results.write()
    return [line for line in (*problems, results.complaint()) if line]


def read_run(folder: RunFolder) -> StoredCell:
    """What results keep of a finished cell. Raises NovobenchError, which names the file, if a file is damaged."""
    with undamaged(folder, "record.json"):
        record = folder.read_record()
        if record.cell != folder.path.name:
            raise ValueError(f"it is the record of {record.cell}")
        records = _record_lines(record)
        from_record = _as_stored({name: getattr(record, name) for name in _ENTRY_FIELDS})
        of_the_code = _as_stored({name: getattr(record, name) for name in _OF_THE_CODE})
        check_text(record.hardware, "hardware")
        check_text(record.code, "code")
    with undamaged(folder, "config.yaml"):
        config = yaml.load(folder.config.read_text(encoding="utf-8"), Loader=_Yaml)
        if (config["task"], config["seed"], seed_of(record.cell)) != (record.task, record.seed, record.seed):
            raise ValueError("it belongs to another cell")
        config = _as_stored(_without_private(config))
    with undamaged(folder, "environment.json", record):
        environment = _as_stored(json.loads(folder.environment.read_text(encoding="utf-8")))
        if not isinstance(environment, dict):
            raise ValueError("it does not hold an object")
    with undamaged(folder, "metrics.jsonl", record):
        curves = _curve_lines(folder, record)
    examples: dict[str, Any] = {"schema": SCHEMA}
    for split in record.metrics:
        path = folder.predictions(split)
        if path.exists() or path.name in record.files:
            with undamaged(folder, path.name, record):
                if not path.stat().st_size:
                    raise ValueError("it is empty")  # gzip would read it as no lines
                examples[split] = _as_stored(folder.read_predictions(split)[:_MAX_EXAMPLES])
    entry = {"config": config, "environment": {**environment, **of_the_code}, **from_record}
    return StoredCell(records, curves, examples, entry)


@contextmanager
def undamaged(folder: RunFolder, name: str, record: Record | None = None) -> Iterator[None]:
    """Report any error in reading the file `name` of a finished run as a NovobenchError of one line.

    record: to check also that the file is the one the record was written for.
    """
    try:
        if record is not None and folder.altered(name, record):
            raise ValueError("its content is not what record.json says")
        yield
    except NovobenchError:
        raise
    except Exception as error:  # reading a damaged file can fail anywhere
        reason = f"it lacks {error}" if isinstance(error, KeyError) else one_line(error) or type(error).__name__
        raise NovobenchError(
            f"{display_path(folder.path / name)} of a finished cell is damaged: {reason}. What was collected from it "
            f"before stays. Restore the file, or remove the folder {display_path(folder.path)} to train the cell again."
        ) from None


def _record_lines(record: Record) -> list[RecordLine]:
    metrics = [
        (split, name, metric)
        for by_split in (record.metrics, record.baselines)
        for split, by_name in by_split.items()
        for name, metric in by_name.items()
    ]
    numbers: list[tuple[str, str, Any, int, str]] = [(split, name, *metric) for split, name, metric in metrics]
    numbers += [("train", name, getattr(record, name), 1, unit) for name, unit in _TRAINING_UNITS.items()]
    if len({(split, name) for split, name, *_ in numbers}) < len(numbers):
        raise ValueError("a split has a metric twice")
    return [
        check_line(
            RecordLine(
                schema=str(LINE_SCHEMA),
                cell=record.cell,
                task=record.task,
                optimizer=record.optimizer,
                seed=str(record.seed),
                split=split,
                metric=name,
                value=_number_text(value),
                n=str(n),
                unit=unit,
            ),
            LINE_SCHEMA,
        )
        for split, name, value, n, unit in numbers
    ]


def _curve_lines(folder: RunFolder, record: Record) -> list[CurveLine]:
    """The curves of a finished cell, whose log must have complete lines only.

    A split that was evaluated once, for the record, has no curve, unless it is the one that searches look at.
    """
    if not (b"\n" + folder.metrics.read_bytes()).endswith(b"\n"):
        raise ValueError("its last line is cut off")
    by_split: dict[str, dict[int, dict[str, Any]]] = {}
    for entry in metrics_log.read(folder.metrics):
        logged = by_split.setdefault(entry["split"], {}).setdefault(int(entry["update"]), {})
        for name, value in entry.items():
            if name in logged and name not in _POSITION:
                raise ValueError(f"{entry['split']}/{name} of update {entry['update']} is in it twice")
            logged[name] = value
    kept: list[CurveLine] = []
    for split, by_update in by_split.items():
        lines = [check_line(_curve_line(record.cell, logged), LINE_SCHEMA) for logged in by_update.values()]
        if len(lines) > 1 or split in ("train", record.search_split) or split not in record.metrics:
            step = -(-len(lines) // (_MAX_TRAIN_POINTS if split == "train" else _MAX_POINTS))
            kept += lines[::-1][::step][::-1]  # with the last
    return kept


_POSITION = ("update", "split", "epoch", "seconds")
"""Keys of a logged line that say where in the training it was; the others are its numbers."""


def _curve_line(cell: str, logged: Mapping[str, Any]) -> CurveLine:
    return CurveLine(
        schema=str(LINE_SCHEMA),
        cell=cell,
        split=logged["split"],
        update=str(logged["update"]),
        epoch=f"{logged['epoch']:.6g}",
        seconds=f"{logged['seconds']:.5g}" if "seconds" in logged else "",
        values=" ".join(f"{name}={_number_text(logged[name])}" for name in logged if name not in _POSITION),
    )


def _number_text(value: Any) -> str:
    """A number in few digits, a whole one as it is; `nan` if it is not finite, which JSON says as null."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return f"{number(value):.{_DIGITS}g}"


def _as_stored(content: Any) -> Any:
    """What readers of a JSON file will get. Raises ValueError or TypeError if it cannot be written."""
    text = json_text(content)
    text.encode()  # raises on a lone surrogate
    return json.loads(text)


def _without_private(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _without_private(value) for key, value in config.items() if key not in _PRIVATE}
    return config
