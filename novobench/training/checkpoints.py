"""Checkpoints named by update. The newest readable one counts, so no instant of a kill loses a run."""

from __future__ import annotations

import logging
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from novobench.files import write_bytes

log = logging.getLogger(__name__)

_KEPT = 2


def save(folder: Path, update: int, state: dict[str, Any]) -> None:
    """Write `update-<n>.ckpt` atomically and remove all but the newest two, once this one has been read back."""
    buffer = BytesIO()
    torch.save(state, buffer)
    path = folder / f"update-{update:09d}.ckpt"
    write_bytes(path, buffer.getvalue())
    if load(path) is not None:
        for old in _newest_first(folder)[_KEPT:]:
            old.unlink(missing_ok=True)


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The state of the newest checkpoint that can be read; None if there is none."""
    for path in _newest_first(folder):
        state = load(path)
        if state is not None:
            return state
    return None


def load(path: Path) -> dict[str, Any] | None:
    """One checkpoint's state on the CPU; None, with a warning, if it is damaged. Runs no code from the file."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in the reader
        log.warning("Checkpoint %s cannot be read (%s); going back to the one before.", path.name, error)
        return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("update-*.ckpt"), reverse=True)
