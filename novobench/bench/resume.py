"""Whether a training of this size resumes after a kill as if nothing had happened.

One update after a checkpoint is taken twice, from the same seed and batch: by the training that wrote the checkpoint
and by a new one that read it.
"""

from __future__ import annotations

import gc
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from novobench.training import checkpoints

if TYPE_CHECKING:
    from novobench.bench.throughput import Training

_SEED = 20190527


@dataclass(frozen=True)
class Resumed:
    """The outcome of saving, loading and resuming."""

    save_seconds: float
    """With reading back what was written, as a training does."""
    load_seconds: float
    """Into a new model and optimizer on the device."""
    gib: float
    verdict: str
    """`same bits`, or the tensor that differs most and by how much of its largest number."""


def try_resuming(training: Training, batch: Any, passes: int, again: Callable[[], Training]) -> Resumed:
    """One whole update of `passes` micro-batches, a checkpoint, and another update by both.

    With deterministic kernels, as a training has them: all, if the task can do with those (`determinism_on_cuda`), else
    where there are any. `training` is spent afterwards, so that the device need not hold both: `again` makes the new
    one.
    """
    if getattr(training.module, "determinism_on_cuda", "") == "strict":
        try:
            return _try_resuming(training, batch, passes, again, strict=True)
        except RuntimeError as error:
            if "deterministic" not in str(error):
                raise
            training.optimizer.zero_grad()
    return _try_resuming(training, batch, passes, again, strict=False)


def _try_resuming(
    training: Training, batch: Any, passes: int, again: Callable[[], Training], *, strict: bool
) -> Resumed:
    with tempfile.TemporaryDirectory() as name, _deterministic(strict=strict):
        folder = Path(name)
        _update(training, batch, passes, 0)
        start = time.perf_counter()
        checkpoints.save(folder, 1, training.state())
        saved = time.perf_counter() - start
        gib = sum(path.stat().st_size for path in folder.iterdir()) / 2**30
        _update(training, batch, passes, 1)
        expected = _weights(training)
        training.drop()
        gc.collect()
        fresh = again()
        start = time.perf_counter()
        state = checkpoints.load_newest(folder)
        assert state is not None
        fresh.load(state)
        if fresh.device.type == "cuda":
            torch.cuda.synchronize()
        loaded = time.perf_counter() - start
        del state
        _update(fresh, batch, passes, 1)
        return Resumed(saved, loaded, gib, compared(expected, _weights(fresh)))


def compared(expected: dict[str, Tensor], actual: dict[str, Tensor]) -> str:
    """`same bits`, or the name of the tensor that differs most, with its largest difference over its largest number."""
    worst, where = 0.0, ""
    for name, value in expected.items():
        if torch.equal(value, actual[name]):
            continue
        wide = value.double()
        difference = float((actual[name].double() - wide).abs().max() / wide.abs().max().clamp(min=1e-300))
        if not (difference <= worst or math.isnan(worst)):  # a NaN counts as the most
            worst, where = difference, name
    return f"{where} differs by {worst:.1e}" if where else "same bits"


def _update(training: Training, batch: Any, passes: int, number: int) -> None:
    torch.manual_seed(_SEED + number)  # also the device's generator
    training.update(batch, passes)


def _weights(training: Training) -> dict[str, Tensor]:
    return {name: value.cpu().clone() for name, value in training.module.state_dict().items()}


@contextmanager
def _deterministic(*, strict: bool) -> Iterator[None]:
    """Deterministic kernels, and none chosen by trying; `strict` refuses what has none, the other way only warns."""
    kept = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic.*")
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(kept[0], warn_only=kept[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
