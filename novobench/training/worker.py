"""The process of one cell. Importing this module imports all that a training needs, so that a forkserver
which has it preloaded starts a cell in milliseconds instead of seconds."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from pathlib import Path
from typing import Any

from novobench.config import CellConfig
from novobench.errors import NovobenchError, kind_and_message, one_line
from novobench.files import readable_os_errors
from novobench.processes import end_at_signals, end_with_parent
from novobench.tasks import base
from novobench.tasks.catalog import task_names
from novobench.training import cell, failures

for _name in task_names():
    with contextlib.suppress(Exception):  # a task whose packages are not there, or broken, fails when it is asked for
        __import__(f"novobench.tasks.{_name}.task")


def main(path: str, devices: str | None, threads: int, tell: Any) -> None:
    """Run one cell in this fresh process; everything it prints goes to the folder's `log.txt`.

    Exit code 0: finished; 1: failed, and `failure.json` says why, and so does `tell`, one end of a pipe.
    """
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes this one starts
    end_at_signals()
    end_with_parent()  # a cell whose command was killed stops too, and gives its lock free for the next try
    folder = cell.RunFolder(Path(path))
    try:
        with readable_os_errors(folder.log, "write"):
            folder.path.mkdir(parents=True, exist_ok=True)
            log = folder.log.open("ab", buffering=0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # any text can be logged, whatever the locale
                stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)
        cell.run(folder.path)
    except Exception as error:
        tell.send(failures.reason(error))
        logging.exception("This cell failed.")
        sys.exit(1)


def identify(config: CellConfig, tell: Any) -> None:
    """Measure the fingerprint of a config's data in this fresh process; `tell` gets it, or "" and why not."""
    end_with_parent()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    try:
        _, data = base.build(config)
        tell.send((data.identify(), ""))
    except NovobenchError as error:
        tell.send(("", one_line(error)))
    except Exception as error:  # readers of files that changed can fail anywhere
        tell.send(("", kind_and_message(error)))
