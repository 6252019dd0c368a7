"""Measures step times of optimizers and their ratios to AdamW(fused=True), on parameter shapes of the paper's models.

Each round times every optimizer once, one after another, so that whatever else the machine does slows all of them
alike. A time is the median over rounds, and a ratio is that of two such medians; the quartiles of the ratios within a
round say how far to trust it. All optimizers share one set of weights and gradients, whose values do not matter here.

On CUDA, times and ratios are the device's (see `timing`). So is the bandwidth, which is compared with that of a copy of
1 GiB, timed in the same rounds. On a CPU a copy is no upper limit, so it is left out: its writes first fetch each line
of the target, traffic that no count includes, while a step has already read the lines that it writes. Besides, small
models stay in the cache.
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from novobench import hardware
from novobench.bench import sweep
from novobench.bench.contenders import BASELINE, LIMIT, Contender, contenders, with_scaler
from novobench.bench.models import MODELS, Shapes, random_parameters
from novobench.bench.results import one_line, quartiles
from novobench.bench.step_time import StepTime
from novobench.bench.timing import Pace, Step, Timer, Times

_COPIED = 1 << 30
"""Bytes of the copy whose bandwidth a step's is compared with."""
_SWEEP_ROUNDS = 3


class _Entry:
    """A contender on one model. Its first failure is kept in `error`, and it is not timed any more."""

    def __init__(self, name: str, contender: Contender) -> None:
        self.name, self.contender, self.error = name, contender, ""
        self.optimizer: Optimizer | None = None
        self.step: Step | None = None
        self.pace = Pace(0)
        self.times: list[Times | None] = []
        self.waits: int | None = None
        self.peak: int | None = None

    def prepare(self, parameters: list[Tensor], timer: Timer, clipped: bool) -> _Entry:
        """Make the optimizer and take its first steps, which create its state, touch its memory and compile."""
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
        """Append one round's times; None once it has failed."""
        times = None
        if self.step is not None:
            try:
                times = timer.times(self.step, self.pace)
            except Exception as error:
                self.fail(error)
        self.times.append(times)

    def fail(self, error: Exception) -> None:
        self.error = one_line(error)
        self.optimizer = self.step = None  # frees its memory for the others

    def median(self, kind: str) -> float | None:
        """Median of the rounds' `device`, `wall` or `host` times; None unless most rounds have one."""
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
) -> Iterator[StepTime]:
    """Measure the contenders (`only` selects some; the baseline always takes part) on the named models.

    With `swept`, NovoGrad's launch settings instead, in a few rounds each; `rounds` and `only` are then ignored. Yields
    each row when it is measured.
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
                with suppress(RuntimeError):  # after a kernel that broke the CUDA context; the rows say so
                    torch.cuda.empty_cache()


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch's operations use `count` CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class StepBench:
    """Measurements on one list of parameter shapes."""

    def __init__(self, name: str, shapes: Shapes, timer: Timer, *, clipped: bool = False) -> None:
        """`name` is the rows' `model`; see `StepTime.clipped` for `clipped`."""
        self.timer, self.clipped, self.shapes = timer, clipped, shapes
        self.count = sum(map(math.prod, self.shapes))
        self.blank = StepTime(
            name,
            BASELINE,
            clipped=int(clipped),
            device=torch.cuda.get_device_name(timer.device) if timer.cuda else hardware.processor(),
            threads=torch.get_num_threads(),
            parameters=self.count,
        )

    def compare(self, chosen: Mapping[str, Contender], rounds: int) -> Iterator[StepTime]:
        """Time the chosen contenders, of which the baseline is the first, one after another in each round."""
        parameters = self._parameters()
        if parameters is None:
            yield self._too_large
            return
        entries = [self._prepared(name, contender, parameters) for name, contender in chosen.items()]
        copy = self._copy()
        self._rounds([*entries, copy], rounds)
        for entry in entries:
            yield self._row(entry, entries[0], copy, rounds)

    def sweep(self) -> Iterator[StepTime]:
        """Time each of NovoGrad's launch settings in its own rounds with the baseline."""
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
        """An entry that copies 1 GiB on CUDA and does nothing elsewhere."""
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

    def _row(self, entry: _Entry, base: _Entry, copy: _Entry, rounds: int, *, profiled: bool = True) -> StepTime:
        row = replace(self.blank, optimizer=entry.name, settings=entry.contender.settings, rounds=rounds)
        if entry.error or entry.optimizer is None or entry.step is None:
            return replace(row, error=entry.error)
        mine, wall = entry.median("device"), entry.median("wall")
        theirs, their_wall, copied = base.median("device"), base.median("wall"), copy.median("device")
        low, high = _ratio_quartiles(entry, base)
        traffic = None if self.clipped else entry.contender.bytes_per_parameter
        rate = None if traffic is None or mine is None else traffic * self.count / mine / 1e9
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


def _ratio_quartiles(entry: _Entry, base: _Entry) -> tuple[float | None, float | None]:
    """First and third quartile of the ratios of device times within a round."""
    pairs = [(a.device, b.device) for a, b in zip(entry.times, base.times, strict=True) if a and b]
    ratios = [mine / theirs for mine, theirs in pairs if mine is not None and theirs is not None]
    if not ratios:
        return None, None
    low, _, high = quartiles(ratios)
    return low, high


def _state_bytes(optimizer: Optimizer) -> int:
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.numel() * value.element_size() for value in values if torch.is_tensor(value))
