"""The result of timing one optimizer's step: what the CSV file holds, and what is printed of it."""

from __future__ import annotations

from dataclasses import dataclass

from novobench.bench.contenders import BASELINE
from novobench.bench.results import Column, number


@dataclass(frozen=True)
class StepTime:
    """One optimizer on one model. What could not be measured is None; `error` then says why."""

    model: str
    optimizer: str
    settings: str = ""
    """Launch settings that differ from the default; see `--sweep`."""
    clipped: int = 0
    """1: with unscaling of a GradScaler's gradients and clipping of their global norm, in the step where it can."""
    milliseconds: float | None = None
    """Median time of a step: on CUDA the device's part (None: `host_bound`), on a CPU all of it."""
    wall_milliseconds: float | None = None
    """From the call until the device is done."""
    host_milliseconds: float | None = None
    """Until the call returns, while the device may still be at work."""
    baseline_milliseconds: float | None = None
    """The baseline's `milliseconds` in the same rounds."""
    ratio: float | None = None
    """`milliseconds` / `baseline_milliseconds`."""
    ratio_low: float | None = None
    """First quartile of the ratios within a round."""
    ratio_high: float | None = None
    """Third quartile."""
    wall_ratio: float | None = None
    """`wall_milliseconds` over the baseline's."""
    terabytes_per_second: float | None = None
    """Bytes that the step must move over `milliseconds`."""
    of_copy_bandwidth: float | None = None
    """The same as a share of what a copy reaches in these rounds; None on a CPU."""
    launches: int | None = None
    """Kernels per step, counted by the profiler; None on a CPU."""
    memory_operations: int | None = None
    """Copies and fills of memory per step, which are not kernels."""
    waits: int | None = None
    """How often a step makes the host wait for the device; None on a CPU."""
    host_bound: int = 0
    """1: the host did not get ahead of the device, because it waits for it or launches too many kernels."""
    peak_bytes_per_parameter: float | None = None
    """Device memory that a step needs temporarily, on top of weights, gradients and state; None on a CPU."""
    state_bytes_per_parameter: float | None = None
    rounds: int = 0
    repeats: int = 0
    """Steps per round; a device time is their mean."""
    device: str = ""
    threads: int = 0
    """CPU threads of torch's operations."""
    parameters: int = 0
    error: str = ""


def columns(device: str, swept: bool = False) -> list[Column]:
    """The printed columns. Times and ratios have enough digits to agree with each other."""
    cuda = device == "cuda"
    columns = [
        Column("model", 18, lambda row: row.model),
        Column("optimizer", 30, lambda row: row.optimizer),
        Column("settings", 71, lambda row: row.settings),
        Column("device ms" if cuda else "ms", 9, lambda row: number(row.milliseconds, ".4g")),
        Column("wall ms", 8, lambda row: number(row.wall_milliseconds, ".4g")),
        Column("host ms", 8, lambda row: number(row.host_milliseconds, ".4g")),
        Column(f"/ {BASELINE}", 14, lambda row: number(row.ratio, ".3f")),
        Column("quartiles", 13, lambda row: "" if row.ratio is None else f"{row.ratio_low:.3f}-{row.ratio_high:.3f}"),
        Column("wall ratio", 10, lambda row: number(row.wall_ratio, ".3f")),
        Column("TB/s", 6, lambda row: number(row.terabytes_per_second, ".3g")),
        Column("of copy", 7, lambda row: number(row.of_copy_bandwidth, ".0%")),
        Column("launches", 8, lambda row: number(row.launches, "d")),
        Column("waits", 5, lambda row: number(row.waits, "d")),
        Column("state B/param", 13, lambda row: number(row.state_bytes_per_parameter, ".2f")),
        Column("", 10, lambda row: "host-bound" if row.host_bound else ""),
    ]
    only_cuda = {"wall ms", "wall ratio", "of copy", "launches", "waits"}
    only_swept = {"settings"}
    return [c for c in columns if (cuda or c.heading not in only_cuda) and (swept or c.heading not in only_swept)]
