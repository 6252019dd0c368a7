"""`metrics.jsonl`: one JSON object per line, append-only, cut back to the checkpoint on resume."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from novobench.errors import DataError
from novobench.files import json_text, readable_os_errors, write_bytes
from novobench.places import display_path


class MetricsLog:
    """Each line holds `update` (weight updates done), `split` and the numbers. `trackers` (Lightning's loggers) also
    get them."""

    def __init__(self, path: Path, trackers: Iterable[Any] = ()) -> None:
        self.path, self.trackers = path, list(trackers)
        self._lines, self._digest = 0, hashlib.sha256()

    def append(self, update: int, split: str, values: Mapping[str, float]) -> None:
        """Append one line; it is written when this returns. A non-finite number becomes null."""
        line = json_text({"update": update, "split": split, **values}) + "\n"
        with readable_os_errors(self.path, "append to"), self.path.open("ab") as file:
            file.write(line.encode())
        self._lines += 1
        self._digest.update(line.encode())
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for tracker in self.trackers:
            tracker.log_metrics({f"{split}/{name}": value for name, value in finite.items()}, step=update)

    def state(self) -> dict[str, Any]:
        """The part of a checkpoint: the number of lines, and the sha256 of their bytes."""
        return {"lines": self._lines, "sha256": self._digest.hexdigest()}

    def damage(self, state: dict[str, Any]) -> str:
        """Why `cut_back` cannot restore the file as it was at `state`; empty if it can."""
        kept = self._first(state["lines"])
        lines = kept.count(b"\n")
        if lines < state["lines"]:
            return f"{self.path.name} has lost lines: {lines} of {state['lines']} are left"
        if hashlib.sha256(kept).hexdigest() != state["sha256"]:
            return f"{self.path.name} is damaged: its first {lines} lines are not as they were written"
        return ""

    def cut_back(self, state: dict[str, Any] | None) -> None:
        """Remove what was logged after a checkpoint, a torn last line included; everything if `state` is None."""
        kept = self._first(state["lines"]) if state else b""
        write_bytes(self.path, kept)
        self._lines, self._digest = kept.count(b"\n"), hashlib.sha256(kept)

    def _first(self, lines: int) -> bytes:
        content = self.path.read_bytes() if self.path.exists() else b""
        return b"".join(line for line in content.splitlines(keepends=True)[:lines] if line.endswith(b"\n"))


def read(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics file; none if the file does not exist.

    Raises `DataError` if a line is damaged.
    """
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except ValueError:
            raise DataError(
                f"{display_path(path)} line {number} is damaged, so its curves are incomplete. Restore the "
                f"file, or remove {display_path(path.parent)} to train the cell again."
            ) from None
    return entries
