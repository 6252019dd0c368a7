"""The process from which all others are forked, with everything imported: started so that it works on any machine."""

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

_LONGEST_SOCKET = 103
"""Bytes of a Unix socket's path: 107 on Linux, 103 on macOS."""
_SOCKET = "/pymp-xxxxxxxx/listener-xxxxxxxx"
"""What multiprocessing puts below the temporary folder."""


def forkserver() -> Any:
    """Starts processes that have imported all that a training needs. Raises NovobenchError if it cannot be started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["novobench.training.preload"])
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the forkserver; each cell sets its own count
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _choose_temporary_folder()
    try:
        multiprocessing.resource_tracker.ensure_running()  # it lets Ctrl-C through when it has started, so it is first
        with _interrupts_held_back():
            multiprocessing.forkserver.ensure_running()
    except OSError as error:
        raise NovobenchError(f"No process can be started: {kind_and_message(error)}. {_CURE}") from error
    return context


_CURE = "Free memory, processes (ulimit -u) and open files (ulimit -n), then run the same command again."


def start(process: Any) -> None:
    """Start a process of the forkserver's. Raises TrainingError in one line if it, or the forkserver, is gone."""
    directory = multiprocessing.process.ORIGINAL_DIR  # type: ignore[attr-defined]
    if directory is not None and not os.path.isdir(directory):  # removed since; the process would stumble over it
        multiprocessing.process.ORIGINAL_DIR = None  # type: ignore[attr-defined]
    try:
        process.start()
    except (OSError, EOFError) as error:
        raise TrainingError(
            f"its process could not be started, the one that should do it is gone ({kind_and_message(error)}). {_CURE}"
        ) from error


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """What starts meanwhile never sees Ctrl-C, which a terminal sends to all: the command alone acts on it, and ends
    what it has started. For itself it only comes later."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _choose_temporary_folder() -> None:
    """Have multiprocessing keep its sockets where their paths are short enough and files can be made.

    Batch systems name long folders in TMPDIR, and others that do not exist. Everything else stays in TMPDIR.
    """
    if multiprocessing.process.current_process()._config.get("tempdir"):  # type: ignore[attr-defined]
        return
    candidates = ["/tmp", "/var/tmp", "/dev/shm", str(places.workspace().root / "runs")]
    with suppress(FileNotFoundError):  # there is none where a file can be made
        candidates.insert(0, tempfile.gettempdir())
    usual = tempfile.tempdir
    for folder in candidates:
        if len(os.fsencode(folder + _SOCKET)) <= _LONGEST_SOCKET and _can_hold_files(Path(folder)):
            try:
                tempfile.tempdir = folder
                atexit.register(_make_again, multiprocessing.util.get_temp_dir())
                return
            finally:
                tempfile.tempdir = usual
    raise NovobenchError(
        f"No folder for temporary files: {', '.join(candidates)} cannot be written, or their paths are too long for a "
        "socket. Set TMPDIR to one that is short and writable."
    )


def _make_again(folder: str) -> None:
    """multiprocessing removes its folder at the end and stumbles if somebody has tidied it up before."""
    with suppress(OSError):
        os.makedirs(folder, exist_ok=True)


def _can_hold_files(folder: Path) -> bool:
    try:
        places.check_writable(folder)
    except OSError:
        return False
    return True
