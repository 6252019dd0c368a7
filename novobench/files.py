"""Files that are complete or absent, locks, derived data, and one-line errors for disk problems."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout

from novobench import places
from novobench.errors import NovobenchError, one_line

_REMEDIES = {
    "Remove what is in its place": (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP),
    "Allow more open files (ulimit -n)": (errno.EMFILE, errno.ENFILE),
    "Free memory": (errno.ENOMEM,),
    "Shorten the path": (errno.ENAMETOOLONG,),
    "Check the disk or the network": (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ETIMEDOUT, errno.EHOSTDOWN),
}


@contextmanager
def readable_os_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn an OSError (a full disk, a read-only folder) into a NovobenchError that names the file and a remedy.

    `doing` is a verb, such as `write`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        file = error.filename2 or error.filename
        if isinstance(file, str | bytes) and path.parent not in Path(os.fsdecode(file)).parents:
            reason += f" ({os.fsdecode(file)})"
        remedy = next((remedy for remedy, codes in _REMEDIES.items() if error.errno in codes), "")
        raise NovobenchError(
            f"Cannot {doing} {path}: {reason}. {remedy or 'Free space or make the folder writable'}, then run the same "
            "command again: finished work is kept."
        ) from error


# ---------------------------------------------------------------------------------------------- locks

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems without locks: network drives without a lock service, some file systems in user space."""


@contextmanager
def lock(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path` exclusively. If another process holds it, call `waiting` once, then wait.

    On a file system without locks, the file `<path>.held` is the lock while it exists; one that a killed process left
    behind on this machine is taken over. Raises NovobenchError if the lock file cannot be created.
    """
    with readable_os_errors(path, "lock"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            acquired = _acquire(FileLock(path, fallback_to_soft=False), waiting)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            # Not `path` itself: it exists by now and is empty, so its owner would be unknown.
            acquired = _acquire(SoftFileLock(path.with_name(f"{path.name}.held")), waiting)
    try:
        yield
    finally:
        acquired.release()


def _acquire(lock: FileLock | SoftFileLock, waiting: Callable[[], None]) -> FileLock | SoftFileLock:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    return lock


# ---------------------------------------------------------------------------------------------- complete or absent

_LEFTOVER_SECONDS = 24 * 3600.0
"""A temporary file of another machine counts as left behind when it has not changed for this long."""


def _temporary_prefix(name: str) -> str:
    """The prefix of the temporary file or folder that will become `name`. It names the process that writes it."""
    name = name if len(os.fsencode(name)) <= 100 else ""  # a file name has 255 bytes
    return f".{name}.{os.getpid()}@{_machine()}."


def _machine() -> str:
    """Identifies a space of process ids: the host, and the namespace of process ids, as each container has its own."""
    namespace = ""
    with suppress(OSError):
        namespace = "-" + "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))
    return re.sub(r"[^\w-]", "-", platform.node())[:60] + namespace


_TEMPORARY = re.compile(r"\.(?P<name>.*)\.(?P<pid>\d+)@(?P<machine>[\w-]*)\.\w+\.tmp", re.DOTALL)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files and folders that killed processes left in `folder`; only those of `name` if given.

    A file counts as left behind if its process ran on this machine and has ended, or if it has not changed for a day.
    The caller holds the lock that guards such files, if there is one. Does nothing if `folder` cannot be read.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    machine = _machine()
    for entry in entries:
        parts = _TEMPORARY.fullmatch(entry.name)
        if parts is None or name not in (None, parts["name"]):
            continue
        with suppress(OSError):
            ended = parts["machine"] == machine and not _is_running(int(parts["pid"]))
            if ended or time.time() - entry.stat(follow_symlinks=False).st_mtime > _LEFTOVER_SECONDS:
                _remove(Path(entry.path))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its contents as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `path` atomically: a reader sees the old content or all of the new one, even after a power failure."""
    with readable_os_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_temporary_prefix(path.name), suffix=".tmp")
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
    """Write text as UTF-8, atomically."""
    write_bytes(path, content.encode())


def json_text(content: Any, indent: int | None = None) -> str:
    """Standard JSON: NaN and infinities, which JSON lacks, become null. `number` reads them back as NaN."""
    return json.dumps(_without_nonfinite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def json_lines(content: Any, width: int = 120) -> str:
    """JSON like `json_text`, in lines: what fits into a line of this width stays on one, anything longer has a line per
    item. A change of one item then changes one line."""
    return _json_lines(_without_nonfinite(content), width, "\n")


def _json_lines(content: Any, width: int, line_break: str) -> str:
    """line_break: a line feed and the indentation of the content."""
    text = json.dumps(content, ensure_ascii=False)
    if len(text) + len(line_break) - 1 <= width or not content or not isinstance(content, dict | list):
        return text
    deeper = f"{line_break} "
    if isinstance(content, dict):
        pairs = (f"{json.dumps(key, ensure_ascii=False)}: " for key in content)
        parts = [key + _json_lines(value, width, deeper) for key, value in zip(pairs, content.values(), strict=True)]
        return "{" + deeper + f",{deeper}".join(parts) + line_break + "}"
    return "[" + deeper + f",{deeper}".join(_json_lines(item, width, deeper) for item in content) + line_break + "]"


def _without_nonfinite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _without_nonfinite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nonfinite(value) for value in content]
    return content


def number(value: Any) -> float:
    """A number from JSON or CSV. Null and infinities become NaN. Raises ValueError for anything but a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | None):
        raise ValueError(f"{value!r} is not a number")
    parsed = math.nan if value is None else float(value)
    return parsed if math.isfinite(parsed) else math.nan


def write_json(path: Path, content: Any) -> None:
    """Write JSON with one value per line, atomically; see `json_text`."""
    write_text(path, json_text(content, indent=1) + "\n")


def read_csv(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file by heading; empty if the file does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, fields: Sequence[str], lines: Iterable[dict[str, Any]]) -> None:
    """Write a CSV file with a heading, atomically. Raises ValueError for a key that is not in `fields`."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, buffer.getvalue())


# ---------------------------------------------------------------------------------------------- derived data


def derived_folder(name: str, build: Callable[[Path], None]) -> Path:
    """A folder of derived data under $NOVOBENCH_CACHE (default ~/.cache/novobench), built once by `build(folder)`.

    `name` identifies the content and the code version, as in `language/corpus-<hash>`. `build` writes one or more files
    and no folders; if it raises, nothing is kept. The folder appears complete or not at all. If several processes need
    it, one builds it and the others wait. A damaged folder is built again. A complete one also works in a read-only
    cache.
    """
    folder = places.cache_root() / name
    if _is_complete(folder):
        return folder
    with lock(folder.with_name(f"{folder.name}.lock")):
        if not _is_complete(folder):
            remove_leftovers(folder.parent, folder.name)
            _build(folder, build)
    return folder


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    def temporary_folder() -> Path:
        return Path(tempfile.mkdtemp(dir=folder.parent, prefix=_temporary_prefix(folder.name), suffix=".tmp"))

    with readable_os_errors(folder, "write"):
        temporary = temporary_folder()
        try:
            build(temporary)
            os.chmod(temporary, 0o755)  # a cache may be shared
            listed = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
            write_json(temporary / _LIST, listed)
            if os.path.lexists(folder):  # moved away first, since files in use may not be removable
                damaged = temporary_folder()
                os.replace(folder, damaged / "damaged")
                shutil.rmtree(damaged, ignore_errors=True)
            os.replace(temporary, folder)
        except MemoryError as error:
            reason = f"it needs more memory than is available ({one_line(error) or 'out of memory'})"
            raise NovobenchError(
                f"Cannot write {folder}: {reason}. Free memory, then run the same command again: finished work is kept."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


_LIST = "files.json"


def _is_complete(folder: Path) -> bool:
    """Whether a derived folder holds exactly the files of its list, with unchanged contents."""
    try:
        listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        if not isinstance(listed, dict) or not listed or listed.keys() | {_LIST} != set(os.listdir(folder)):
            return False
        return all(_digest(folder / name) == digest for name, digest in listed.items())
    except (OSError, ValueError, RecursionError):
        return False


def _digest(path: Path) -> str:
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))  # reading a pipe would block
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
