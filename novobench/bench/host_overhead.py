"""Not a model: the host's part of a NovoGrad step on CUDA, measured on a CPU by leaving the launches out.

Nothing has changed since the last step, as in training, so what remains is the price of finding that out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from novobench.bench.contenders import Contender, novograd

NAME = "600 tensors (host)"
SHAPES: list[tuple[int, ...]] = [(4,)] * 600
CONTENDER = Contender(novograd(fused=True))


class _Nothing:
    """Stands for a kernel: a launch does nothing."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *_, **__: None


@contextmanager
def launches_left_out() -> Iterator[None]:
    """NovoGrad(fused=True) does on CPU tensors all that its host does for CUDA ones, and launches nothing."""
    from triton.runtime.jit import KernelInterface

    from novobench.optim.novograd import cuda, kernels

    with ExitStack() as patches:
        patches.enter_context(patch.dict(os.environ, {"TRITON_INTERPRET": "1"}))
        patches.enter_context(patch.object(cuda, "runs_on", lambda device: True))
        for name, value in list(vars(kernels).items()):
            if isinstance(value, KernelInterface):
                patches.enter_context(patch.object(kernels, name, _Nothing()))
        yield
