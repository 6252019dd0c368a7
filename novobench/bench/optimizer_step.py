"""Step time of optimizers as ratios to AdamW(fused=True), on the parameter shapes of the paper's models.

Every round times each optimizer once, one after another, so that whatever else the machine does falls on all of
them; what counts is the median over rounds of the ratio within a round. All optimizers share one set of weights and
gradients, whose values do not matter here.
"""

from __future__ import annotations

import gc
import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch.optim import Optimizer

from novobench import hardware
from novobench.bench.contenders import BASELINE, Contender, contenders, novograd
from novobench.optim import GradScaler, NovoGrad
from novobench.tasks.catalog import task_config

_LIMIT = 1e9
"""Of the global norm: never reached, but every clipping reads it."""
HOST = "600 tensors (host)"
"""Not a model: the host's part of a step alone, nothing changed since the last one, launches left out."""

Shapes = list[tuple[int, ...]]


def _shapes_of(task: str) -> Shapes:
    """Those of the task's model at the paper's size."""
    model = importlib.import_module(f"novobench.tasks.{task}.model")
    with torch.device("meta"):
        parameters = model.build(task_config(task).MODEL()).parameters()
    return [tuple(p.shape) for p in parameters if p.requires_grad]


MODELS: dict[str, Callable[[], Shapes]] = {
    "ResNet-50v2": lambda: _shapes_of("image"),
    "Jasper DR 10x5": lambda: _shapes_of("speech"),
    "Transformer-big": lambda: _shapes_of("translation"),
    "Transformer-XL": lambda: _shapes_of("language"),
}


@dataclass(frozen=True)
class Row:
    """One optimizer on one model; ratios are to the baseline of the same round."""

    model: str
    optimizer: str
    clipped: int
    """1: with unscaling of a GradScaler's gradients and clipping of their global norm, in the step where it can."""
    milliseconds: float
    host_milliseconds: float
    """Until the call returns, while the device may still be at work."""
    ratio: float
    ratio_low: float
    """First quartile over rounds."""
    ratio_high: float
    """Third quartile."""
    of_copy_bandwidth: float | None
    """Bytes that the step must move over its time, as a share of what a copy reaches on this device."""
    launches: int | None
    """Kernels of a step, counted by the profiler; None on a CPU."""
    peak_bytes_per_parameter: float | None
    """Device memory that a step takes for a while, beside weights, gradients and state; None on a CPU."""
    state_bytes_per_parameter: float
    rounds: int
    device: str
    threads: int
    parameters: int


def run(
    models: Sequence[str],
    rounds: int,
    threads: int,
    device: str = "cpu",
    only: Sequence[str] = (),
    *,
    clipped: bool = False,
) -> list[Row]:
    """Measure the contenders (`only` names some; the baseline always takes part) on the named models."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return [
            row for model in models for row in _measure(model, rounds, threads, torch.device(device), only, clipped)
        ]
    finally:
        torch.set_num_threads(before)


def _measure(
    model: str, rounds: int, threads: int, device: torch.device, only: Sequence[str], clipped: bool
) -> list[Row]:
    parameters = _parameters([(4,)] * 600 if model == HOST else MODELS[model](), device)
    chosen = {
        name: contender for name, contender in contenders(device).items() if not only or name in (BASELINE, *only)
    }
    with _launches_left_out() if model == HOST else _as_it_is():
        if model == HOST:
            chosen = {BASELINE: chosen[BASELINE], "NovoGrad": Contender(novograd(fused=True))}
        optimizers, steps = {}, {}
        for name, contender in chosen.items():
            in_step = clipped and name.startswith("NovoGrad")
            options = {"unscale_in_step": True, "max_grad_norm": _LIMIT} if in_step else {}
            optimizers[name] = contender.make(parameters, **options)
            steps[name] = _with_scaler(optimizers[name], parameters, device) if clipped else optimizers[name].step
            for _ in range(2):
                steps[name]()  # state, first touch of memory, compilation
        times: dict[str, list[float]] = {name: [] for name in optimizers}
        host: dict[str, list[float]] = {name: [] for name in optimizers}
        gc.collect()
        gc.disable()
        try:
            for _ in range(rounds):
                for name, step in steps.items():
                    returned, done = _time(step, device)
                    times[name].append(done)
                    host[name].append(returned)
        finally:
            gc.enable()
    copy_bandwidth = None if model == HOST else _copy_bandwidth(device)
    count = sum(p.numel() for p in parameters)
    rows = []
    for name, optimizer in optimizers.items():
        ratios = torch.tensor([mine / base for mine, base in zip(times[name], times[BASELINE], strict=True)])
        low, middle, high = torch.quantile(ratios, torch.tensor([0.25, 0.5, 0.75])).tolist()
        seconds = torch.tensor(times[name]).median().item()
        must = None if clipped else chosen[name].bytes_per_parameter
        reached = None if must is None or copy_bandwidth is None else must * count / seconds / copy_bandwidth
        launches, peak = _on_device(steps[name], device)
        rows.append(
            Row(
                model=model,
                optimizer=name,
                clipped=int(clipped),
                milliseconds=1e3 * seconds,
                host_milliseconds=1e3 * torch.tensor(host[name]).median().item(),
                ratio=middle,
                ratio_low=low,
                ratio_high=high,
                of_copy_bandwidth=reached,
                launches=launches,
                peak_bytes_per_parameter=None if peak is None else peak / count,
                state_bytes_per_parameter=_state_bytes(optimizer) / count,
                rounds=rounds,
                device=torch.cuda.get_device_name(device) if device.type == "cuda" else hardware.processor(),
                threads=threads,
                parameters=count,
            )
        )
    return rows


def _with_scaler(optimizer: Optimizer, parameters: list[Tensor], device: torch.device) -> Callable[[], None]:
    """What a loop with mixed precision and clipping does in each update.

    Scale and limit leave the gradients as they are, but each pass over them is made.
    """
    scaler = GradScaler(device.type, init_scale=1.0, growth_interval=1 << 30)
    scaler.scale(torch.zeros((), device=device))
    in_step = isinstance(optimizer, NovoGrad)

    def step() -> None:
        if not in_step:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, _LIMIT)
        scaler.step(optimizer)
        scaler.update()

    return step


def _time(step: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds of one step, until the call returns and to its end on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    returned = time.perf_counter() - start
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return returned, time.perf_counter() - start


def _copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of copying 256 MB: the median of nine."""
    source, target = torch.ones(1 << 26, device=device), torch.empty(1 << 26, device=device)
    times = [_time(lambda: target.copy_(source), device)[1] for _ in range(10)][1:]
    return 8 * source.numel() / torch.tensor(times).median().item()


def _on_device(step: Callable[[], object], device: torch.device) -> tuple[int | None, int | None]:
    """Kernels of a step, and the memory it takes for a while."""
    if device.type != "cuda":
        return None, None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize(device)
    on_device = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    launches = sum("memcpy" not in e.name.lower() for e in on_device)
    return launches, torch.cuda.max_memory_allocated(device) - before


@contextmanager
def _launches_left_out() -> Iterator[None]:
    """NovoGrad(fused=True) does on CPU tensors all that its host does for CUDA ones, and launches nothing."""
    from novobench.optim import novograd_tables, novograd_triton

    class Nothing:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *_, **__: None

    kernels = novograd_tables.kernels
    with (
        patch.dict(os.environ, {"TRITON_INTERPRET": "1"}),
        patch.object(novograd_triton, "runs_on", lambda device: True),
        patch.object(kernels, "norms", Nothing()),
        patch.object(kernels, "update", Nothing()),
    ):
        yield


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def _parameters(shapes: Shapes, device: torch.device) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    parameters = []
    for shape in shapes:
        parameter = torch.randn(shape, generator=generator, device=device).requires_grad_()
        parameter.grad = torch.randn(shape, generator=generator, device=device)
        parameters.append(parameter)
    return parameters


def _state_bytes(optimizer: Optimizer) -> int:
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.numel() * value.element_size() for value in values if torch.is_tensor(value))


def main(
    models: Sequence[str],
    only: Sequence[str],
    rounds: int,
    threads: int,
    device: str,
    clipped: bool = False,
    output: Path | None = None,
) -> int:
    """Measure, print a table, and write it as CSV if asked to."""
    from rich.table import Table

    from novobench.console import console
    from novobench.errors import ConfigError, suggestion
    from novobench.files import write_csv

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no CUDA device that torch can use.")
    known = [*MODELS, *([HOST] if device == "cpu" and not clipped else [])]
    everyone = list(contenders(torch.device(device)))
    for words, there, what in ((models, known, "model"), (only, everyone, "optimizer")):
        for name in words:
            if name not in there:
                raise ConfigError(f"There is no {what} '{name}'.{suggestion(name, there)} Known: {', '.join(there)}.")
    rows = run(
        models or [name for name in known if not (clipped and name == HOST)],
        rounds,
        threads,
        device,
        only,
        clipped=clipped,
    )
    table = Table(box=None, pad_edge=False)
    for heading in (
        "model", "optimizer", "ms", "host ms", f"/ {BASELINE}", "quartiles", "of copy", "launches", "state B/param"
    ):  # fmt: skip
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row.model,
            row.optimizer,
            f"{row.milliseconds:.3g}",
            f"{row.host_milliseconds:.3g}",
            f"{row.ratio:.2f}",
            f"{row.ratio_low:.2f}-{row.ratio_high:.2f}",
            "" if row.of_copy_bandwidth is None else f"{row.of_copy_bandwidth:.0%}",
            "" if row.launches is None else str(row.launches),
            f"{row.state_bytes_per_parameter:.2f}",
        )
    out = console()
    out.print(table)
    doing = ", each step with unscaling and clipping" if clipped else ""
    out.print(f"{rounds} interleaved rounds on {rows[0].device}, {threads} CPU thread(s){doing}.")
    if output is not None:
        from novobench.bench.plot import draw

        write_csv(output, list(asdict(rows[0])), map(asdict, rows))
        draw(rows, output.with_suffix(".svg"))
        out.print(f"Written: {output} and {output.with_suffix('.svg')}")
    return 0
