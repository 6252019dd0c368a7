"""How the Triton kernels divide their work, and who launches them. Needs no Triton."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tuning:
    """How the kernels divide their work; `novobench bench optimizer --sweep` measures other ways."""

    block: int
    """Elements of a tile. With 8 or more per thread, 2-byte types too get 16-byte accesses."""
    warps: int
    """Warps of 32 threads per program."""
    chunk: int
    """Elements of a program's share, a multiple of `block`."""
    ahead: int = 0
    """A single launch takes the norms of this many bytes of gradients before it updates what came before them: few
    enough to stay in the cache, and more than all programs that run at once read, so that none has to wait."""
    reverse: bool = True
    """The update takes the last chunk first; see `kernels`, also for the next two."""
    evict: bool = True
    overlap: bool = False

    def __post_init__(self) -> None:
        if self.chunk % self.block:
            raise ValueError(f"chunk {self.chunk} is no multiple of block {self.block}")

    def update_block(self, rounds: bool) -> int:
        """Elements of a tile of the update: half as many where m is rounded, as the random bits need registers."""
        return self.block // 2 if rounds else self.block


def launch_kernel(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Launch `programs` programs of a Triton kernel on the current device and stream."""
    kernel[(programs,)](*arguments, **constants)


@dataclass(frozen=True)
class LaunchSettings:
    """Assigned to `NovoGrad.launch_settings` before the first step, it changes how kernels are launched."""

    two_launches: Tuning = Tuning(block=2048, warps=8, chunk=8192, evict=False, overlap=True)
    """As fast on an H100 as the fastest of a sweep (results/gpu/bench_sweep.csv), whose larger tiles take 98
    registers."""
    single_launch: Tuning = Tuning(block=2048, warps=8, chunk=4096, ahead=8 << 20)
    """The fastest of the same sweep."""
    launch: Callable[..., None] = launch_kernel
    """Called for each launch as `launch_kernel` is."""
    device_type: str | None = None
    """Where the parameters lie that kernels take; by default on CUDA, or in Triton's interpreter on the CPU. With a
    `launch` that runs nothing it may be any: that measures the host's part of a step."""
