"""The process of a step: start it, wait for it, end it with all its children."""

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
"""Seconds between interrupting a command and killing it."""


class Job:
    """A running step, in its own process group."""

    def __init__(self, step: Step, environment: Mapping[str, str]) -> None:
        self.step, self.started, self.ended = step, time.monotonic(), False
        self.log = places.LOGS / f"{step.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            log.write(f"$ {shlex.join(step.command)}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                step.command,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                cwd=places.ROOT, env={**environment, **step.variables}, process_group=0,
            )  # fmt: skip

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def wait(self, until: float) -> tuple[str, str]:
        """Its outcome, "done", "failed" or "ended", and the reason. At the time `until` it is ended."""
        try:
            code = self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            reason = f"ended after {self.seconds:.0f} s"
            self.end()
            return "ended", reason
        self.end()  # children that outlived it
        return ("done", "") if code == 0 else ("failed", f"exit code {code}")

    def end(self) -> None:
        """Interrupt the command, so that it can save its work, then kill it with all its children."""
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
