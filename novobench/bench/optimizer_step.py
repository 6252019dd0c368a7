"""`novobench bench optimizer`: step times of optimizers, as ratios to AdamW(fused=True). `step_bench` measures them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from novobench.bench import plot, sweep
from novobench.bench.contenders import BASELINE, contenders
from novobench.bench.models import MODELS
from novobench.bench.results import Report
from novobench.bench.step_bench import run
from novobench.bench.step_time import StepTime, columns
from novobench.errors import ConfigError, suggestion


def main(
    models: Sequence[str],
    only: Sequence[str],
    rounds: int,
    threads: int,
    device: str,
    clipped: bool = False,
    output: Path | None = None,
    swept: bool = False,
) -> int:
    """Measure, print each row when it is measured, and write all to `output` as CSV and as a plot.

    Returns 1 if the baseline failed, or NovoGrad outside a sweep. Peers and launch settings that do not work on this
    machine are only named.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no CUDA device that torch can use.")
    if swept:
        sweep.check(device, only)
    _check_names("model", models, list(MODELS))
    _check_names("optimizer", only, list(contenders(torch.device(device))))
    report = Report(StepTime, columns(device, swept), output)
    for row in run(models or list(MODELS), rounds, threads, device, only, clipped=clipped, swept=swept):
        report.add(row)
        if row.error and row.optimizer == BASELINE:
            report.say(f"The baseline {BASELINE} failed on {row.model}: no ratios there.")
    first = report.rows[0]
    extra = ", each step with unscaling and clipping" if clipped else ""
    report.say(f"{first.rounds} interleaved rounds on {first.device}, {threads} CPU thread(s){extra}.")
    if swept:
        sweep.say_best(report)
        report.say_written()
    elif output is not None:
        picture = output.with_suffix(".svg")
        plot.draw(report.rows, picture)
        report.say_written(picture)
    must_work = (BASELINE,) if swept else (BASELINE, "NovoGrad")
    return int(any(row.error and row.optimizer.startswith(must_work) for row in report.rows))


def _check_names(kind: str, names: Sequence[str], valid_names: list[str]) -> None:
    for name in names:
        if name not in valid_names:
            hint = suggestion(name, valid_names)
            raise ConfigError(f"There is no {kind} '{name}'.{hint} Known: {', '.join(valid_names)}.")
