"""How long a step takes: on the device, on the host, and by the wall clock.

On CUDA the host enqueues a step's kernels and the device runs them. The time between two waits for the device includes
both, so a small model's step seems to take as long as its launches. Therefore the device's part is timed on its own: a
kernel that only spins keeps the device busy while the host enqueues several steps, and events before and after them
then enclose work without gaps.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

Step = Callable[[], object]

_BATCH_MS = 20.0
"""Steps behind one spin take about this long, at most `_MOST_REPEATS` of them."""
_MOST_REPEATS = 20
_LONGEST_SPIN_MS = 1000.0
_TRIES = 3


@dataclass(frozen=True)
class Pace:
    """How a step is timed on the device: `repeats` steps behind a spin of `spin` milliseconds."""

    repeats: int
    """0: the host never got ahead of the device, so there is no device time."""
    spin: float = 0.0


@dataclass(frozen=True)
class Times:
    """Milliseconds of one step."""

    device: float | None
    """Time of its kernels and the gaps between them; None if the host did not get ahead. On a CPU the wall time."""
    wall: float
    """From the call, when the device is idle, until the device is done."""
    host: float
    """Until the call returns, while the device may still be at work."""


class Timer:
    """Times steps on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        self._cycles_per_ms = self._calibrate() if self.cuda else 0.0

    def pace(self, step: Step) -> Pace:
        """Find out by trial how to time `step`, which has run before."""
        if not self.cuda:
            return Pace(1)
        tries = [self._wall_and_host(step) for _ in range(2)]
        wall, host = min(wall for wall, _ in tries), min(host for _, host in tries)
        repeats = max(1, min(_MOST_REPEATS, int(_BATCH_MS / wall)))
        spin = 2 * host * repeats + 1
        for _ in range(_TRIES):
            if self._behind_spin(step, repeats, spin) is not None:
                return Pace(repeats, spin)
            # The spin was too short, or the launches overflow the driver's queue, so the host waits for the device.
            repeats, spin = max(1, repeats // 4), min(2 * spin, _LONGEST_SPIN_MS)
        return Pace(0)

    def times(self, step: Step, pace: Pace) -> Times:
        """One measurement; on CUDA the device time is the mean of `pace.repeats` steps."""
        wall, host = self._wall_and_host(step)
        if not self.cuda:
            return Times(wall, wall, host)
        device = None
        if pace.repeats:
            device = self._behind_spin(step, pace.repeats, pace.spin)
            if device is None:  # something else kept the host busy
                device = self._behind_spin(step, pace.repeats, min(4 * pace.spin, _LONGEST_SPIN_MS))
        return Times(device, wall, host)

    def waits(self, step: Step) -> int | None:
        """How often `step` makes the host wait for the device, as far as torch can tell; None on a CPU."""
        if not self.cuda:
            return None
        torch.cuda.synchronize(self.device)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)

    def peak_bytes(self, step: Step) -> int | None:
        """Device memory that `step` takes temporarily; None on a CPU."""
        if not self.cuda:
            return None
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        step()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before

    def launches(self, step: Step) -> tuple[int | None, int | None]:
        """Kernels, and copies and fills of memory, of one step; None on a CPU or where the profiler fails.

        Call it after all times of a model are measured: once the profiler has run, launches may cost the host more.
        """
        if not self.cuda:
            return None, None
        try:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                step()
                torch.cuda.synchronize(self.device)
            names = [
                event.name.lower()
                for event in profile.events() or []
                if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
            ]
        except Exception:
            return None, None
        moves = sum(name.startswith(("memcpy", "memset")) for name in names)
        return len(names) - moves, moves

    def _wall_and_host(self, step: Step) -> tuple[float, float]:
        if self.cuda:
            torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        step()
        returned = time.perf_counter()
        if self.cuda:
            torch.cuda.synchronize(self.device)
        return 1e3 * (time.perf_counter() - start), 1e3 * (returned - start)

    def _behind_spin(self, step: Step, repeats: int, spin: float) -> float | None:
        """Mean milliseconds of `repeats` steps on the device; None if the spin ended before the host was done."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        torch.cuda._sleep(int(spin * self._cycles_per_ms))
        begin.record()
        for _ in range(repeats):
            step()
        end.record()
        ahead = not begin.query()  # the device still spins
        torch.cuda.synchronize(self.device)
        return begin.elapsed_time(end) / repeats if ahead else None

    def _calibrate(self) -> float:
        """Cycles of `torch.cuda._sleep` per millisecond: the most of three tries, as an idle card's clock is slow."""
        cycles, best = 20_000_000, 0.0
        for _ in range(3):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            torch.cuda._sleep(cycles)
            end.record()
            torch.cuda.synchronize(self.device)
            best = max(best, cycles / begin.elapsed_time(end))
        return best
