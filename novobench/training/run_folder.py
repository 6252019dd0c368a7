"""The run folder of one cell (one training run), `runs/<scale>/<cell id>/`: its files, its heartbeat, its failure."""

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
    """The files of one cell. The cell is finished if `record.json` exists; nothing else is consulted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.claims = path / "claims.json"
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

    def read_claims(self) -> dict[str, str]:
        """The claims that the training is made for, with their hashes: `claims.json`, written before the training.
        Empty without that file."""
        try:
            claims = json.loads(self.claims.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        is_valid = isinstance(claims, dict) and set(map(type, claims.values())) <= {str}
        return claims if is_valid else {}

    def write_heartbeat(self, update: int, total: int, *, setting_up: bool = False) -> None:
        """Say that this process is alive and that `update` of `total` updates are done.

        setting_up: the process reads data and builds the model, so it writes no further heartbeat until its first
        batch. The write is atomic but not synced: it may be lost, never torn.
        """
        temporary = self.path / ".heartbeat.json.tmp"  # one name suffices: only the holder of the lock writes it
        heartbeat = {
            "pid": os.getpid(),
            "host": platform.node(),
            "update": update,
            "total": total,
            "setting_up": setting_up,
            "time": time.time(),
        }
        with readable_os_errors(self._heartbeat, "write"):
            try:
                temporary.write_text(json.dumps(heartbeat))
                os.replace(temporary, self._heartbeat)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

    def read_heartbeat(self) -> dict[str, Any] | None:
        """The newest heartbeat, with the keys and types that `write_heartbeat` writes. None if it is missing or
        damaged."""
        try:
            heartbeat = json.loads(self._heartbeat.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(heartbeat, dict) or {k: type(v) for k, v in heartbeat.items()} != _HEARTBEAT_TYPES:
            return None
        is_plausible = 0 < heartbeat["pid"] < 2**31 and 0 <= heartbeat["update"] <= heartbeat["total"] < 2**63
        return heartbeat if is_plausible and math.isfinite(heartbeat["time"]) else None

    def identity(self) -> tuple[int, int] | None:
        """Device and inode of the folder; they change if it is replaced. None if it does not exist."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def digests(self) -> dict[str, str]:
        """File name -> sha256 of each file that results are made from. The record lists them."""
        paths = [self.environment, self.metrics, *sorted(self.path.glob("predictions-*.jsonl.gz"))]
        return {path.name: _digest(path) for path in paths}

    def altered(self, name: str, record: Record) -> bool:
        """Whether the content of a file differs from what the record says. False if the record does not list it."""
        return name in record.files and _digest(self.path / name) != record.files[name]

    def predictions(self, split: str) -> Path:
        return self.path / f"predictions-{split}.jsonl.gz"

    def write_predictions(self, split: str, predictions: list[dict[str, Any]]) -> None:
        """Write one JSON object per line, compressed. The same predictions give the same bytes."""
        buffer = BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
            for prediction in predictions:
                file.write((json_text(prediction) + "\n").encode())
        write_bytes(self.predictions(split), buffer.getvalue())

    def read_predictions(self, split: str) -> list[dict[str, Any]]:
        with gzip.open(self.predictions(split), "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def write_failure(self, message: str) -> None:
        """Leave the reason why this attempt failed, in one line."""
        write_json(self.failure, {"error": message, "time": time.time()})

    def failure_reason(self) -> str:
        """Why the last attempt failed, in one line. Empty if it did not fail, or left no reason that can be read."""
        try:
            failure = json.loads(self.failure.read_bytes())
        except (OSError, ValueError, RecursionError):
            return ""
        reason = failure.get("error") if isinstance(failure, dict) else None
        return one_line(reason) if isinstance(reason, str) else ""


_HEARTBEAT_TYPES = {"pid": int, "host": str, "update": int, "total": int, "setting_up": bool, "time": float}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
