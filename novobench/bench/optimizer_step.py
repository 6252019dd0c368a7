"""Step time of optimizers as ratios to AdamW(fused=True), on the parameter shapes of the paper's models.

Every round times each optimizer once, one after another, so that whatever else the machine does falls on all of
them; what counts is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.optim import Optimizer

from novobench.optim.novograd import NovoGrad

BASELINE = "AdamW(fused)"

Shapes = list[tuple[int, ...]]


def resnet50v2_shapes() -> Shapes:
    """The 153 tensors of ResNet-50v2."""
    from novobench.tasks.image.config import ImageModelConfig
    from novobench.tasks.image.model import build

    with torch.device("meta"):
        return [tuple(p.shape) for p in build(ImageModelConfig()).parameters()]


def transformer_big_shapes() -> Shapes:
    """The 184,750,080 parameters of Transformer-big: 8,192 joint tokens, d 1024, ff 4096, 6 + 6 post-norm layers."""
    d, ff, vocabulary = 1024, 4096, 8192
    norm: Shapes = [(d,), (d,)]
    attention = [(d, d), (d,)] * 4 + norm
    feed_forward = [(ff, d), (ff,), (d, ff), (d,), *norm]
    encoder, decoder = attention + feed_forward, attention * 2 + feed_forward
    return [(vocabulary, d), *norm * 2, *encoder * 6, *decoder * 6]


MODELS: dict[str, Callable[[], Shapes]] = {
    "ResNet-50v2": resnet50v2_shapes,
    "Transformer-big": transformer_big_shapes,
}


def contenders() -> dict[str, Callable[[list[torch.Tensor]], Optimizer]]:
    """The optimizers that are measured: ours, torch's, and whichever peers are installed."""
    found: dict[str, Callable[[list[torch.Tensor]], Optimizer]] = {
        BASELINE: lambda p: torch.optim.AdamW(p, 1e-3, fused=True),
        "NovoGrad": lambda p: NovoGrad(p, 1e-3, weight_decay=1e-3),
        "NovoGrad(loop)": lambda p: NovoGrad(p, 1e-3, weight_decay=1e-3, foreach=False, fused=False),
        "SGD(fused)": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, weight_decay=1e-4, fused=True),
        "AdamW": lambda p: torch.optim.AdamW(p, 1e-3),
    }
    try:
        from timm.optim.nvnovograd import NvNovoGrad

        found["timm NvNovoGrad"] = lambda p: NvNovoGrad(p, 1e-3, weight_decay=1e-3)
    except ImportError:
        pass
    try:
        from pytorch_optimizer import NovoGrad as KozistrNovoGrad

        found["pytorch_optimizer NovoGrad"] = lambda p: KozistrNovoGrad(p, 1e-3, weight_decay=1e-3)
    except ImportError:
        pass
    return found


@dataclass(frozen=True)
class Row:
    """One optimizer on one model; ratios are to the baseline of the same round."""

    model: str
    optimizer: str
    milliseconds: float
    ratio: float
    ratio_low: float
    """First quartile over rounds."""
    ratio_high: float
    """Third quartile."""
    state_bytes_per_parameter: float
    rounds: int
    threads: int
    parameters: int


def run(models: Sequence[str], rounds: int, threads: int) -> list[Row]:
    """Measure all contenders on the named models."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return [row for model in models for row in _measure(model, rounds, threads)]
    finally:
        torch.set_num_threads(before)


def _measure(model: str, rounds: int, threads: int) -> list[Row]:
    shapes = MODELS[model]()
    optimizers = {name: make(_parameters(shapes)) for name, make in contenders().items()}
    for optimizer in optimizers.values():
        optimizer.step()  # state, first-touch of memory
        optimizer.step()
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, optimizer in optimizers.items():
                start = time.perf_counter()
                optimizer.step()
                times[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    rows = []
    for name, optimizer in optimizers.items():
        ratios = torch.tensor([mine / base for mine, base in zip(times[name], times[BASELINE], strict=True)])
        low, middle, high = torch.quantile(ratios, torch.tensor([0.25, 0.5, 0.75])).tolist()
        count = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        median_ms = 1e3 * torch.tensor(times[name]).median().item()
        state = _state_bytes(optimizer) / count
        rows.append(Row(model, name, median_ms, middle, low, high, state, rounds, threads, count))
    return rows


def _parameters(shapes: Shapes) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    parameters = []
    for shape in shapes:
        parameter = torch.randn(shape, generator=generator).requires_grad_()
        parameter.grad = torch.randn(shape, generator=generator)
        parameters.append(parameter)
    return parameters


def _state_bytes(optimizer: Optimizer) -> int:
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.numel() * value.element_size() for value in values if torch.is_tensor(value))


def main(rounds: int, threads: int, output: Path | None = None) -> int:
    """Measure, print a table, and write it as CSV if asked to."""
    from rich.table import Table

    from novobench.console import console
    from novobench.files import write_csv

    rows = run(list(MODELS), rounds, threads)
    table = Table(box=None, pad_edge=False)
    for heading in ("model", "optimizer", "ms", f"/ {BASELINE}", "quartiles", "state B/param"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row.model,
            row.optimizer,
            f"{row.milliseconds:.1f}",
            f"{row.ratio:.2f}",
            f"{row.ratio_low:.2f}-{row.ratio_high:.2f}",
            f"{row.state_bytes_per_parameter:.2f}",
        )
    out = console()
    out.print(table)
    out.print(f"{rounds} interleaved rounds, {threads} thread(s).")
    if output is not None:
        write_csv(output, list(asdict(rows[0])), map(asdict, rows))
        out.print(f"Written: {output}")
    return 0
