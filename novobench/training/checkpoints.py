"""Checkpoints named by update. The newest that can be used counts, so no instant of a kill loses a run.

A file is what `torch.save` writes, and behind it the sha256 of that: `torch.load` reads it, and a flipped bit shows.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from novobench.errors import TrainingError
from novobench.files import write_bytes

log = logging.getLogger(__name__)

_KEPT = 2
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


def save(folder: Path, update: int, state: dict[str, Any]) -> None:
    """Write `update-<n>.ckpt` atomically and remove all but it and the one before, once it has been read back.

    Raises `TrainingError` if `state` cannot be read back, in which case nothing is written, or the file cannot.
    """
    buffer = BytesIO()
    try:
        torch.save(state, buffer)
        _read(buffer.getvalue())
    except Exception as error:  # pickling and unpickling can fail anywhere
        raise TrainingError(
            f"No checkpoint can be made at update {update}: {_foreign(state) or _one_line(error)}. A checkpoint holds "
            "tensors, numbers, strings, and lists, tuples and dicts of those, because reading anything else would run "
            "code. Let the optimizer's state and groups hold nothing else."
        ) from error
    content = buffer.getvalue()
    path = folder / f"update-{update:09d}.ckpt"
    write_bytes(path, content + hashlib.sha256(content).digest())
    try:
        _whole(path)
    except ValueError as error:
        raise TrainingError(f"{path} was written but not as it should be: {error}. Check the disk.") from None
    before = [old for old in _newest_first(folder) if old.name < path.name]
    for old in set(_newest_first(folder)) - {path, *before[: _KEPT - 1]}:  # also newer ones, which were damaged
        old.unlink(missing_ok=True)


def load_newest(folder: Path, unusable: Callable[[dict[str, Any]], str] = lambda _: "") -> dict[str, Any] | None:
    """The state of the newest checkpoint that can be used; None if there is no checkpoint.

    `unusable` says why a state that can be read cannot be used; empty: it can. Each checkpoint that is passed over is
    warned of. Raises `TrainingError` if there are checkpoints and none can be used.
    """
    reasons = []
    for path in _newest_first(folder):
        try:
            state = load(path)
            reason = unusable(state)
        except Exception as error:  # a damaged file can fail anywhere in the reader
            reason = _one_line(error)
        if not reason:
            return state
        log.warning("Checkpoint %s cannot be used (%s); going back to the one before.", path.name, reason)
        reasons.append(f"{path.name}: {reason}")
    if reasons:
        raise TrainingError(
            f"No checkpoint in {folder} can be used ({'; '.join(reasons)}). Restore the files, or remove "
            f"{folder.parent} to train anew."
        )
    return None


def load(path: Path) -> dict[str, Any]:
    """One checkpoint's state on the CPU. Raises `ValueError` if the file is damaged. Runs no code from it."""
    return _read(_whole(path))


def _whole(path: Path) -> bytes:
    content = path.read_bytes()
    content, digest = content[:-32], content[-32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its content is not what its checksum says")
    return content


def _read(content: bytes) -> dict[str, Any]:
    return torch.load(BytesIO(content), map_location="cpu", weights_only=True)


def _foreign(state: Any, where: str = "") -> str:
    """What in a state is no plain data, and where; empty if nothing is."""
    if isinstance(state, Mapping):
        parts = [(f"{where}.{key}".lstrip("."), value) for key, value in state.items()]
    elif isinstance(state, list | tuple | set):
        parts = [(f"{where}[{number}]", value) for number, value in enumerate(state)]
    elif isinstance(state, Tensor) or type(state) in _PLAIN:
        return ""
    else:
        return f"{where} is a {type(state).__module__}.{type(state).__qualname__}"
    return next(filter(None, (_foreign(value, name) for name, value in parts)), "")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("update-*.ckpt"), reverse=True)
