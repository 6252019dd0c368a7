"""What a collection need not read again: results and run folders that have not changed since the last collection.

`runs/<scale>/collected.json` holds the note about them. It only saves time: where it is missing or damaged, everything
is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from novobench import files
from novobench.files import write_json
from novobench.training import metrics_log, record, run_folder

_SETTLED_SECONDS = 2.0
"""A file younger than this could change again while its times stay the same."""
_COLLECTED_FILES = ("record.json", "config.yaml", "environment.json", "metrics.jsonl")
"""Of a run folder; its predictions are collected too."""


@dataclass
class Note:
    """What the last collection left behind."""

    files: dict[str, str] = field(default_factory=dict)
    """Results file -> sha256; empty if some cell was incomplete."""
    folders: dict[str, str] = field(default_factory=dict)
    """Cell -> state of its run folder when it was collected, and the digests of its results."""

    @classmethod
    def read(cls, path: Path) -> Note:
        """An empty note if the file is missing, damaged or written by another version of the code."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["code"] == _code_digest():
                parts = content["files"], content["folders"]
                if all(isinstance(part, dict) and set(map(type, part.values())) <= {str} for part in parts):
                    return cls(*parts)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        return cls()

    def write(self, path: Path) -> None:
        write_json(path, {"code": _code_digest(), "files": self.files, "folders": self.folders})


@cache
def _code_digest() -> str:
    """Digest of the code that turns run folders into results."""
    folder = Path(__file__).parent
    names = (
        "collection.py", "results.py", "stored_cell.py", "cells_file.py", "earlier_layout.py", "checked_files.py",
        "up_to_date.py",
    )  # fmt: skip
    modules = [folder / name for name in names]
    modules += [Path(module.__file__) for module in (files, metrics_log, record, run_folder) if module.__file__]
    return hashlib.sha256(b"".join(map(Path.read_bytes, modules))).hexdigest()


def state(folder: Path) -> str:
    """Digest of the names, sizes, times and inodes of the files of a run folder that a collection reads.

    Empty if the folder has no record, or if one of the files changed a moment ago.
    """
    stamps = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in _COLLECTED_FILES or entry.name.startswith("predictions-"):
                    status = entry.stat()
                    stamps.append((entry.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    except OSError:
        return ""
    newest = max((max(mtime, ctime) for _, _, mtime, ctime, _ in stamps), default=0) / 1e9
    if not any(name == "record.json" for name, *_ in stamps) or newest > time.time() - _SETTLED_SECONDS:
        return ""
    return hashlib.sha256(repr(sorted(stamps)).encode()).hexdigest()[:32]
