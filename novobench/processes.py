"""Processes that end when the one that started them does, or a signal says so, and how they ended."""

from __future__ import annotations

import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from pathlib import Path

_LOOK_SECONDS = 0.2


def end_with_parent(_: int = 0) -> None:
    """End this process soon after the one that started it. A data loader calls this with its worker's number.

    A process that a forkserver made has another parent for the system than the one that asked for it: that one counts.
    """
    asked, parent = multiprocessing.parent_process(), os.getppid()

    def watch() -> None:
        if asked is not None:
            multiprocessing.connection.wait([asked.sentinel])
        else:
            while os.getppid() == parent:
                time.sleep(_LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_at_signals() -> None:
    """Let SIGINT and SIGTERM end this process at once, compiled code that computes or waits included, as SIGHUP does.

    Nothing is lost: whatever a training writes is whole at any moment. A signal that is ignored stays ignored. What a
    crash of compiled code was about goes to standard error.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if sys.stderr is not None and sys.stderr is sys.__stderr__:
        faulthandler.enable()


_CRASHES = {"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGTRAP", "SIGSYS"}


def describe_exit(exit_code: int) -> str:
    """What an exit code says of a process, as the rest of a sentence that began with the process."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = "unknown"
    by = f"signal {-exit_code} ({name})"
    if name == "SIGKILL":
        return f"was killed by {by}, as the system does when memory runs out"
    return f"crashed in compiled code, with {by}" if name in _CRASHES else f"was ended by {by}"


def is_stopped(pid: int) -> bool:
    """Whether a process of this machine is stopped, as by SIGSTOP; no where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def activity(pid: int) -> tuple[int, ...]:
    """What a process of this machine has done: whole seconds of CPU time of all its threads, and how often its main
    thread has waited and gone on again. It stays the same while the process hangs, and once it is gone.

    Where the system does not tell (without /proc), it always changes.
    """
    about = Path(f"/proc/{pid}")
    if not about.parent.joinpath("self").exists():
        return (time.monotonic_ns(),)
    try:
        fields = (about / "stat").read_text().rpartition(")")[2].split()  # from the third on: a name may hold blanks
        lines = (about / "status").read_text().splitlines()
    except OSError:
        return ()
    ticks = int(fields[11]) + int(fields[12])
    switches = [int(line.split()[1]) for line in lines if "ctxt_switches" in line]
    return ticks // os.sysconf("SC_CLK_TCK"), *switches
