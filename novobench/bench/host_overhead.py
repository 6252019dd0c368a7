"""`novobench bench host`: the host's part of a NovoGrad step on CUDA, measured on a CPU with launches that run nothing.

As in training, nothing has changed since the last step, so what remains is the cost of checking that. The baseline
AdamW(fused) does its whole step, on tensors so small that its arithmetic takes no time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from novobench.bench.contenders import BASELINE, Contender, contenders, novograd
from novobench.bench.results import Report
from novobench.bench.step_bench import StepBench, cpu_threads
from novobench.bench.step_time import StepTime, columns
from novobench.bench.timing import Timer
from novobench.optim.novograd import LaunchSettings

TENSORS = 600


def _launch_nothing(*_: Any, **__: Any) -> None:
    pass


def run(rounds: int) -> Iterator[StepTime]:
    """Yield a row for the baseline and one for NovoGrad; one CPU thread."""
    cpu = torch.device("cpu")
    launches = LaunchSettings(launch=_launch_nothing, device_type="cpu")
    chosen = {BASELINE: contenders(cpu)[BASELINE], "NovoGrad": Contender(novograd(launches, fused=True))}
    with cpu_threads(1):
        yield from StepBench(f"{TENSORS} tensors (host)", [(4,)] * TENSORS, Timer(cpu)).compare(chosen, rounds)


def main(rounds: int, output: Path | None = None) -> int:
    """Measure, print the rows and write them to `output` as CSV. Returns 1 if a row failed."""
    report = Report(StepTime, columns("cpu"), output)
    for row in run(rounds):
        report.add(row)
    report.say(f"{rounds} interleaved rounds on {report.rows[0].device}, 1 CPU thread.")
    report.say_written()
    return int(any(row.error for row in report.rows))
