"""Training speed of a task's model on random data that already lies on the device: forward, backward, optimizer step.

No data loading, no logging, no evaluation: what the model and the optimizer allow, to be held against published
figures (`forecast` in the task's configs names one) and against what a real run reaches.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pytorch_lightning.utilities import move_data_to_device
from torch.nn.attention import SDPBackend, sdpa_kernel

from novobench import hardware
from novobench.config import ROOT, CellConfig, load_tree, override, parse_overrides
from novobench.errors import ConfigError
from novobench.tasks import base
from novobench.tasks.catalog import resolve, task_names


@dataclass(frozen=True)
class Throughput:
    """One model with one optimizer on one device."""

    task: str
    scale: str
    optimizer: str
    parameters: int
    micro_batch: int
    precision: str
    channels_last: bool
    attention: str
    """"fused" or "math"; says nothing about models without attention."""
    unit: str
    """What is counted a second: tokens where the task counts them, else samples."""
    per_second: float
    """From the median time of an update; one update is one micro-batch."""
    milliseconds: float
    milliseconds_low: float
    """First quartile over updates."""
    milliseconds_high: float
    """Third quartile."""
    peak_gib: float
    """Device memory at its highest; 0 on a CPU."""
    updates: int
    hardware: str


def measure(config: CellConfig, updates: int, warm_up: int = 5, attention: str = "fused") -> Throughput:
    """Time `updates` updates of one micro-batch each, after `warm_up` untimed ones.

    `attention` "math" takes PyTorch's plain kernels instead of the fused ones, to see what those are worth.
    """
    cuda = config.runtime.accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    torch.set_num_threads(config.runtime.threads)
    module, _ = base.build(config)
    module.to(device)
    optimizer = module.configure_optimizers()
    batch = move_data_to_device(module.random_batch(config.batch.micro), device)
    precision = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(config.runtime.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=config.runtime.precision == "16-mixed")
    times = []
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for update in range(warm_up + updates):
        start = _now(cuda)
        with sdpa_kernel(SDPBackend.MATH) if attention == "math" else nullcontext():
            with torch.autocast(device.type, precision) if precision else nullcontext():
                loss = module.training_step(batch, update)
            assert isinstance(loss, torch.Tensor)
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        times.append(_now(cuda) - start)
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    low, middle, high = torch.quantile(torch.tensor(times[warm_up:], dtype=torch.float64), quartiles).tolist()
    tokens = getattr(config.data, "tokens_per_sample", None)
    return Throughput(
        task=config.task,
        scale=config.scale,
        optimizer=config.optimizer.name,
        parameters=sum(p.numel() for p in module.parameters() if p.requires_grad),
        micro_batch=config.batch.micro,
        precision=config.runtime.precision,
        channels_last=config.runtime.channels_last,
        attention=attention,
        unit="samples" if tokens is None else "tokens",
        per_second=config.batch.micro * (tokens or 1) / middle,
        milliseconds=1e3 * middle,
        milliseconds_low=1e3 * low,
        milliseconds_high=1e3 * high,
        peak_gib=torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0,
        updates=updates,
        hardware=torch.cuda.get_device_name() if cuda else f"{hardware.processor()}, {torch.get_num_threads()} threads",
    )


def _now(cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def cell_of(task: str, scale: str, changes: Sequence[str]) -> CellConfig:
    """The task's config at a scale with NovoGrad, unless `changes` (`key=value`) name another optimizer."""
    if task not in task_names():
        raise ConfigError(f"There is no task '{task}'. Known: {', '.join(task_names())}.")
    tree = load_tree(ROOT / "configs" / task / f"{scale}.yaml")
    start = {"task": task, "seed": 0, "scale": scale, "optimizer.name": "novograd", "optimizer.lr": 1e-3}
    tree = override(tree, {**start, **parse_overrides(changes)}, "bench")
    micro = tree.batch.micro
    return resolve(override(tree, {"batch.size": micro}, "bench"), "bench")


def main(
    tasks: Sequence[str], scale: str, changes: Sequence[str], updates: int, attention: str, output: Path | None
) -> int:
    """Measure, print a table, and write it as CSV if asked to."""
    from rich.table import Table

    from novobench.console import console
    from novobench.files import write_csv

    configs = [cell_of(task, scale, changes) for task in tasks or task_names()]
    out = console()
    table = Table(box=None, pad_edge=False)
    for heading in ("task", "optimizer", "parameters", "micro-batch", "precision", "ms", "speed", "peak GiB"):
        table.add_column(heading)
    rows = []
    for config in configs:
        row = measure(config, updates, attention=attention)
        rows.append(row)
        table.add_row(
            row.task,
            row.optimizer,
            f"{row.parameters:,}",
            str(row.micro_batch),
            row.precision + (" channels-last" if row.channels_last else ""),
            f"{row.milliseconds:.1f}",
            f"{row.per_second:,.0f} {row.unit}/s",
            f"{row.peak_gib:.1f}",
        )
    out.print(table)
    out.print(f"{updates} updates each on {rows[0].hardware}.")
    if output is not None:
        write_csv(output, list(asdict(rows[0])), map(asdict, rows))
        out.print(f"Written: {output}")
    return 0
