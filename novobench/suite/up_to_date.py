"""What a collection need not read again: results that are as it left them, and run folders that are as it read them.

`runs/<scale>/collected.json` says so. It is a convenience: without it, or where it is damaged, everything is read.
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
"""A file that changed less long ago could change again without a change of its times."""
_READ = ("record.json", "config.yaml", "environment.json", "metrics.jsonl")


@dataclass
class Seen:
    """What the last collection left: digests of the results files, all of whose cells were whole, by name; and the
    state of each run folder when it was read, with the digests of the results that were made from it."""

    files: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Seen:
        """Nothing is known if the file is absent, damaged or of other code."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["code"] == _code():
                parts = content["files"], content["folders"]
                if all(isinstance(part, dict) and set(map(type, part.values())) <= {str} for part in parts):
                    return cls(*parts)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        return cls()

    def write(self, path: Path) -> None:
        write_json(path, {"code": _code(), "files": self.files, "folders": self.folders})


@cache
def _code() -> str:
    """A digest of the code that makes results out of run folders."""
    here = Path(__file__)
    modules = [here.with_name(name) for name in ("collection.py", "records.py", "checked_files.py", "up_to_date.py")]
    modules += [Path(module.__file__) for module in (files, metrics_log, record, run_folder) if module.__file__]
    return hashlib.sha256(b"".join(map(Path.read_bytes, modules))).hexdigest()


def digest(path: Path) -> str:
    """Of a file's content; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def state(folder: Path) -> str:
    """The names, sizes, times and places on the disk of those files of a run folder that a collection reads, as a
    digest; empty if it has no record, or if one of them changed a moment ago."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in _READ or entry.name.startswith("predictions-"):
                    at = entry.stat()
                    found.append((entry.name, at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino))
    except OSError:
        return ""
    newest = max((max(mtime, ctime) for _, _, mtime, ctime, _ in found), default=0) / 1e9
    if not any(name == "record.json" for name, *_ in found) or newest > time.time() - _SETTLED_SECONDS:
        return ""
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()[:32]
