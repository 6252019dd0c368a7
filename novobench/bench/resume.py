"""Checks that a training of this size resumes from a checkpoint with the same bits.

The update after the checkpoint is taken twice, with the same seed and batch: by the training that wrote the checkpoint
and by a new one that loaded it.
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
from typing import Any

import torch
from torch import Tensor

from novobench.bench.bare_training import Training
from novobench.training import checkpoints

_SEED = 20190527


@dataclass(frozen=True)
class Resumed:
    """The outcome of saving, loading and resuming."""

    save_seconds: float
    """Includes reading the file back, as a training does."""
    load_seconds: float
    """Into a new model and optimizer on the device."""
    gib: float
    """Size of the checkpoint."""
    verdict: str
    """`same bits`, or the tensor that differs most and by what share of its largest number."""


def try_resuming(training: Training, batch: Any, passes: int, again: Callable[[], Training]) -> Resumed:
    """Take an update of `passes` micro-batches, save a checkpoint, and take another update in both trainings.

    Kernels are deterministic as in a training: all of them if the task has `determinism_on_cuda = "strict"`, else those
    that exist. `again` makes the new training; `training` cannot be used afterwards, so the device never holds both.
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
        checkpoints.save(folder, 1, training.state_dict())
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
        fresh.load_state_dict(state)
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
        exact = value.double()
        difference = float((actual[name].double() - exact).abs().max() / exact.abs().max().clamp(min=1e-300))
        if not (difference <= worst or math.isnan(worst)):  # NaN is the largest difference
            worst, where = difference, name
    return f"{where} differs by {worst:.1e}" if where else "same bits"


def _update(training: Training, batch: Any, passes: int, number: int) -> None:
    torch.manual_seed(_SEED + number)  # also the device's generator
    training.update(batch, passes)


def _weights(training: Training) -> dict[str, Tensor]:
    return {name: value.cpu().clone() for name, value in training.module.state_dict().items()}


@contextmanager
def _deterministic(*, strict: bool) -> Iterator[None]:
    """Deterministic kernels, none of them chosen by timing; without `strict`, operations that lack one only warn."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
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
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
