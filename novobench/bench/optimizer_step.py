"""Step time of optimizers as ratios to AdamW(fused=True), on the parameter shapes of the paper's models.

Every round times each optimizer once, one after another, so that whatever else the machine does falls on all of
them. A time is the median over rounds, a ratio that of two such medians; the quartiles of the ratios within a round
tell how far to trust it. All optimizers share one set of weights and gradients, whose values do not matter here.

On CUDA times and ratios are the device's (see `timing`), and so is the bandwidth, which is held against that of a copy
of 1 GiB, timed in the same rounds. On a CPU a copy is no ceiling and is left out: its writes fetch each line of the
target first, traffic that no count includes, while a step has read the lines that it writes; small models stay in the
cache besides.
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from novobench import hardware
from novobench.bench import sweep
from novobench.bench.contenders import BASELINE, LIMIT, Contender, contenders, with_scaler
from novobench.bench.models import MODELS, Shapes, random_parameters
from novobench.bench.results import Column, Rows, number, one_line
from novobench.bench.timing import Pace, Step, Timer, Times
from novobench.errors import ConfigError, suggestion

_COPIED = 1 << 30
"""Bytes of the copy whose bandwidth a step's is held against."""
_SWEEP_ROUNDS = 3


@dataclass(frozen=True)
class Row:
    """One optimizer on one model. What could not be measured is None; `error` then tells why."""

    model: str
    optimizer: str
    settings: str = ""
    """What of its launches differs from the default; see `--sweep`."""
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
    """Kernels of a step, counted by the profiler; None on a CPU."""
    memory_operations: int | None = None
    """Copies and fills of memory in a step, which are no kernels."""
    waits: int | None = None
    """How often a step makes the host wait for the device; None on a CPU."""
    host_bound: int = 0
    """1: the host did not get ahead of the device, by waiting for it or by sheer number of launches."""
    peak_bytes_per_parameter: float | None = None
    """Device memory that a step needs temporarily, besides weights, gradients and state; None on a CPU."""
    state_bytes_per_parameter: float | None = None
    rounds: int = 0
    repeats: int = 0
    """Steps of a round whose mean is one device time."""
    device: str = ""
    threads: int = 0
    parameters: int = 0
    error: str = ""


class _Entry:
    """A contender at work on one model. A failure is kept in `error`, and ends its part."""

    def __init__(self, name: str, contender: Contender) -> None:
        self.name, self.contender, self.error = name, contender, ""
        self.optimizer: Optimizer | None = None
        self.step: Step | None = None
        self.pace = Pace(0)
        self.times: list[Times | None] = []
        self.waits: int | None = None
        self.peak: int | None = None

    def prepare(self, parameters: list[Tensor], timer: Timer, clipped: bool) -> _Entry:
        """Make the optimizer, and let it take its first steps: state, first touch of memory, compilation."""
        try:
            in_step = clipped and self.name.startswith("NovoGrad")
            options = {"unscale_in_step": True, "max_grad_norm": LIMIT} if in_step else {}
            self.optimizer = self.contender.make(parameters, **options)
            self.step = with_scaler(self.optimizer, parameters, timer.device) if clipped else self.optimizer.step
            for _ in range(2):
                self.step()
            self.waits = timer.waits(self.step)
            self.peak = timer.peak_bytes(self.step)
            self.pace = Pace(0) if self.waits else timer.pace(self.step)
        except Exception as error:
            self.fail(error)
        return self

    def time(self, timer: Timer) -> None:
        """One round's times; None once it has failed."""
        measured = None
        if self.step is not None:
            try:
                measured = timer.times(self.step, self.pace)
            except Exception as error:
                self.fail(error)
        self.times.append(measured)

    def fail(self, error: Exception) -> None:
        self.error = one_line(error)
        self.optimizer = self.step = None  # and its memory is free for the others

    def median(self, kind: str) -> float | None:
        """Of the rounds' `device`, `wall` or `host` times; None unless most rounds have one."""
        values = [getattr(times, kind) for times in self.times if times is not None]
        values = [value for value in values if value is not None]
        return statistics.median(values) if 2 * len(values) > len(self.times) and not self.error else None


def run(
    models: Sequence[str],
    rounds: int,
    threads: int,
    device: str = "cpu",
    only: Sequence[str] = (),
    *,
    clipped: bool = False,
    swept: bool = False,
) -> Iterator[Row]:
    """Measure the contenders (`only` names some; the baseline always takes part) on the named models.

    With `swept`, NovoGrad's launch settings instead, in a few rounds each; `rounds` and `only` then do not count. Each
    row comes when it is measured.
    """
    timer = Timer(torch.device(device))
    chosen = {
        name: contender
        for name, contender in contenders(timer.device).items()
        if name in (BASELINE, *only) or not (only or contender.by_name_only)
    }
    with cpu_threads(threads):
        for model in models:
            bench = StepBench(model, MODELS[model](), timer, clipped=clipped)
            yield from bench.sweep() if swept else bench.compare(chosen, rounds)
            del bench
            gc.collect()
            if timer.cuda:
                with suppress(RuntimeError):  # after a kernel that broke the CUDA context; the rows tell
                    torch.cuda.empty_cache()


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """With so many threads for torch's operations on a CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class StepBench:
    """Measurements on one list of parameter shapes."""

    def __init__(self, name: str, shapes: Shapes, timer: Timer, *, clipped: bool = False) -> None:
        """`name` is the rows' `model`; see `Row.clipped` for `clipped`."""
        self.timer, self.clipped, self.shapes = timer, clipped, shapes
        self.count = sum(map(math.prod, self.shapes))
        self.blank = Row(
            name,
            BASELINE,
            clipped=int(clipped),
            device=torch.cuda.get_device_name(timer.device) if timer.cuda else hardware.processor(),
            threads=torch.get_num_threads(),
            parameters=self.count,
        )

    def compare(self, chosen: Mapping[str, Contender], rounds: int) -> Iterator[Row]:
        """The chosen contenders, the baseline first among them, one after another in each round."""
        parameters = self._parameters()
        if parameters is None:
            yield self._too_large
            return
        entries = [self._prepared(name, contender, parameters) for name, contender in chosen.items()]
        copy = self._copy()
        self._rounds([*entries, copy], rounds)
        for entry in entries:
            yield self._row(entry, entries[0], copy, rounds)

    def sweep(self) -> Iterator[Row]:
        """NovoGrad's launch settings, each in rounds of its own with the baseline."""
        parameters = self._parameters()
        if parameters is None:
            yield self._too_large
            return
        base, copy = self._prepared(BASELINE, contenders(self.timer.device)[BASELINE], parameters), self._copy()
        self._rounds([base, copy], _SWEEP_ROUNDS)
        yield self._row(base, base, copy, _SWEEP_ROUNDS)
        for name, contender in sweep.settings(self.timer.device):
            entry = self._prepared(name, contender, parameters)
            self._rounds([base, entry], _SWEEP_ROUNDS)
            yield self._row(entry, base, copy, _SWEEP_ROUNDS, profiled=False)
            del entry

    def _parameters(self) -> list[Tensor] | None:
        try:
            return random_parameters(self.shapes, self.timer.device)
        except RuntimeError as error:  # out of memory
            self._too_large = replace(self.blank, error=one_line(error))
            return None

    def _prepared(self, name: str, contender: Contender, parameters: list[Tensor]) -> _Entry:
        return _Entry(name, contender).prepare(parameters, self.timer, self.clipped)

    def _copy(self) -> _Entry:
        """Copies 1 GiB on CUDA, and does nothing elsewhere."""
        entry = _Entry("copy", Contender(lambda _: None))  # type: ignore[arg-type, return-value]
        if self.timer.cuda:
            try:
                source = torch.ones(_COPIED // 4, device=self.timer.device)
                target = torch.empty_like(source)
                entry.step = lambda: target.copy_(source)
                entry.pace = self.timer.pace(entry.step)
            except RuntimeError as error:  # out of memory
                entry.fail(error)
        return entry

    def _rounds(self, entries: Sequence[_Entry], rounds: int) -> None:
        for entry in entries:
            entry.times = []
        gc.collect()
        gc.disable()
        try:
            for _ in range(rounds):
                for entry in entries:
                    entry.time(self.timer)
        finally:
            gc.enable()

    def _row(self, entry: _Entry, base: _Entry, copy: _Entry, rounds: int, *, profiled: bool = True) -> Row:
        row = replace(self.blank, optimizer=entry.name, settings=entry.contender.settings, rounds=rounds)
        if entry.error or entry.optimizer is None or entry.step is None:
            return replace(row, error=entry.error)
        mine, wall = entry.median("device"), entry.median("wall")
        theirs, their_wall, copied = base.median("device"), base.median("wall"), copy.median("device")
        low, high = _quartiles(entry, base)
        must = None if self.clipped else entry.contender.bytes_per_parameter
        rate = None if must is None or mine is None else must * self.count / mine / 1e9
        launches, moves = self.timer.launches(entry.step) if profiled else (None, None)
        return replace(
            row,
            milliseconds=mine,
            wall_milliseconds=wall,
            host_milliseconds=entry.median("host"),
            baseline_milliseconds=theirs,
            ratio=_ratio(mine, theirs),
            ratio_low=low,
            ratio_high=high,
            wall_ratio=_ratio(wall, their_wall),
            terabytes_per_second=rate,
            of_copy_bandwidth=None if rate is None or copied is None else rate / (2 * _COPIED / copied / 1e9),
            launches=launches,
            memory_operations=moves,
            waits=entry.waits,
            host_bound=int(mine is None),
            peak_bytes_per_parameter=None if entry.peak is None else entry.peak / self.count,
            state_bytes_per_parameter=_state_bytes(entry.optimizer) / self.count,
            repeats=entry.pace.repeats,
        )


def _ratio(mine: float | None, theirs: float | None) -> float | None:
    return None if mine is None or theirs is None else mine / theirs


def _quartiles(entry: _Entry, base: _Entry) -> tuple[float | None, float | None]:
    """Of the ratios of device times within a round."""
    pairs = [(a.device, b.device) for a, b in zip(entry.times, base.times, strict=True) if a and b]
    ratios = [mine / theirs for mine, theirs in pairs if mine is not None and theirs is not None]
    if not ratios:
        return None, None
    low, high = torch.quantile(torch.tensor(ratios, dtype=torch.float64), torch.tensor([0.25, 0.75]).double()).tolist()
    return low, high


def _state_bytes(optimizer: Optimizer) -> int:
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.numel() * value.element_size() for value in values if torch.is_tensor(value))


def columns(device: str, swept: bool = False) -> list[Column]:
    """What is printed; times and ratios in digits enough to agree."""
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
    """Measure, print each row as it comes, and write all as CSV and as a plot if asked to.

    Returns 1 if the baseline failed, or one of ours with its own settings. A peer, or a setting, that does not work
    here is only named.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no CUDA device that torch can use.")
    if swept:
        sweep.check(device, only)
    everyone = list(contenders(torch.device(device)))
    for words, there, what in ((models, [*MODELS], "model"), (only, everyone, "optimizer")):
        for name in words:
            if name not in there:
                raise ConfigError(f"There is no {what} '{name}'.{suggestion(name, there)} Known: {', '.join(there)}.")
    report = Rows(Row, columns(device, swept), output)
    for row in run(models or [*MODELS], rounds, threads, device, only, clipped=clipped, swept=swept):
        report.add(row)
        if row.error and row.optimizer == BASELINE:
            report.say(f"The baseline {BASELINE} failed on {row.model}: no ratios there.")
    doing = ", each step with unscaling and clipping" if clipped else ""
    done = report.rows[0]
    report.say(f"{done.rounds} interleaved rounds on {done.device}, {threads} CPU thread(s){doing}.")
    if swept:
        sweep.say_best(report)
    elif output is not None:
        from novobench.bench.plot import draw

        draw(report.rows, output.with_suffix(".svg"))
    if output is not None:
        report.say(f"Written: {output}" + ("" if swept else f" and {output.with_suffix('.svg')}"))
    ours = (BASELINE,) if swept else (BASELINE, "NovoGrad")
    return int(any(row.error and row.optimizer.startswith(ours) for row in report.rows))
