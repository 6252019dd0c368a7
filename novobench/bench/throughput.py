"""`novobench bench throughput`: training speed of a task's model on random data that already lies on the device.

Forward, backward and optimizer step, without data loading, logging or evaluation: the speed that model and optimizer
allow, to compare with published figures (`published`), with the card's peak (`peak`) and with a real run.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from novobench import hardware, places
from novobench.bench import peak, published
from novobench.bench.bare_training import Training
from novobench.bench.results import Column, Report, number, one_line, quartiles
from novobench.bench.resume import try_resuming
from novobench.config import BatchConfig, CellConfig
from novobench.config_loading import check_overridable, override, parse_overrides
from novobench.schema import typed
from novobench.tasks.catalog import default_list, load_task, resolve, task_config, task_names

_ALGORITHMS = 4
"""Convolution algorithms that cuDNN tries for each shape; the ten of its default take long, and the best come first."""


@dataclass(frozen=True)
class Throughput:
    """One model with one optimizer on one device. What could not be measured is None; `error` then says why."""

    task: str
    scale: str
    optimizer: str
    parameters: int = 0
    micro_batch: int = 0
    precision: str = ""
    channels_last: bool = False
    attention: str = ""
    """"fused" or "math"; says nothing about models without attention."""
    unit: str = ""
    """What is counted per second, as the task names it."""
    per_second: float | None = None
    """From the median time of an update; one update is one micro-batch."""
    milliseconds: float | None = None
    milliseconds_low: float | None = None
    """First quartile over updates."""
    milliseconds_high: float | None = None
    """Third quartile."""
    flop_per_unit: float | None = None
    """Of matrix products and convolutions, forward and backward, for one of `unit`."""
    teraflops_per_second: float | None = None
    of_peak: float | None = None
    """The same over the card's dense peak at this precision; None for a card that `peak` does not list."""
    peak_gib: float | None = None
    """Device memory at its highest; None on a CPU."""
    updates: int = 0
    published_per_second: float | None = None
    """The first figure that `published` lists for the task."""
    published_card: str = ""
    of_published: float | None = None
    like_for_like: int = 0
    """1: with the settings of the published figure."""
    save_seconds: float | None = None
    load_seconds: float | None = None
    checkpoint_gib: float | None = None
    resumed: str = ""
    """With `--checkpoint`: whether a resumed training takes the same update; see `resume`."""
    hardware: str = ""
    error: str = ""


def measure(
    config: CellConfig, updates: int, warm_up: int = 5, attention: str = "fused", passes: int = 0
) -> Throughput:
    """Time `updates` updates of one micro-batch each, after `warm_up` untimed ones.

    With `passes`, then save a checkpoint and resume; a whole update is that many micro-batches.
    """
    training = Training(config, attention)
    cuda = training.device.type == "cuda"
    batch = training.random_batch()
    count, unit = training.module.counted(batch)
    with _fast_convolutions():
        flop = training.flop(batch)
        for _ in range(warm_up):
            training.update(batch)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        low, median, high = quartiles(_update_milliseconds(training, batch, updates))
    highest = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    card = torch.cuda.get_device_name() if cuda else f"{hardware.processor()}, {torch.get_num_threads()} threads"
    per_second = 1e3 * count / median
    rate = 1e-9 * flop / median
    limit = peak.teraflops(card, training.arithmetic()) if cuda else None
    figure = published.FIGURES.get(config.task, [None])[0]
    row = replace(
        _described(config, attention),
        parameters=sum(p.numel() for p in training.module.parameters() if p.requires_grad),
        unit=unit,
        per_second=per_second,
        milliseconds=median,
        milliseconds_low=low,
        milliseconds_high=high,
        flop_per_unit=flop / count,
        teraflops_per_second=rate,
        of_peak=None if limit is None else rate / limit,
        peak_gib=highest,
        updates=updates,
        published_per_second=None if figure is None else figure.per_second,
        published_card="" if figure is None else figure.card,
        of_published=None if figure is None else per_second / figure.per_second,
        like_for_like=int(published.like_for_like(config)),
        hardware=card,
    )
    if not passes:
        return row
    try:
        resumed = try_resuming(training, batch, passes, lambda: Training(config, attention))
    except Exception as error:
        return replace(row, error=f"checkpoint: {one_line(error)}")
    return replace(
        row,
        save_seconds=resumed.save_seconds,
        load_seconds=resumed.load_seconds,
        checkpoint_gib=resumed.gib,
        resumed=resumed.verdict,
    )


def _described(config: CellConfig, attention: str) -> Throughput:
    return Throughput(
        task=config.task,
        scale=config.scale,
        optimizer=config.optimizer.name,
        micro_batch=config.batch.micro,
        precision=config.runtime.precision,
        channels_last=config.runtime.channels_last,
        attention=attention,
    )


def _update_milliseconds(training: Training, batch: Any, updates: int) -> list[float]:
    """Time of each update. On CUDA the host runs ahead, as in training, and events mark when the device was done."""
    if training.device.type != "cuda":
        times = [time.perf_counter()]
        for _ in range(updates):
            training.update(batch)
            times.append(time.perf_counter())
        return [1e3 * (after - before) for before, after in pairwise(times)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(updates + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        training.update(batch)
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in pairwise(events)]


@contextmanager
def _fast_convolutions() -> Iterator[None]:
    """Let cuDNN find the fastest algorithm for each shape in the first update, as trainings of fixed shapes do."""
    cudnn = torch.backends.cudnn
    benchmark, limit = cudnn.benchmark, cudnn.benchmark_limit
    cudnn.benchmark = True
    if limit is not None:
        cudnn.benchmark_limit = _ALGORITHMS
    try:
        yield
    finally:
        cudnn.benchmark = benchmark
        if limit is not None:
            cudnn.benchmark_limit = limit


@dataclass(frozen=True)
class _Batch:
    batch: BatchConfig


def cell_of(task: str, scale: str, changes: Sequence[str]) -> tuple[CellConfig, int]:
    """The task's config at a scale, and how many micro-batches a whole update has; in the config an update is one.

    The optimizer is NovoGrad unless `changes` (`key=value`) name another.
    """
    task_config(task, "bench throughput")
    overrides = parse_overrides(changes)
    check_overridable(overrides, "--set")
    tree = load_task(task, places.workspace().task_config(task, scale))
    where = f"bench throughput {task} at {scale} scale"
    defaults = {"task": task, "seed": 0, "scale": scale, "optimizer.name": "novograd", "optimizer.lr": 1e-3}
    tree = override(tree, {**defaults, **overrides}, where, default_list)
    batch = typed(OmegaConf.masked_copy(tree, "batch"), _Batch, {}, where).batch
    passes = max(1, round(batch.size / batch.micro))
    return resolve(override(tree, {"batch.size": batch.micro}, where), where), passes


_COLUMNS = (
    Column("task", 11, lambda row: row.task),
    Column("optimizer", 10, lambda row: row.optimizer),
    Column("parameters", 11, lambda row: f"{row.parameters:,}"),
    Column("micro-batch", 11, lambda row: str(row.micro_batch)),
    Column("precision", 24, lambda row: row.precision + (" channels-last" if row.channels_last else "")),
    Column("ms", 8, lambda row: number(row.milliseconds, ".1f")),
    Column("speed", 24, lambda row: "" if row.per_second is None else f"{row.per_second:,.0f} {row.unit}/s"),
    Column("GFLOP/unit", 10, lambda row: "" if row.flop_per_unit is None else f"{row.flop_per_unit / 1e9:.3g}"),
    Column("TFLOP/s", 7, lambda row: number(row.teraflops_per_second)),
    Column("of peak", 7, lambda row: number(row.of_peak, ".0%")),
    Column("peak GiB", 8, lambda row: number(row.peak_gib, ".1f")),
)


def main(
    tasks: Sequence[str],
    scale: str,
    changes: Sequence[str],
    updates: int,
    attention: str,
    output: Path | None,
    like: bool = False,
    checkpoint: bool = False,
) -> int:
    """Measure, print each row when it is measured, and write all to `output` as CSV. Returns 1 if a task failed.

    `like` takes the settings of the published figures, which `changes` may override; `checkpoint` also tries to resume.
    """
    cells = [
        cell_of(task, scale, [*(published.SETTINGS.get(task, ()) if like else ()), *changes])
        for task in tasks or task_names()
    ]
    if checkpoint:  # cuBLAS reads it when it starts; Lightning sets it for every deterministic training
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    report = Report(Throughput, _COLUMNS, output)
    for config, passes in cells:
        try:
            row = measure(config, updates, attention=attention, passes=passes if checkpoint else 0)
        except Exception as error:  # e.g. out of memory; the other tasks may fit
            row = replace(_described(config, attention), error=one_line(error))
        report.add(row)
        _say_details(report, row)
        gc.collect()
        torch.cuda.empty_cache()
    measured = [row for row in report.rows if row.updates]
    if measured:
        report.say(f"{updates} updates each on {measured[0].hardware}.")
    report.say_written()
    return int(any(row.error for row in report.rows))


def _say_details(report: Report, row: Throughput) -> None:
    """Print the published figures for a row, and how its checkpoint resumed."""
    if row.per_second is not None and row.scale == "full":
        how = "like for like with the first" if row.like_for_like else "with other settings"
        for figure in published.FIGURES.get(row.task, []):
            times = row.per_second / figure.per_second
            what = f"{figure.per_second:,g} {figure.unit}/s on one {figure.card} ({figure.source})"
            report.say(f"  {times:.2f} × the published {what}, {how}")
    if row.resumed:
        report.say(
            f"  checkpoint of {row.checkpoint_gib:.2f} GiB: saved in {row.save_seconds:.1f} s, loaded in "
            f"{row.load_seconds:.1f} s; resumed: {row.resumed}"
        )
