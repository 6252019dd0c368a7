"""Checkpoint files, named by update. The newest usable one counts, so a kill at any instant loses little.

A file is the output of `torch.save`, followed by its sha256: `torch.load` can read it, and a flipped bit is detected.
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

from novobench.errors import TrainingError, one_line
from novobench.files import write_bytes

log = logging.getLogger(__name__)

_FILES_KEPT = 2
_DIGEST_BYTES = 32
_PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


def save(folder: Path, update: int, state: dict[str, Any]) -> None:
    """Write `update-<n>.ckpt` atomically, read it back, then remove all files but it and the one before.

    Raises TrainingError, with nothing written, if `state` cannot be read back; also if the file cannot be.
    """
    buffer = BytesIO()
    try:
        torch.save(state, buffer)
        _deserialize(buffer.getvalue())
    except Exception as error:  # pickling and unpickling can fail anywhere
        raise TrainingError(
            f"Cannot save a checkpoint at update {update}: {_unsupported_part(state) or _reason(error)}. A checkpoint "
            "may hold tensors, numbers, strings, and lists, tuples and dicts of these, because reading anything else "
            "would run code. Remove everything else from the optimizer's state and groups."
        ) from error
    content = buffer.getvalue()
    path = folder / f"update-{update:09d}.ckpt"
    write_bytes(path, content + hashlib.sha256(content).digest())
    try:
        _verified_content(path)
    except ValueError as error:
        raise TrainingError(f"{path} does not hold what was written to it: {error}. Check the disk.") from None
    before = [old for old in _newest_first(folder) if old.name < path.name]
    for old in set(_newest_first(folder)) - {path, *before[: _FILES_KEPT - 1]}:  # also newer ones, which were damaged
        old.unlink(missing_ok=True)


def load_newest(folder: Path, problem: Callable[[dict[str, Any]], str] = lambda _: "") -> dict[str, Any] | None:
    """The state of the newest usable checkpoint; None if the folder has no checkpoint.

    problem: says why a readable state cannot be used, or "" if it can. A warning names each checkpoint that is skipped.
    Raises TrainingError if there are checkpoints and none can be used.
    """
    reasons = []
    for path in _newest_first(folder):
        try:
            state = load(path)
            reason = problem(state)
        except Exception as error:  # the reader can fail anywhere on a damaged file
            reason = _reason(error)
        if not reason:
            return state
        log.warning("Checkpoint %s cannot be used (%s); trying the one before.", path.name, reason)
        reasons.append(f"{path.name}: {reason}")
    if reasons:
        raise TrainingError(
            f"No checkpoint in {folder} can be used ({'; '.join(reasons)}). Restore the files, or remove "
            f"{folder.parent} to train again from the start."
        )
    return None


def load(path: Path) -> dict[str, Any]:
    """The state of one checkpoint, on the CPU. Runs no code from the file. Raises ValueError if it is damaged."""
    return _deserialize(_verified_content(path))


def _verified_content(path: Path) -> bytes:
    content = path.read_bytes()
    content, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its content does not match its checksum")
    return content


def _deserialize(content: bytes) -> dict[str, Any]:
    return torch.load(BytesIO(content), map_location="cpu", weights_only=True)


def _unsupported_part(state: Any, where: str = "") -> str:
    """The first part of a state that is not plain data, and its type, as a clause; empty if all of it is."""
    if isinstance(state, Mapping):
        parts = [(f"{where}.{key}".lstrip("."), value) for key, value in state.items()]
    elif isinstance(state, list | tuple | set):
        parts = [(f"{where}[{number}]", value) for number, value in enumerate(state)]
    elif isinstance(state, Tensor) or type(state) in _PLAIN_TYPES:
        return ""
    else:
        return f"{where} is a {type(state).__module__}.{type(state).__qualname__}"
    return next(filter(None, (_unsupported_part(value, name) for name, value in parts)), "")


def _reason(error: Exception) -> str:
    return one_line(error) or type(error).__name__


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("update-*.ckpt"), reverse=True)
