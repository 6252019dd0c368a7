"""The host's part of a NovoGrad step on CUDA, measured on a CPU with launches that run nothing.

Nothing has changed since the last step, as in training, so what remains is the price of finding that out. The baseline
AdamW(fused) does its whole step, on tensors so small that its arithmetic does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from novobench.bench.contenders import BASELINE, Contender, contenders, novograd
from novobench.bench.optimizer_step import Row, StepBench, columns, cpu_threads
from novobench.bench.results import Rows
from novobench.bench.timing import Timer
from novobench.optim.novograd import LaunchSettings

TENSORS = 600


def _launch_nothing(*_: Any, **__: Any) -> None:
    pass


def run(rounds: int) -> Iterator[Row]:
    """One row for the baseline and one for NovoGrad; `rounds` as in `optimizer_step`. One CPU thread."""
    cpu = torch.device("cpu")
    launches = LaunchSettings(launch=_launch_nothing, device_type="cpu")
    chosen = {BASELINE: contenders(cpu)[BASELINE], "NovoGrad": Contender(novograd(launches, fused=True))}
    with cpu_threads(1):
        yield from StepBench(f"{TENSORS} tensors (host)", [(4,)] * TENSORS, Timer(cpu)).compare(chosen, rounds)


def main(rounds: int, output: Path | None = None) -> int:
    """Measure, print the rows, and write them as CSV if asked to. Returns 1 if one failed."""
    report = Rows(Row, columns("cpu"), output)
    for row in run(rounds):
        report.add(row)
    report.say(f"{rounds} interleaved rounds on {report.rows[0].device}, 1 CPU thread.")
    if output is not None:
        report.say(f"Written: {output}")
    return int(any(row.error for row in report.rows))
