"""A step's process: started, waited for, ended with all its children."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress

from gpu_proof import places
from gpu_proof.steps import Step

GRACE = 12
"""Seconds from asking a command to end until it is killed."""


class Job:
    """A step that runs, in a process group of its own."""

    def __init__(self, step: Step, environment: Mapping[str, str]) -> None:
        self.step, self.started, self.ended = step, time.monotonic(), False
        self.log = places.LOGS / f"{step.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            log.write(f"$ {shlex.join(step.words)}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                step.words,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                cwd=places.ROOT, env={**environment, **step.variables}, process_group=0,
            )  # fmt: skip

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def wait(self, until: float) -> tuple[str, str]:
        """What became of it, "done", "failed" or "ended", and why; it is ended at the moment `until`."""
        try:
            code = self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            reason = f"ended after {self.seconds:.0f} s"
            self.end()
            return "ended", reason
        self.end()  # children that it left behind
        return ("done", "") if code == 0 else ("failed", f"exit code {code}")

    def end(self) -> None:
        """Interrupt the command, so that it can keep what it has; then kill it with all its children."""
        if self.ended:
            return
        self.ended = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
