"""Not a model: the host's part of a NovoGrad step on CUDA, measured on a CPU with launches that run nothing.

Nothing has changed since the last step, as in training, so what remains is the price of finding that out.
"""

from __future__ import annotations

from typing import Any

from novobench.bench.contenders import Contender, novograd
from novobench.optim.novograd import LaunchSettings


def _launch_nothing(*_: Any, **__: Any) -> None:
    pass


NAME = "600 tensors (host)"
SHAPES: list[tuple[int, ...]] = [(4,)] * 600
CONTENDER = Contender(novograd(LaunchSettings(launch=_launch_nothing, device_type="cpu"), fused=True))
