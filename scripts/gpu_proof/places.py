"""The folders of the script, and atomic writes."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "gpu_proof"
"""Files of this machine alone: installed wheels, apex, unpacked data, caches. Never part of the tar."""
LOGS = ROOT / "runs" / "gpu_proof"
TAR = "gpu_proof.tar"


class CannotRun(Exception):
    """One line for the user; exit code 2."""


def write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def tail(log: Path, lines: int) -> str:
    """The last lines of a log, indented; empty if the log does not exist."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join(f"    {line[:300]}" for line in text.splitlines()[-lines:])
