"""Signals that stop a command: Ctrl-C, SIGTERM (a batch system, a shutdown) and SIGHUP (its terminal was closed)."""

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
    """Raised by signal `number`. Code that cleans up after Ctrl-C also cleans up after the other signals."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = signal.Signals(number)


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Raise `Stopped` in the main thread when one of the signals arrives. Yields the list of those that arrived.

    The list is needed because a library may catch the exception and raise an error of its own. Signals that this
    process was started to ignore (`nohup`, a shell's background) stay ignored. A signal that arrives where Python
    cannot raise, such as in a finalizer, is sent again shortly after.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        raise Stopped(number)

    def send_again(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, Stopped):
            timer = threading.Timer(0.05, os.kill, (os.getpid(), unraisable.exc_value.number))
            timer.daemon = True
            timer.start()
        else:
            previous_hook(unraisable)

    previous = {}
    for name in _NAMES:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            previous[number] = signal.signal(number, stop)
    previous_hook, sys.unraisablehook = sys.unraisablehook, send_again
    try:
        yield received
    finally:
        sys.unraisablehook = previous_hook
        for number, handler in previous.items():
            if signal.getsignal(number) is stop:
                signal.signal(number, handler)


def end_now() -> None:
    """Ignore further signals and kill the child processes; the last act of a command that was stopped.

    People press Ctrl-C twice, and no child may outlive the command. Remains in effect after `stop_on_signals`.
    """
    for name in _NAMES:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if "multiprocessing.process" in sys.modules:  # otherwise Python would wait for the children
        for child in sys.modules["multiprocessing.process"].active_children():
            child.kill()
    if "multiprocessing.forkserver" in sys.modules:  # otherwise the forkserver would first finish its imports
        forkserver = getattr(sys.modules["multiprocessing.forkserver"], "_forkserver", None)
        if pid := getattr(forkserver, "_forkserver_pid", None):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
