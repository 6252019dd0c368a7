"""`metrics.jsonl`: one JSON object a line, only ever appended to, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from novobench.files import json_text, told_plainly, write_text


class MetricsLog:
    """Lines carry `update` (weight updates done), `split`, and the numbers. `trackers` get them as well."""

    def __init__(self, path: Path, trackers: Iterable[Any] = ()) -> None:
        self.path, self.trackers = path, list(trackers)
        self.lines = 0
        """Whole lines in the file; a checkpoint holds their number."""

    def append(self, update: int, split: str, values: dict[str, float]) -> None:
        """Add one line, on disk when this returns."""
        line = json_text({"update": update, "split": split, **values})
        with told_plainly(self.path, "append to"), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self.lines += 1
        for tracker in self.trackers:
            tracker.log_metrics({f"{split}/{name}": value for name, value in values.items()}, step=update)

    def cut_back(self, lines: int) -> None:
        """Keep the first `lines` lines: forget what was logged after a checkpoint, a torn last line included."""
        kept = read(self.path)[:lines]
        write_text(self.path, "".join(json_text(line) + "\n" for line in kept))
        self.lines = len(kept)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; none if there is no file."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break  # the unfinished last line of a killed run
    return lines
