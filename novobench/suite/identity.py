"""Whether finished cells (training runs) were trained on the data that their configs name today.

The place of a data set is not part of a cell's id, so that the same data may lie elsewhere. Instead a record holds a
fingerprint of the data; here it is compared with the data that exist now. Built-in data sets need no comparison: the
code makes them, and no path can stand for another one.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing.connection
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from rich.console import Console

from novobench import hardware
from novobench.config import CellConfig, data_root
from novobench.console import counted
from novobench.errors import NovobenchError
from novobench.suite.collection import undamaged
from novobench.suite.forkserver import forkserver, start
from novobench.suite.plan import PlannedCell
from novobench.suite.results import Results
from novobench.tasks.catalog import task_config
from novobench.training import worker


def changed_data_errors(cells: Sequence[PlannedCell], out: Console) -> dict[str, str]:
    """Cell id -> error, for each finished cell whose data have changed since it was trained.

    Every data set is measured once, in a process of its own. If it no longer exists, the records are kept, and `out`
    says so.
    """
    trained_on = {}
    for cell in _with_own_data([cell for cell in cells if cell.folder.finished]):
        with suppress(NovobenchError), undamaged(cell.folder, "record.json"):  # the collection reports an error
            trained_on[cell.id] = cell.folder.read_record().fingerprint
    changes = _changes(cells, trained_on, "finished cell", out)
    return {
        cell.id: f"{change} Give other data another name (data.name=…), restore these, or remove {cell.folder.path} to "
        "retrain."
        for cell, change in changes
    }


def collected_on_other_data(cells: Sequence[PlannedCell], results: Results, out: Console) -> set[str]:
    """The cells whose results come from other data than those that exist now. See `changed_data_errors`."""
    collected = [cell for cell in cells if cell.id in results.cells]
    trained_on = {cell.id: results.fingerprint(cell.id) for cell in _with_own_data(collected)}
    return {cell.id for cell, _ in _changes(cells, trained_on, "collected cell", out)}


def _with_own_data(cells: Sequence[PlannedCell]) -> list[PlannedCell]:
    """Those that are not trained on built-in data."""
    built_in = {task: task_config(task).BUILT_IN for task in {cell.config.task for cell in cells}}
    return [cell for cell in cells if cell.config.data.source != built_in[cell.config.task]]


def _changes(
    cells: Sequence[PlannedCell], trained_on: Mapping[str, str], kind: str, out: Console
) -> Iterator[tuple[PlannedCell, str]]:
    """The cells whose data are not those with the fingerprint that they were trained on, each with a sentence that says
    so. trained_on: cell id -> fingerprint; others are not looked at."""
    cells_by_data: dict[str, list[PlannedCell]] = {}
    for cell in cells:
        if cell.id in trained_on:
            cells_by_data.setdefault(_data_key(cell.config), []).append(cell)
    if not cells_by_data:
        return
    out.print(f"{counted(len(trained_on), kind)}: comparing their data with the data they were trained on.")
    measured = _fingerprints([group[0].config for group in cells_by_data.values()])
    for group, (fingerprint, problem) in zip(cells_by_data.values(), measured, strict=True):
        config = group[0].config
        data = f"data '{config.data.name}' ({config.data.source} {config.data.path or config.data.name})"
        if not fingerprint and not (data_root(config) / (config.data.path or config.data.name)).exists():
            out.print(f"{counted(len(group), kind)}: {data} cannot be compared, so the records are kept: {problem}")
            continue
        now = f"fingerprint {fingerprint}" if fingerprint else problem
        for cell in group:
            if fingerprint != trained_on[cell.id]:
                yield cell, f"{data} are not what it was trained on: {now}; was {trained_on[cell.id]}."


def _data_key(config: CellConfig) -> str:
    """Equal for cells that are trained on the same data in the same form, whatever their seed and optimizer."""
    parts = [config.task, config.data_root, dataclasses.asdict(config.data), dataclasses.asdict(config.model)]
    return json.dumps(parts, default=str)


def _fingerprints(configs: Sequence[CellConfig]) -> list[tuple[str, str]]:
    """For the data of each config: its fingerprint and "", or "" and why it cannot be measured.

    As many processes as there are cores measure at a time.
    """
    context = forkserver()
    answers: list[tuple[str, str]] = [("", "")] * len(configs)
    waiting, running = list(enumerate(configs)), dict[Any, tuple[int, Any]]()
    try:
        while waiting or running:
            while waiting and len(running) < hardware.cores():
                index, config = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                arguments = (dict(os.environ), config, sender)
                process = context.Process(target=worker.measure_fingerprint, args=arguments)
                start(process)
                sender.close()
                running[receiver] = index, process
            for receiver in multiprocessing.connection.wait(list(running)):
                assert isinstance(receiver, Connection)
                index, process = running.pop(receiver)
                answers[index] = _answer(receiver, process)
    finally:
        for _, process in running.values():
            process.terminate()
    return answers


def _answer(receiver: Connection, process: Any) -> tuple[str, str]:
    try:
        fingerprint, problem = receiver.recv()
    except EOFError:  # the process died silently
        fingerprint, problem = "", ""
    process.join()
    if fingerprint or problem:
        return fingerprint, problem
    return "", f"the process that measured it ended with exit code {process.exitcode}"
