"""One call: which steps start, when they are ended, and what is kept of them."""

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
"""Seconds for the last tar and the summary."""


class Proof:
    """One call: its steps, its time, and what is done, in this call or before."""

    def __init__(self, todo: Sequence[Step], scale: str, folder: Path, started: float, minutes: float) -> None:
        self.steps, self.scale, self.folder, self.started = todo, scale, folder, started
        self.end_at = started + 60 * minutes
        self.only: Sequence[str] = ()
        self.environment: Mapping[str, str] = os.environ
        self.results = places.ROOT / "results" / scale
        self.state = read_state(self.results / STATE)
        self.left_out: dict[str, str] = {}
        self.jobs: dict[str, Job] = {}
        """Preparations that run."""
        self.prepared: set[str] = set()
        """Preparations that were started in this call."""
        self.bad: list[str] = []

    def left(self) -> float:
        """Seconds that a step may take if it starts now."""
        return self.end_at - time.monotonic() - GRACE - RESERVE

    def pending(self) -> list[Step]:
        """Steps that are not done, or that were asked for by name; at the end those that overran their limit."""
        states = {name: found["state"] for name, found in self.state["steps"].items()}
        todo = [step for step in self.steps if not step.serves]
        todo = [s for s in todo if (s.name in self.only if self.only else states.get(s.name) != "done")]
        return sorted(todo, key=lambda step: states.get(step.name) == "ended")

    def preparations(self, names: Sequence[str]) -> list[Step]:
        """Those that serve one of the named steps and were not yet started."""
        return [s for s in self.steps if set(s.serves) & set(names) and s.name not in self.prepared and not s.missing]

    def against(self, step: Step, *, whole: bool) -> str:
        """Why the step cannot start now, to be done as a `whole` or for its `least`; empty if it can."""
        if step.missing:
            return step.missing
        tests = self.state["steps"].get("tests_novograd", {})
        if step.trains and tests.get("state") == "failed" and step.name not in self.only:
            return "tests_novograd failed"
        needed = step.forecast if whole else step.least or step.forecast
        needed += sum(preparation.forecast for preparation in self.preparations([step.name]))
        left = self.left()
        return "" if needed <= left else f"needs {needed} s, {max(0, int(left))} s are left"

    def run(self) -> None:
        """Take the steps in order, as far as time reaches."""
        pending = self.pending()
        try:
            for whole in (True, False):
                for step in list(pending):
                    if reason := self.against(step, whole=whole):
                        self.left_out[step.name] = reason
                        continue
                    self.left_out.pop(step.name, None)
                    self.prepare(step, [s.name for s in pending if not s.missing])
                    pending.remove(step)
                    self.take(step)
            for name, reason in self.left_out.items():
                self.say(f"{name}: left out, {reason}")
        finally:
            for job in self.jobs.values():
                job.end()

    def prepare(self, step: Step, pending: Sequence[str]) -> None:
        """Start preparations beside a step that times nothing; have none running beside one that does."""
        for preparation in self.preparations(pending if step.shares else [step.name]):
            if preparation.forecast <= self.left():
                self.say(f"{preparation.name}: started")
                self.prepared.add(preparation.name)
                self.jobs[preparation.name] = Job(preparation, self.environment)
        for name, job in list(self.jobs.items()):
            if not step.shares or step.name in job.step.serves:
                state, reason = job.wait(min(job.started + job.step.limit, time.monotonic() + self.left()))
                del self.jobs[name]
                self.say(f"{name}: {state} after {job.seconds:.0f} s {reason}")
                if state != "done":
                    print(places.tail(job.log, 15), flush=True)

    def take(self, step: Step) -> None:
        """Run a step and note what became of it."""
        self.say(f"{step.name}: started, forecast {step.forecast} s")
        left = self.left()
        job, state, reason = Job(step, self.environment), "cut", "interrupted"
        try:
            state, reason = job.wait(job.started + min(step.limit, left))
            if state == "ended" and (left < step.limit or (step.trains and step.least)):  # finished cells stay so
                state = "cut"
        finally:
            job.end()
            found = {"state": state, "seconds": round(job.seconds, 1), "reason": reason}
            self.state["steps"][step.name] = {**found, "machine": len(self.state["machines"]) - 1}
            self.say(f"{step.name}: {state} in {found['seconds']:.0f} s {reason}")
            if state == "failed" or (state == "ended" and not step.least):
                self.bad.append(step.name)
                print(places.tail(job.log, 15), flush=True)
            self.keep()

    def keep(self) -> None:
        """State, summary and tar, as things stand."""
        places.write(self.results / STATE, (json.dumps(self.state, indent=1) + "\n").encode())
        places.write(self.results / SUMMARY, self.summary().encode())
        archive.pack(self.scale, self.folder / places.TAR)

    def summary(self) -> str:
        steps = [step.name for step in self.steps if not step.serves]
        return summary(self.state, steps, self.left_out, self.bad, self.results)

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:4.0f} s] {text.rstrip()}", flush=True)


def read_state(path: Path) -> dict[str, Any]:
    """What earlier calls did."""
    state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"schema": 1, "machines": [], "steps": {}, **state}
