"""Whether finished cells were trained on the data that the config names today.

Where data lie is no part of a cell's id, so that the same data may lie elsewhere; a record therefore holds their
fingerprint. Here it is compared with what is there now. A built-in data set is passed over: the code makes it, and no
path can name another.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing.connection
import os
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from novobench import hardware
from novobench.config import CellConfig, data_root
from novobench.errors import NovobenchError
from novobench.suite.collection import undamaged
from novobench.suite.forkserver import forkserver, start
from novobench.suite.plan import PlannedCell
from novobench.tasks.catalog import task_config
from novobench.training import worker


def other_data(cells: Sequence[PlannedCell], out: Console) -> dict[str, str]:
    """The error of each finished cell whose data are others now, by cell id.

    Each set of data is measured once, in a process of its own. Data that are not there any more are told of on `out`,
    and their records stand.
    """
    built_in = {task: task_config(task).BUILT_IN for task in {cell.config.task for cell in cells}}
    asked: dict[str, list[PlannedCell]] = {}
    for cell in cells:
        config = cell.config
        if config.data.source != built_in[config.task] and cell.folder.finished:
            asked.setdefault(_data_of(config), []).append(cell)
    if not asked:
        return {}
    count = sum(map(len, asked.values()))
    out.print(f"{count} finished cells: comparing their data with those that they were trained on.")
    found = _measured([users[0].config for users in asked.values()])
    errors = {}
    for users, (fingerprint, problem) in zip(asked.values(), found, strict=True):
        data = users[0].config.data
        where = f"data '{data.name}' ({data.source} {data.path or data.name})"
        if not fingerprint and not (data_root(users[0].config) / (data.path or data.name)).exists():
            out.print(f"{len(users)} finished cells: {where} cannot be compared, the records stand: {problem}")
            continue
        for cell in users:
            try:
                with undamaged(cell.folder, "record.json"):
                    trained_on = cell.folder.read_record().fingerprint
            except NovobenchError:  # the collection names it
                continue
            if fingerprint != trained_on:
                errors[cell.id] = (
                    f"{where} are not those that it was trained on: "
                    f"{f'fingerprint {fingerprint}' if fingerprint else problem}; was {trained_on}. Give other data a "
                    f"name of their own (data.name=…), restore these, or remove {cell.folder.path} to train anew."
                )
    return errors


def _data_of(config: CellConfig) -> str:
    """The same for cells that are trained on the same data in the same form, whatever their seed and optimizer."""
    parts = [config.task, config.data_root, dataclasses.asdict(config.data), dataclasses.asdict(config.model)]
    return json.dumps(parts, default=str)


def _measured(configs: Sequence[CellConfig]) -> list[tuple[str, str]]:
    """The fingerprint of each config's data, or empty and why it cannot be told; a few at a time."""
    context = forkserver()
    found: list[tuple[str, str]] = [("", "")] * len(configs)
    waiting, running = list(enumerate(configs)), dict[Any, tuple[int, Any]]()
    try:
        while waiting or running:
            while waiting and len(running) < hardware.cores():
                number, config = waiting.pop(0)
                told, connection = context.Pipe(duplex=False)
                arguments = (dict(os.environ), config, connection)
                process = context.Process(target=worker.measure_fingerprint, args=arguments)
                start(process)
                connection.close()
                running[told] = number, process
            for told in multiprocessing.connection.wait(list(running)):
                number, process = running.pop(told)
                found[number] = _heard(told, process)
    finally:
        for _, process in running.values():
            process.terminate()
    return found


def _heard(told: Any, process: Any) -> tuple[str, str]:
    try:
        answer = told.recv()
    except EOFError:  # it died without a word
        answer = "", ""
    process.join()
    return answer if any(answer) else ("", f"the process that looked ended with exit code {process.exitcode}")
