"""Files that are either whole or not there, and disk trouble told in one line."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from novobench import places
from novobench.errors import NovobenchError


@contextmanager
def told_plainly(path: Path, doing: str) -> Iterator[None]:
    """Turn a full disk or a read-only folder into one line that names the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise NovobenchError(
            f"Cannot {doing} {path}: {reason}. Free space or make the folder writable, then run the same command "
            "again: finished work is kept."
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write `path` atomically: a reader sees the old content or all of the new, also after a power cut."""
    with told_plainly(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def json_text(content: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: a number that is not finite, which JSON lacks, becomes null. See `number`."""
    return json.dumps(_without_nonfinite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _without_nonfinite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _without_nonfinite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nonfinite(value) for value in content]
    return content


def number(value: Any) -> float:
    """A number from JSON or CSV; NaN for whatever is not finite: null, `nan`, `inf`. Raises ValueError for anything
    else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | None):
        raise ValueError(f"{value!r} is no number")
    found = math.nan if value is None else float(value)
    return found if math.isfinite(found) else math.nan


def write_json(path: Path, content: Any) -> None:
    write_text(path, json_text(content, indent=1) + "\n")


def read_csv(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file; none if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, fields: Sequence[str], lines: Iterable[dict[str, Any]]) -> None:
    """Write a CSV file with a heading, atomically. A key that is no field is an error."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, buffer.getvalue())


def derived_folder(name: str, build: Callable[[Path], None]) -> Path:
    """A folder of derived data under $NOVOBENCH_CACHE (default ~/.cache/novobench), built once by `build(folder)`.

    `name` must tell content and code version apart, e.g. `language/corpus-<hash>`. The folder appears whole or not at
    all; processes that ask for it together wait for one of them; a damaged one is built again.
    """
    folder = places.cache_root() / name
    with told_plainly(folder, "write"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not _as_listed(folder):
                shutil.rmtree(folder, ignore_errors=True)
                temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
                try:
                    build(temporary)
                    listed = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
                    write_json(temporary / _LIST, listed)
                    os.replace(temporary, folder)
                except BaseException:
                    shutil.rmtree(temporary, ignore_errors=True)
                    raise
    return folder


_LIST = "files.json"


def _as_listed(folder: Path) -> bool:
    """Whether every file of a derived folder is there with its bytes."""
    try:
        listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        return all(_digest(folder / name) == digest for name, digest in listed.items())
    except (OSError, ValueError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
