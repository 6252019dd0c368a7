"""The process from which all cells are forked, with everything imported, started so that it works on any machine."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.process
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from novobench import places
from novobench.errors import NovobenchError, TrainingError, kind_and_message

_MAX_SOCKET_PATH = 103
"""Bytes in the path of a Unix socket: 107 on Linux, 103 on macOS."""
_SOCKET = "/pymp-xxxxxxxx/listener-xxxxxxxx"
"""The path of multiprocessing's sockets below the temporary folder."""


def forkserver() -> Any:
    """A multiprocessing context whose processes have imported everything that a training needs.

    Raises NovobenchError if its server cannot be started.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["novobench.training.preload"])
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the forkserver; each cell sets its own count
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _choose_temporary_folder()
    try:
        multiprocessing.resource_tracker.ensure_running()  # before the signals are blocked, because it unblocks them
        with _interrupts_blocked():
            multiprocessing.forkserver.ensure_running()
    except OSError as error:
        raise NovobenchError(f"No process can be started: {kind_and_message(error)}. {_REMEDY}") from error
    return context


_REMEDY = "Free memory, processes (ulimit -u) and open files (ulimit -n), then run the same command again."


def start(process: Any) -> None:
    """Start a process of the forkserver. Raises TrainingError if that fails, for example because the server is dead."""
    directory = multiprocessing.process.ORIGINAL_DIR  # type: ignore[attr-defined]
    if directory is not None and not os.path.isdir(directory):  # it was removed, and the process would fail to enter it
        multiprocessing.process.ORIGINAL_DIR = None  # type: ignore[attr-defined]
    try:
        process.start()
    except (OSError, EOFError) as error:
        raise TrainingError(
            f"its process could not be started, because the server of processes is gone ({kind_and_message(error)}). "
            f"{_REMEDY}"
        ) from error


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes that start meanwhile never see Ctrl-C, which a terminal sends to all of them: only the command acts on
    it, and stops the others. The command itself gets a Ctrl-C afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _choose_temporary_folder() -> None:
    """Let multiprocessing keep its sockets in a folder that is writable and whose path is short enough.

    Batch systems set TMPDIR to long paths, or to folders that do not exist. All other temporary files stay in TMPDIR.
    """
    if multiprocessing.process.current_process()._config.get("tempdir"):  # type: ignore[attr-defined]
        return
    candidates = ["/tmp", "/var/tmp", "/dev/shm", str(places.workspace().root / "runs")]
    with suppress(FileNotFoundError):  # no writable temporary folder
        candidates.insert(0, tempfile.gettempdir())
    usual = tempfile.tempdir
    for folder in candidates:
        if len(os.fsencode(folder + _SOCKET)) <= _MAX_SOCKET_PATH and _is_writable(Path(folder)):
            try:
                tempfile.tempdir = folder
                atexit.register(_restore_folder, multiprocessing.util.get_temp_dir())
                return
            finally:
                tempfile.tempdir = usual
    raise NovobenchError(
        f"No folder for temporary files: {', '.join(candidates)} are not writable, or their paths are too long for a "
        "socket. Set TMPDIR to a writable folder with a short path."
    )


def _restore_folder(folder: str) -> None:
    """multiprocessing removes its folder at exit, and fails if something else has removed it before."""
    with suppress(OSError):
        os.makedirs(folder, exist_ok=True)


def _is_writable(folder: Path) -> bool:
    try:
        places.check_writable(folder)
    except OSError:
        return False
    return True
