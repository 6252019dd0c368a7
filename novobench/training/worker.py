"""What the processes that the suite starts do: train one cell (one training run), or measure its data.

Importing this module imports no torch, so the command line can name these functions. The forkserver that forks the
processes has preloaded what they import (`training.preload`), so they start in milliseconds instead of seconds.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from novobench.config import CellConfig
from novobench.errors import NovobenchError, kind_and_message, message_for_user, one_line
from novobench.files import readable_os_errors
from novobench.processes import end_at_signals, end_with_parent
from novobench.requirements import SUITE, install_command
from novobench.training.run_folder import RunFolder


def train(environment: dict[str, str], path: str, devices: str | None, threads: int, connection: Connection) -> None:
    """Train the cell of the run folder `path` in this fresh process. All that it prints goes to the folder's `log.txt`.

    environment: the variables of the process that asks. devices: CUDA devices it may see, as in CUDA_VISIBLE_DEVICES;
    None leaves the choice to the environment. threads: CPU threads. Exit code 0: finished; 1: failed, and both
    `failure.json` and `connection` have the reason in one line.
    """
    _set_environment(environment)
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes that this one starts
    try:
        from novobench.training import cell, failures
    except Exception as error:  # a broken package can raise anything
        connection.send(_import_problem(error))
        sys.exit(1)
    end_at_signals()
    end_with_parent()  # a cell whose command was killed ends too, and releases its lock for the next attempt
    folder = RunFolder(Path(path))
    try:
        _print_to_log(folder)
        cell.run(folder.path)
    except Exception as error:
        connection.send(failures.reason(error))
        logging.exception("This cell failed.")
        sys.exit(1)


def measure_fingerprint(environment: dict[str, str], config: CellConfig, connection: Connection) -> None:
    """Measure the fingerprint of the data that `config` names, in this fresh process.

    `connection` gets (fingerprint, ""), or ("", the reason in one line) if the data cannot be read.
    """
    _set_environment(environment)
    try:
        from novobench.tasks import base
    except Exception as error:
        connection.send(("", _import_problem(error)))
        sys.exit(1)
    end_with_parent()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    try:
        _, data = base.build(config)
        connection.send((data.identify(), ""))
    except NovobenchError as error:
        connection.send(("", one_line(error)))
    except Exception as error:  # a reader of changed files can fail anywhere
        connection.send(("", kind_and_message(error)))


def _set_environment(environment: dict[str, str]) -> None:
    """Replace this process's variables: the forkserver has kept those of the moment it was started."""
    os.environ.clear()
    os.environ.update(environment)


def _import_problem(error: Exception) -> str:
    if isinstance(error, ImportError):
        return message_for_user(error)
    return f"a package cannot be loaded: {kind_and_message(error)}. Run: {install_command(SUITE)}"


def _print_to_log(folder: RunFolder) -> None:
    """Send this process's output and log messages to `log.txt`. Raises NovobenchError if it cannot be written."""
    with readable_os_errors(folder.log, "write"):
        folder.path.mkdir(parents=True, exist_ok=True)
        log = folder.log.open("ab", buffering=0)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # any text can be logged, whatever the locale
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)
