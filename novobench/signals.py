"""A command that is told to stop: Ctrl-C, SIGTERM (a batch system, a shutdown) and SIGHUP (its terminal is gone)."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(KeyboardInterrupt):
    """Told to stop by signal `number`. Whoever tidies up after Ctrl-C does so after the others, too."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = signal.Signals(number)


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Raise `Stopped` in the main thread when such a signal comes; yields the list of those that came.

    A signal that this process was started to ignore (`nohup`, a shell's background) stays ignored. One that comes while
    Python cannot raise, as in a finalizer, comes again soon after. A library may catch it and raise another error
    instead: then the list tells.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        raise Stopped(number)

    def not_raised(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, Stopped):
            again = threading.Timer(0.05, os.kill, (os.getpid(), unraisable.exc_value.number))
            again.daemon = True
            again.start()
        else:
            hook_before(unraisable)

    before = {}
    for name in _NAMES:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            before[number] = signal.signal(number, stop)
    hook_before, sys.unraisablehook = sys.unraisablehook, not_raised
    try:
        yield came
    finally:
        sys.unraisablehook = hook_before
        for number, handler in before.items():
            if signal.getsignal(number) is stop:
                signal.signal(number, handler)


def end_now() -> None:
    """For the last moments of a process that was stopped: nothing that it started runs on, and people press Ctrl-C
    twice. Outlasts `stop_on_signals`."""
    for name in _NAMES:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if "multiprocessing.process" in sys.modules:  # else Python would wait for them
        for child in sys.modules["multiprocessing.process"].active_children():
            child.kill()
    if "multiprocessing.forkserver" in sys.modules:  # else it would first import all that it was to import
        forkserver = getattr(sys.modules["multiprocessing.forkserver"], "_forkserver", None)
        if pid := getattr(forkserver, "_forkserver_pid", None):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
