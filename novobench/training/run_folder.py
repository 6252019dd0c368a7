"""The folder of one cell, `runs/<scale>/<cell id>/`: where each file lies, who is at work, whether it is done."""

from __future__ import annotations

import gzip
import json
import os
import platform
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from novobench.files import json_text, told_plainly, write_bytes, write_json


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

    def read_record(self) -> dict[str, Any]:
        return json.loads(self.record.read_text(encoding="utf-8"))

    def beat(self, update: int, total: int, *, setting_up: bool = False) -> None:
        """Say that this process has come one batch further, or begins to set up, and how many updates are done.

        Atomic, not synced: it may be lost, never torn.
        """
        temporary = self._heartbeat.with_suffix(f".{os.getpid()}")
        beat = {
            "pid": os.getpid(),
            "host": platform.node(),
            "update": update,
            "total": total,
            "setting_up": setting_up,
            "time": time.time(),
        }
        with told_plainly(self._heartbeat, "write"):
            try:
                temporary.write_text(json.dumps(beat))
                os.replace(temporary, self._heartbeat)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

    def heartbeat(self) -> dict[str, Any] | None:
        """The last beat; None if there was none."""
        try:
            return json.loads(self._heartbeat.read_text())
        except (OSError, json.JSONDecodeError):
            return None

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
        """Why the last try failed; empty if it did not, or died without a word."""
        try:
            return json.loads(self.failure.read_text(encoding="utf-8"))["error"]
        except OSError:
            return ""
