"""Processes that end when the one that started them does, whatever ended it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
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
