"""The folder of one cell, `runs/<scale>/<cell id>/`: where each file lies, who is at work, whether it is done."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import platform
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from novobench.errors import one_line
from novobench.files import json_text, readable_os_errors, write_bytes, write_json
from novobench.training.record import Record


class RunFolder:
    """Finished is judged by `record.json` alone; everything else is what a run needs on its way there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.changes = path / "changes.diff"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.log = path / "log.txt"
        self.record = path / "record.json"
        self.failure = path / "failure.json"
        self.lock = path / "lock"
        self._heartbeat = path / "heartbeat.json"

    @property
    def finished(self) -> bool:
        return self.record.exists()

    def read_record(self) -> Record:
        """The record of a finished cell. Raises ValueError if it is damaged, OSError if it cannot be read."""
        return Record.read(self.record)

    def beat(self, update: int, total: int, *, setting_up: bool = False) -> None:
        """Say that this process has come one batch further, or begins to set up, and how many updates are done.

        Atomic, not synced: it may be lost, never torn.
        """
        temporary = self.path / ".heartbeat.json.tmp"  # one alone: whoever beats holds the lock
        beat = {
            "pid": os.getpid(),
            "host": platform.node(),
            "update": update,
            "total": total,
            "setting_up": setting_up,
            "time": time.time(),
        }
        with readable_os_errors(self._heartbeat, "write"):
            try:
                temporary.write_text(json.dumps(beat))
                os.replace(temporary, self._heartbeat)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

    def heartbeat(self) -> dict[str, Any] | None:
        """The last beat, with the keys and types that `beat` gives it; None if there was none, or it is damaged."""
        try:
            found = json.loads(self._heartbeat.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(found, dict) or {key: type(value) for key, value in found.items()} != _BEAT:
            return None
        sane = 0 < found["pid"] < 2**31 and 0 <= found["update"] <= found["total"] < 2**63
        return found if sane and math.isfinite(found["time"]) else None

    def place(self) -> tuple[int, int] | None:
        """Which folder this path leads to; None if there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def digests(self) -> dict[str, str]:
        """The sha256 of each file that a finished training leaves for its results, by name; for its record."""
        paths = [self.environment, self.metrics, *sorted(self.path.glob("predictions-*.jsonl.gz"))]
        return {path.name: _digest(path) for path in paths}

    def altered(self, name: str, record: Record) -> bool:
        """Whether the content of a file differs from what the record says. False if the record does not list it."""
        return name in record.files and _digest(self.path / name) != record.files[name]

    def predictions(self, split: str) -> Path:
        return self.path / f"predictions-{split}.jsonl.gz"

    def write_predictions(self, split: str, predictions: list[dict[str, Any]]) -> None:
        """One JSON object a line, compressed; the same bytes for the same predictions."""
        buffer = BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
            for prediction in predictions:
                file.write((json_text(prediction) + "\n").encode())
        write_bytes(self.predictions(split), buffer.getvalue())

    def read_predictions(self, split: str) -> list[dict[str, Any]]:
        with gzip.open(self.predictions(split), "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def fail(self, message: str) -> None:
        """Leave the reason for whoever looks next."""
        write_json(self.failure, {"error": message, "time": time.time()})

    def failure_reason(self) -> str:
        """Why the last try failed; empty if it did not, died without a word, or its word is damaged."""
        try:
            found = json.loads(self.failure.read_bytes())
        except (OSError, ValueError, RecursionError):
            return ""
        told = found.get("error") if isinstance(found, dict) else None
        return one_line(told) if isinstance(told, str) else ""


_BEAT = {"pid": int, "host": str, "update": int, "total": int, "setting_up": bool, "time": float}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
