"""Processes: they end with their parent or at a signal; what their exit codes mean; whether they still do anything."""

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

_POLL_SECONDS = 0.2


def end_with_parent(_: int = 0) -> None:
    """End this process soon after the one that started it. Also serves as the `worker_init_fn` of a data loader.

    For a process that a forkserver forked, the parent is the process that asked for it.
    """
    requester, parent_pid = multiprocessing.parent_process(), os.getppid()

    def watch() -> None:
        if requester is not None:
            multiprocessing.connection.wait([requester.sentinel])
        else:
            while os.getppid() == parent_pid:
                time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_at_signals() -> None:
    """Let SIGINT and SIGTERM end this process at once, as SIGHUP does, even while compiled code runs or waits.

    Nothing is lost: all files of a training are complete at any moment. Ignored signals stay ignored. A crash in
    compiled code prints its traceback to standard error.
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
    """How a process ended, as the predicate of a sentence about it. `exit_code` is negative for signals."""
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
    """Whether a process of this machine is stopped, as by SIGSTOP; False on a system without /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def activity(pid: int) -> tuple[int, ...]:
    """A measure of what a process of this machine has done so far; it stays the same while the process hangs.

    Whole seconds of CPU time of all threads, and the context switches of the main thread. Empty once the process has
    ended. On a system without /proc it always changes.
    """
    process = Path(f"/proc/{pid}")
    if not Path("/proc/self").exists():
        return (time.monotonic_ns(),)
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()  # from the third on: a name may have spaces
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return ()
    ticks = int(fields[11]) + int(fields[12])
    switches = [int(line.split()[1]) for line in lines if "ctxt_switches" in line]
    return ticks // os.sysconf("SC_CLK_TCK"), *switches
