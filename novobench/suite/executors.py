"""Runs cells (one training run each) in processes of this machine: some at a time, each with its own devices."""

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
from novobench.files import readable_os_errors, write_json, write_text
from novobench.processes import activity, describe_exit, is_stopped
from novobench.suite.forkserver import forkserver, start
from novobench.suite.plan import PlannedCell
from novobench.training import worker
from novobench.training.run_folder import RunFolder

_POLL_SECONDS = 0.05
_PAUSE_SECONDS = 5.0
"""A longer time between two polls means that this process was stopped or the machine slept. It does not count as a
stall of the cells."""
_TERMINATE_SECONDS = 5.0
"""Time for a terminated process to exit; then it is killed."""
_LINGER_SECONDS = 60.0
"""Time for a process that has written its record to exit; then it is killed."""

Kind = Literal["started", "progress", "finished", "failed"]


@dataclass(frozen=True)
class Event:
    """What happened to a cell: `done` is the share of its updates that are done, `error` the reason of a failure."""

    kind: Kind
    cell: PlannedCell
    done: float = 0.0
    seconds: float = 0.0
    error: str = ""


def run_local(cells: Sequence[PlannedCell], jobs: int, on_event: Callable[[Event], None]) -> dict[str, str]:
    """Train the cells, `jobs` at a time; returns the errors by cell id.

    A failed cell never stops the others. A cell also fails if its process dies or makes no progress.
    """
    waiting = list(cells)
    failed: dict[str, str] = {}
    slots = _device_slots(cells, min(jobs, len(cells)))
    running: dict[int, _Running] = {}
    context = forkserver()
    last_poll = time.monotonic()
    try:
        while waiting or running:
            now = time.monotonic()  # read once per poll, so that a pause in the middle of a poll counts as a pause, too
            since_last_poll, last_poll = now - last_poll, now
            for job in running.values() if since_last_poll > _PAUSE_SECONDS else ():
                job.last_change += since_last_poll
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
            job.process.join(_TERMINATE_SECONDS)
            job.process.kill()  # a stopped process ignores terminate()
            job.process.join()
    return failed


@dataclass
class _Running:
    process: Any
    cell: PlannedCell
    folder: RunFolder
    started: float
    error_pipe: Any
    """The process sends its error here, too: on a full disk, the folder cannot hold it."""
    old_beat: dict[str, Any] | None
    """The heartbeat that an earlier attempt left."""
    last_sign: Any = None
    last_change: float = 0.0

    def progress(self, now: float) -> float:
        """The share of updates that are done. Remembers when the cell last made progress; `now` is this poll's time.

        A training writes a heartbeat after each batch, in evaluations too. Before the first batch (reading, encoding,
        computing features, waiting for another process) progress means that the process uses CPU time or does I/O.
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
        """Whether the cell has made no progress for too long.

        A process that has written its record gets less time: a library may have left a thread that keeps it alive.
        """
        limit = 60 * self.cell.config.runtime.stall_minutes
        silence = now - self.last_change
        return silence > limit or (silence > _LINGER_SECONDS and self.folder.finished)

    def end(self) -> str:
        """Kill the process if it is still alive; returns the reason of the failure, empty if there is a record."""
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
        if reason := self.folder.failure_reason() or self._sent_error():
            return reason
        how = describe_exit(code)
        if code < 0:
            return f"its process {how}. Run the same command again to resume from its checkpoint. See {self.folder.log}"
        return (
            f"its process {how} without a record. Code that it loaded, such as an optimizer's module, may have exited. "
            f"See {self.folder.log}"
        )

    def _sent_error(self) -> str:
        try:
            return self.error_pipe.recv() if self.error_pipe.poll() else ""
        except (EOFError, OSError, pickle.UnpicklingError):  # the process ended before or while it sent one
            return ""


def _start(context: Any, cell: PlannedCell, devices: str | None, sharing: int) -> _Running:
    folder, config = cell.folder, cell.config
    if devices is not None:  # the record must say how many cells shared a GPU: its speed depends on it
        config = replace(config, runtime=replace(config.runtime, cells_per_gpu=sharing))
    write_text(folder.config, to_yaml(config))
    if not folder.checkpoints.exists():  # a resumed training keeps the claims that it was started for
        write_json(folder.claims, dict(cell.claims))
    with readable_os_errors(folder.failure, "remove"):
        folder.failure.unlink(missing_ok=True)
    error_pipe, connection = context.Pipe(duplex=False)
    process = context.Process(
        target=worker.train,
        args=(dict(os.environ), str(folder.path), devices, cell.config.runtime.threads, connection),
        name=cell.id,
    )
    old_beat = folder.read_heartbeat()
    start(process)
    connection.close()
    return _Running(process, cell, folder, time.monotonic(), error_pipe, old_beat, last_change=time.monotonic())


def _gpus(cells: Sequence[PlannedCell]) -> list[str]:
    """The GPUs that the cells may train on; none if one of the cells must train on the CPU."""
    return [] if any(cell.config.runtime.accelerator == "cpu" for cell in cells) else hardware.visible_gpus()


def _device_slots(cells: Sequence[PlannedCell], jobs: int) -> list[str | None]:
    """The GPUs that each of `jobs` concurrent cells may see; None without GPUs.

    Cells share GPUs if there are more cells than groups of `runtime.devices` GPUs.
    """
    gpus = _gpus(cells)
    devices = max((cell.config.runtime.devices for cell in cells), default=1)
    if not gpus:
        return [None] * jobs
    if devices > len(gpus):
        raise ConfigError(
            f"runtime.devices is {devices}, but this machine has {len(gpus)} GPU(s). Lower runtime.devices: "
            "accumulation makes up for it, and the recipe stays the same."
        )
    groups = [gpus[i : i + devices] for i in range(0, len(gpus) - devices + 1, devices)]
    return [",".join(groups[slot % len(groups)]) for slot in range(jobs)]


def _most_on_one(slots: Sequence[str | None]) -> int:
    """The largest number of cells that share a group of GPUs."""
    return -(-len(slots) // len(set(slots)))


def default_jobs(cells: Sequence[PlannedCell]) -> int:
    """Cells to train at a time if `--jobs` is not set.

    With GPUs: `runtime.cells_per_gpu` per GPU if each cell has two CPU cores, but at least one per group of GPUs.
    Without: as many as there are cores for their threads.
    """
    runtimes = [cell.config.runtime for cell in cells]
    devices = max(runtime.devices for runtime in runtimes)
    gpus = len(_gpus(cells))
    if not gpus:
        return max(1, hardware.cores() // (devices * max(runtime.threads for runtime in runtimes)))
    groups = gpus // devices
    sharing = groups * min(runtime.cells_per_gpu for runtime in runtimes)
    return max(1, groups, min(sharing, hardware.cores() // 2))


def sharing(cells: Sequence[PlannedCell], jobs: int) -> str:
    """A sentence that says how cells share a GPU; empty if none of them does."""
    slots = _device_slots(cells, min(jobs, len(cells)))
    most = _most_on_one(slots)
    if slots[0] is None or most == 1:
        return ""
    shared = f"Up to {most} cells share a GPU"
    daemon = hardware.mps_pipe_folder()
    if daemon:
        return f"{shared} at once, through the MPS daemon at {daemon}."
    return f"{shared} and take turns on it. With an MPS daemon (nvidia-cuda-mps-control -d) they use it at once."
