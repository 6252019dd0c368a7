"""How cells become processes. `local`: a fresh process a cell, some at a time, each with devices of its own."""

from __future__ import annotations

import os
import pickle
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from novobench import hardware
from novobench.config import to_yaml
from novobench.errors import ConfigError, NovobenchError
from novobench.files import readable_os_errors, write_text
from novobench.processes import activity, describe_exit, is_stopped
from novobench.suite.forkserver import forkserver, start
from novobench.suite.plan import PlannedCell
from novobench.training import worker
from novobench.training.run_folder import RunFolder

_POLL_SECONDS = 0.05
_ABSENT_SECONDS = 5.0
"""Between two looks at the cells: this process was stopped, or the machine slept. What nobody watched is no stall."""

_END_SECONDS = 5.0
"""For a process that is told to end; then it is killed."""
_LINGERING = 60.0
"""Seconds for a process that has written its record; then it is killed."""

Kind = Literal["started", "progress", "finished", "failed"]


@dataclass(frozen=True)
class Event:
    """What happened to a cell: `done` is its share of updates, `error` the reason of a failure."""

    kind: Kind
    cell: PlannedCell
    done: float = 0.0
    seconds: float = 0.0
    error: str = ""


def run_local(cells: Sequence[PlannedCell], jobs: int, on_event: Callable[[Event], None]) -> dict[str, str]:
    """Train the cells, `jobs` at a time; returns the error of each that failed, by cell id.

    A failed cell never stops the others. A process that dies or shows no progress is a failed cell.
    """
    waiting = list(cells)
    failed: dict[str, str] = {}
    slots = _device_slots(cells, min(jobs, len(cells)))
    running: dict[int, _Running] = {}
    context = forkserver()
    looked = time.monotonic()
    try:
        while waiting or running:
            now = time.monotonic()  # of this look: were this process stopped in the midst of it, that is absence, too
            absent, looked = now - looked, now
            for job in running.values() if absent > _ABSENT_SECONDS else ():
                job.last_change += absent
            for slot, devices in enumerate(slots):
                if slot not in running and waiting:
                    cell = waiting.pop(0)
                    on_event(Event("started", cell))
                    try:
                        running[slot] = _start(context, cell, devices, _most_on_one(slots))
                    except NovobenchError as error:
                        failed[cell.id] = str(error)
                        on_event(Event("failed", cell, error=str(error)))
            for slot, job in list(running.items()):
                if job.process.exitcode is None and not job.stalled(now):
                    on_event(Event("progress", job.cell, done=job.progress(now)))
                    continue
                del running[slot]
                reason = job.end()
                if reason:
                    failed[job.cell.id] = reason
                    on_event(Event("failed", job.cell, error=reason))
                else:
                    on_event(Event("finished", job.cell, done=1.0, seconds=time.monotonic() - job.started))
            time.sleep(_POLL_SECONDS)
    finally:
        for job in running.values():
            job.process.terminate()
        for job in running.values():
            job.process.join(_END_SECONDS)
            job.process.kill()  # it may be stopped
            job.process.join()
    return failed


@dataclass
class _Running:
    process: Any
    cell: PlannedCell
    folder: RunFolder
    started: float
    told: Any
    """Where the process says why it failed, in case the folder cannot hold it: a full disk."""
    old_beat: dict[str, Any] | None
    """What an earlier try has left."""
    last_sign: Any = None
    last_change: float = 0.0

    def progress(self, now: float) -> float:
        """The share of updates that are done. Notes when something last moved; `now` is the clock as of this look.

        A training beats after each batch, in evaluations too. What is done before the first one has no steps to count:
        reading, encoding, computing features, waiting for another process that does. There it counts whether the
        process does anything, as the system sees it.
        """
        beat = self.folder.read_heartbeat()
        if beat is None or beat == self.old_beat:
            sign, done = activity(self.process.pid), 0.0
        else:
            sign, done = beat["time"], beat["update"] / max(beat["total"], 1)
            if beat["setting_up"]:
                sign = activity(beat["pid"] if beat["host"] == platform.node() else self.process.pid)
        if sign != self.last_sign:
            self.last_sign, self.last_change = sign, now
        return done

    def stalled(self, now: float) -> bool:
        """Whether nothing has moved for too long. One that has its record has only to end: it may not, if something
        that it loaded has left a thread behind."""
        silent = now - self.last_change
        return silent > 60 * self.cell.config.runtime.stall_minutes or (silent > _LINGERING and self.folder.finished)

    def end(self) -> str:
        """Wait for the process; empty if the record is there, else the reason."""
        stopped = self.process.exitcode is None and is_stopped(self.process.pid)
        stalled = self.process.exitcode is None
        if stalled:
            self.process.kill()
        self.process.join()
        code = self.process.exitcode
        if self.folder.finished:
            return ""
        if stalled:
            why = " (its process was stopped by a signal, as Ctrl-Z sends)" * stopped
            return (
                f"no progress for {self.cell.config.runtime.stall_minutes:g} minutes (runtime.stall_minutes){why}; "
                f"stopped. See {self.folder.log}"
            )
        if reason := self.folder.failure_reason() or self._last_words():
            return reason
        how = describe_exit(code)
        if code < 0:
            return f"its process {how}. Run the same command again to resume from its checkpoint. See {self.folder.log}"
        return (
            f"its process {how} and left no record. Something that it loaded may have ended it, such as an optimizer's "
            f"module. See {self.folder.log}"
        )

    def _last_words(self) -> str:
        try:
            return self.told.recv() if self.told.poll() else ""
        except (EOFError, OSError, pickle.UnpicklingError):  # it ended without a word, or within one
            return ""


def _start(context: Any, cell: PlannedCell, devices: str | None, sharing: int) -> _Running:
    folder, config = cell.folder, cell.config
    if devices is not None:  # what its speed is worth depends on it
        config = replace(config, runtime=replace(config.runtime, cells_per_gpu=sharing))
    write_text(folder.config, to_yaml(config))
    with readable_os_errors(folder.failure, "remove"):
        folder.failure.unlink(missing_ok=True)
    told, connection = context.Pipe(duplex=False)
    process = context.Process(
        target=worker.train,
        args=(dict(os.environ), str(folder.path), devices, cell.config.runtime.threads, connection),
        name=cell.id,
    )
    old_beat = folder.read_heartbeat()
    start(process)
    connection.close()
    return _Running(process, cell, folder, time.monotonic(), told, old_beat, last_change=time.monotonic())


def _gpus(cells: Sequence[PlannedCell]) -> list[str]:
    """The GPUs that the cells may train on; none where one of them is to train on the CPU."""
    return [] if any(cell.config.runtime.accelerator == "cpu" for cell in cells) else hardware.visible_gpus()


def _device_slots(cells: Sequence[PlannedCell], jobs: int) -> list[str | None]:
    """One entry a concurrent cell: the GPUs it may see, or None where there is none to assign. Where more cells run at
    a time than there are groups of GPUs, they share them."""
    gpus = _gpus(cells)
    needed = max((cell.config.runtime.devices for cell in cells), default=1)
    if not gpus:
        return [None] * jobs
    if needed > len(gpus):
        raise ConfigError(
            f"runtime.devices is {needed}, but this machine has {len(gpus)} GPU(s). Lower runtime.devices: "
            "accumulation then makes up for it, and the recipe stays the same."
        )
    groups = [gpus[i : i + needed] for i in range(0, len(gpus) - needed + 1, needed)]
    return [",".join(groups[slot % len(groups)]) for slot in range(jobs)]


def _most_on_one(slots: Sequence[str | None]) -> int:
    """Cells that share a group of GPUs."""
    return -(-len(slots) // len(set(slots)))


def default_jobs(cells: Sequence[PlannedCell]) -> int:
    """Cells at a time: as many as may share the GPUs (`runtime.cells_per_gpu`) and have two cores each, but one a group
    of GPUs at least; without GPUs, as many as there are cores for their threads."""
    runtimes = [cell.config.runtime for cell in cells]
    devices = max(runtime.devices for runtime in runtimes)
    gpus = len(_gpus(cells))
    if not gpus:
        return max(1, hardware.cores() // (devices * max(runtime.threads for runtime in runtimes)))
    groups = gpus // devices
    sharing = groups * min(runtime.cells_per_gpu for runtime in runtimes)
    return max(1, groups, min(sharing, hardware.cores() // 2))


def sharing(cells: Sequence[PlannedCell], jobs: int) -> str:
    """How cells get along on a GPU, in a sentence; empty where none has to share one."""
    slots = _device_slots(cells, min(jobs, len(cells)))
    most = _most_on_one(slots)
    if slots[0] is None or most == 1:
        return ""
    shared = f"Up to {most} cells share a GPU"
    daemon = hardware.mps_pipe_folder()
    if daemon:
        return f"{shared} at once, through the MPS daemon at {daemon}."
    return f"{shared} and take turns on it. With an MPS daemon (nvidia-cuda-mps-control -d) they would use it at once."
