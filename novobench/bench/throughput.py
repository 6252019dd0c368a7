"""Training speed of a task's model on random data that already lies on the device: forward, backward, optimizer step.

No data loading, no logging, no evaluation: what the model and the optimizer allow, to be held against published
figures (`published`), against the card's peak (`peak`) and against what a real run reaches.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from pytorch_lightning.utilities import move_data_to_device
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from novobench import hardware, places
from novobench.bench import peak, published
from novobench.bench.results import Column, Rows, number, one_line
from novobench.bench.resume import try_resuming
from novobench.config import BatchConfig, CellConfig
from novobench.config_loading import check_overridable, override, parse_overrides
from novobench.schema import typed
from novobench.tasks import base
from novobench.tasks.catalog import default_list, load_task, resolve, task_config, task_names

_SCALE = 2.0**10
"""Of fp16 losses: low enough that no update is skipped, which would be timed as a fast one."""
_ALGORITHMS = 4
"""Convolution algorithms that cuDNN tries for each shape; the ten of its default take long, and the best come first."""
_ATTENTION = {
    "fused": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "math": [SDPBackend.MATH],
}
"""Without cuDNN's kernels, as in a training, whose many shapes would each cost it a graph."""


@dataclass(frozen=True)
class Throughput:
    """One model with one optimizer on one device. What could not be measured is None; `error` then tells why."""

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
    """With `--checkpoint`: what came of one whole update, saved, loaded and resumed; see `resume`."""
    hardware: str = ""
    error: str = ""


class Training:
    """A task's module with its optimizer on one device, and the updates that it takes."""

    def __init__(self, config: CellConfig, attention: str = "fused") -> None:
        """`attention` "math" takes PyTorch's plain kernels instead of the fused ones, to see what those are worth."""
        cuda = config.runtime.accelerator != "cpu" and torch.cuda.is_available()
        self.config, self.attention = config, attention
        self.device = torch.device("cuda" if cuda else "cpu")
        self.precision = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(config.runtime.precision)
        torch.set_num_threads(config.runtime.threads)
        self.module, _ = base.build(config)
        self.module.to(self.device)
        self.optimizer = self.module.configure_optimizers()
        self.scaler = torch.amp.GradScaler(
            self.device.type, init_scale=_SCALE, enabled=config.runtime.precision == "16-mixed"
        )

    def random_batch(self) -> Any:
        """One micro-batch, on the device."""
        torch.manual_seed(self.config.seed)
        return move_data_to_device(self.module.random_batch(self.config.batch.micro), self.device)

    def backward(self, batch: Any, passes: int = 1, attention: str = "") -> None:
        """Forward and backward of one of `passes` micro-batches per update."""
        with sdpa_kernel(_ATTENTION[attention or self.attention]):
            with torch.autocast(self.device.type, self.precision) if self.precision else nullcontext():
                loss = self.module.training_step(batch, 0)
            assert isinstance(loss, torch.Tensor)
            self.scaler.scale(loss / passes).backward()

    def step(self) -> None:
        """Clip, if the config says so, and take the optimizer's step."""
        if self.config.optimizer.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.config.optimizer.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def update(self, batch: Any, passes: int = 1) -> None:
        """One update from `passes` micro-batches."""
        for _ in range(passes):
            self.backward(batch, passes)
        self.step()

    def flop(self, batch: Any) -> int:
        """Floating-point operations of the matrix products and convolutions of one micro-batch, which is an update."""
        known = "math" if self.device.type == "cpu" else ""  # the counter lacks the fused attention of CPUs
        with FlopCounterMode(display=False) as counter:
            self.backward(batch, attention=known)
        self.step()
        return counter.get_total_flops()

    def arithmetic(self) -> str:
        """As `peak` names it."""
        if self.precision is not None:
            return "16-bit"
        convolves = any(isinstance(module, _ConvNd) for module in self.module.modules())
        wide = torch.get_float32_matmul_precision() == "highest" and not convolves  # cuDNN takes TF32 by default
        return {"32-true": "fp32" if wide else "tf32"}.get(self.config.runtime.precision, "")

    def state(self) -> dict[str, Any]:
        """All that a checkpoint of `training.loop` holds of weights and optimizer."""
        return {
            "model": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.scaler.state_dict(),
            "streams": {k: stream.cpu() for k, stream in self.module.streams.items()},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["precision"])
        self.module.streams = {k: stream.to(self.device) for k, stream in state["streams"].items()}

    def drop(self) -> None:
        """Give back the memory."""
        del self.module, self.optimizer


def measure(
    config: CellConfig, updates: int, warm_up: int = 5, attention: str = "fused", passes: int = 0
) -> Throughput:
    """Time `updates` updates of one micro-batch each, after `warm_up` untimed ones.

    With `passes` then try to resume: a whole update is that many micro-batches.
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
        low, middle, high = _quartiles(_update_milliseconds(training, batch, updates))
    highest = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    card = torch.cuda.get_device_name() if cuda else f"{hardware.processor()}, {torch.get_num_threads()} threads"
    per_second = 1e3 * count / middle
    rate = 1e-9 * flop / middle
    limit = peak.teraflops(card, training.arithmetic()) if cuda else None
    figure = published.FIGURES.get(config.task, [None])[0]
    row = replace(
        _described(config, attention),
        parameters=sum(p.numel() for p in training.module.parameters() if p.requires_grad),
        unit=unit,
        per_second=per_second,
        milliseconds=middle,
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
    """Of each update. On CUDA the host runs ahead, as in training, and events tell when the device was done."""
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


def _quartiles(times: list[float]) -> list[float]:
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    return torch.quantile(torch.tensor(times, dtype=torch.float64), quartiles).tolist()


@contextmanager
def _fast_convolutions() -> Iterator[None]:
    """Let cuDNN find the fastest algorithm for each shape in the first update, as trainings of fixed shapes do."""
    cudnn = torch.backends.cudnn
    kept = cudnn.benchmark, cudnn.benchmark_limit
    cudnn.benchmark = True
    if kept[1] is not None:
        cudnn.benchmark_limit = _ALGORITHMS
    try:
        yield
    finally:
        cudnn.benchmark = kept[0]
        if kept[1] is not None:
            cudnn.benchmark_limit = kept[1]


@dataclass(frozen=True)
class _Batch:
    batch: BatchConfig


def cell_of(task: str, scale: str, changes: Sequence[str]) -> tuple[CellConfig, int]:
    """The task's config at a scale with NovoGrad, unless `changes` (`key=value`) name another optimizer, and how many
    of its micro-batches a whole update has; in the config itself an update is one."""
    task_config(task, "bench throughput")
    given = parse_overrides(changes)
    check_overridable(given, "--set")
    tree = load_task(task, places.workspace().task_config(task, scale))
    where = f"bench throughput {task} at {scale} scale"
    start = {"task": task, "seed": 0, "scale": scale, "optimizer.name": "novograd", "optimizer.lr": 1e-3}
    tree = override(tree, {**start, **given}, where, default_list)
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
    """Measure, print each row as it comes, and write all as CSV if asked to. Returns 1 if a task failed.

    `like` takes the settings of the published figures, which `changes` may override; `checkpoint` also tries to resume.
    """
    cells = [
        cell_of(task, scale, [*(published.SETTINGS.get(task, ()) if like else ()), *changes])
        for task in tasks or task_names()
    ]
    if checkpoint:  # cuBLAS reads it when it first runs; Lightning sets it for every deterministic training
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    report = Rows(Throughput, _COLUMNS, output)
    for config, passes in cells:
        try:
            row = measure(config, updates, attention=attention, passes=passes if checkpoint else 0)
        except Exception as error:  # out of memory, say: the other tasks may fit
            row = replace(_described(config, attention), error=one_line(error))
        report.add(row)
        _say_more(report, row)
        gc.collect()
        torch.cuda.empty_cache()
    done = [row for row in report.rows if row.updates]
    if done:
        report.say(f"{updates} updates each on {done[0].hardware}.")
    if output is not None:
        report.say(f"Written: {output}")
    return int(any(row.error for row in report.rows))


def _say_more(report: Rows, row: Throughput) -> None:
    """The published figures for a row, and what came of its checkpoint."""
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
