"""One call: which steps start, when they end, and how their outcome is saved."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_proof import archive, places
from gpu_proof.job import GRACE, Job
from gpu_proof.steps import Step
from gpu_proof.summary import summary

STATE = "gpu_proof.json"
SUMMARY = "gpu_proof.md"
RESERVE = 8
"""Seconds kept back for the last tar and the summary."""


class Proof:
    """One call: its steps, its time, and the outcomes of this call and of earlier ones."""

    def __init__(self, todo: Sequence[Step], scale: str, folder: Path, started: float, minutes: float) -> None:
        self.steps, self.scale, self.folder, self.started = todo, scale, folder, started
        self.end_at = started + 60 * minutes
        self.only: Sequence[str] = ()
        self.environment: Mapping[str, str] = os.environ
        self.results = places.ROOT / "results" / scale
        self.state = read_state(self.results / STATE)
        self.skipped: dict[str, str] = {}
        self.jobs: dict[str, Job] = {}
        """Running preparations."""
        self.prepared: set[str] = set()
        """Preparations that this call has started."""
        self.failed: list[str] = []

    def seconds_left(self) -> float:
        """Seconds available to a step that starts now."""
        return self.end_at - time.monotonic() - GRACE - RESERVE

    def pending(self) -> list[Step]:
        """Steps that are not done, or that `only` names. Steps that overran their limit come last."""
        states = {name: outcome["state"] for name, outcome in self.state["steps"].items()}
        todo = [step for step in self.steps if not step.prepares]
        todo = [s for s in todo if (s.name in self.only if self.only else states.get(s.name) != "done")]
        return sorted(todo, key=lambda step: states.get(step.name) == "ended")

    def preparations(self, names: Sequence[str]) -> list[Step]:
        """Preparations for the named steps that have not been started."""
        return [s for s in self.steps if set(s.prepares) & set(names) and s.name not in self.prepared and not s.missing]

    def obstacle(self, step: Step, *, whole: bool) -> str:
        """Why the step cannot start now, to run as a `whole` or for its `least` time; empty if it can."""
        if step.missing:
            return step.missing
        tests = self.state["steps"].get("tests_novograd", {})
        if step.trains and tests.get("state") == "failed" and step.name not in self.only:
            return "tests_novograd failed"
        needed = step.forecast if whole else step.least or step.forecast
        needed += sum(preparation.forecast for preparation in self.preparations([step.name]))
        left = self.seconds_left()
        return "" if needed <= left else f"needs {needed} s, {max(0, int(left))} s are left"

    def run(self) -> None:
        """Run steps in order until time is up."""
        pending = self.pending()
        try:
            for whole in (True, False):
                for step in list(pending):
                    if reason := self.obstacle(step, whole=whole):
                        self.skipped[step.name] = reason
                        continue
                    self.skipped.pop(step.name, None)
                    self.prepare(step, [s.name for s in pending if not s.missing])
                    pending.remove(step)
                    self.run_step(step)
            for name, reason in self.skipped.items():
                self.report(f"{name}: skipped, {reason}")
        finally:
            for job in self.jobs.values():
                job.end()

    def prepare(self, step: Step, pending: Sequence[str]) -> None:
        """Start preparations next to a step that measures no time; finish them before a step that does."""
        for preparation in self.preparations(pending if step.tolerates_load else [step.name]):
            if preparation.forecast <= self.seconds_left():
                self.report(f"{preparation.name}: started")
                self.prepared.add(preparation.name)
                self.jobs[preparation.name] = Job(preparation, self.environment)
        for name, job in list(self.jobs.items()):
            if not step.tolerates_load or step.name in job.step.prepares:
                state, reason = job.wait(min(job.started + job.step.limit, time.monotonic() + self.seconds_left()))
                del self.jobs[name]
                self.report(f"{name}: {state} after {job.seconds:.0f} s {reason}")
                if state != "done":
                    print(places.tail(job.log, 15), flush=True)

    def run_step(self, step: Step) -> None:
        """Run a step and save its outcome."""
        self.report(f"{step.name}: started, forecast {step.forecast} s")
        left = self.seconds_left()
        job, state, reason = Job(step, self.environment), "cut", "interrupted"
        try:
            state, reason = job.wait(job.started + min(step.limit, left))
            if state == "ended" and (left < step.limit or (step.trains and step.least)):  # finished cells count
                state = "cut"
        finally:
            job.end()
            machine = len(self.state["machines"]) - 1
            outcome = {"state": state, "seconds": round(job.seconds, 1), "reason": reason, "machine": machine}
            self.state["steps"][step.name] = outcome
            self.report(f"{step.name}: {state} in {job.seconds:.0f} s {reason}")
            if state == "failed" or (state == "ended" and not step.least):
                self.failed.append(step.name)
                print(places.tail(job.log, 15), flush=True)
            self.save()

    def save(self) -> None:
        """Write state, summary and tar."""
        places.write(self.results / STATE, (json.dumps(self.state, indent=1) + "\n").encode())
        self.write_summary()
        archive.pack(self.scale, self.folder / places.TAR)

    def write_summary(self) -> None:
        places.write(self.results / SUMMARY, self.summary().encode())

    def summary(self) -> str:
        steps = [step.name for step in self.steps if not step.prepares]
        return summary(self.state, steps, self.skipped, self.failed, self.results)

    def report(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        print(f"[{time.monotonic() - self.started:4.0f} s] {text.rstrip()}", flush=True)


def read_state(path: Path) -> dict[str, Any]:
    """The outcomes of earlier calls."""
    state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"schema": 1, "machines": [], "steps": {}, **state}
