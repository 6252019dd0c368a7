"""Files that are either whole or not there, and disk trouble told in one line."""

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

_MENDS = {
    "Remove what is in its place": (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP),
    "Allow more open files (ulimit -n)": (errno.EMFILE, errno.ENFILE),
    "Free memory": (errno.ENOMEM,),
    "Shorten the path": (errno.ENAMETOOLONG,),
    "Check the disk or the network": (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ETIMEDOUT, errno.EHOSTDOWN),
}


@contextmanager
def readable_os_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn a full disk, a read-only folder or the like into one line that names the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        at = error.filename2 or error.filename
        if isinstance(at, str | bytes) and path.parent not in Path(os.fsdecode(at)).parents:
            reason += f" ({os.fsdecode(at)})"
        mend = next((mend for mend, kinds in _MENDS.items() if error.errno in kinds), "")
        raise NovobenchError(
            f"Cannot {doing} {path}: {reason}. {mend or 'Free space or make the folder writable'}, then run the same "
            "command again: finished work is kept."
        ) from error


# ---------------------------------------------------------------------------------------------- locks

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems say that have no locks: network drives without a lock service, some user-space ones."""


@contextmanager
def lock(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path`, alone among all processes. If another holds it: call `waiting` once, then wait.

    Where the file system has no locks, a file beside it is the lock while it exists; what a killed process of this
    machine has left is taken over. Raises NovobenchError if the lock file cannot be made.
    """
    with readable_os_errors(path, "lock"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held = _acquired(FileLock(path, fallback_to_soft=False), waiting)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            # Not `path` itself, which is there now, and empty: nobody could tell whose it is.
            held = _acquired(SoftFileLock(path.with_name(f"{path.name}.held")), waiting)
    try:
        yield
    finally:
        held.release()


def _acquired(lock: FileLock | SoftFileLock, waiting: Callable[[], None]) -> FileLock | SoftFileLock:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    return lock


# ---------------------------------------------------------------------------------------------- whole or not there

_LEFTOVER_SECONDS = 24 * 3600.0
"""After which a temporary file that nobody touched is taken for one that a kill has left, whoever made it."""


def _temporary_prefix(name: str) -> str:
    """Of the temporary file or folder that becomes `name`: it says whose it is."""
    name = name if len(os.fsencode(name)) <= 100 else ""  # a file name has 255 bytes
    return f".{name}.{os.getpid()}@{_machine()}."


def _machine() -> str:
    """Where a process id means one process: the host, and its space of process ids, as containers have their own."""
    space = ""
    with suppress(OSError):
        space = "-" + "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))
    return re.sub(r"[^\w-]", "-", platform.node())[:60] + space


_TEMPORARY = re.compile(r"\.(?P<name>.*)\.(?P<pid>\d+)@(?P<machine>[\w-]*)\.\w+\.tmp", re.DOTALL)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files and folders that killed processes have left in `folder`, each as large as what it was
    to become; `name`: only those that were to become that.

    Left behind is what a process of this machine made that is gone, and what nobody has touched for a day. The caller
    holds the lock under which such files are made, if there is one. Does nothing where `folder` cannot be read.
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
            ours = parts["machine"] == machine and not _alive(int(parts["pid"]))
            if ours or time.time() - entry.stat(follow_symlinks=False).st_mtime > _LEFTOVER_SECONDS:
                _remove(Path(entry.path))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder with all in it, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `path` atomically: a reader sees the old content or all of the new, also after a power cut."""
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


# ---------------------------------------------------------------------------------------------- derived data


def derived_folder(name: str, build: Callable[[Path], None]) -> Path:
    """A folder of derived data under $NOVOBENCH_CACHE (default ~/.cache/novobench), built once by `build(folder)`.

    `name` must tell content and code version apart, e.g. `language/corpus-<hash>`. `build` writes at least one file,
    and no folders; if it raises, nothing is kept. The folder appears whole or not at all; processes that ask for it
    together wait for one of them; a damaged one is built again. A whole one is used though the cache is read-only.
    """
    folder = places.cache_root() / name
    if _as_listed(folder):
        return folder
    with lock(folder.with_name(f"{folder.name}.lock")):
        if not _as_listed(folder):
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
            if os.path.lexists(folder):  # moved away first: a file of it that is in use may not be removed at once
                damaged = temporary_folder()
                os.replace(folder, damaged / "damaged")
                shutil.rmtree(damaged, ignore_errors=True)
            os.replace(temporary, folder)
        except MemoryError as error:
            raise NovobenchError(
                f"Cannot write {folder}: it needs more memory than there is ({one_line(error) or 'out of memory'}). "
                "Free memory, then run the same command again: finished work is kept."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


_LIST = "files.json"


def _as_listed(folder: Path) -> bool:
    """Whether every file of a derived folder is there with its bytes, and no other."""
    try:
        listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        if not isinstance(listed, dict) or not listed or listed.keys() | {_LIST} != set(os.listdir(folder)):
            return False
        return all(_digest(folder / name) == digest for name, digest in listed.items())
    except (OSError, ValueError, RecursionError):
        return False


def _digest(path: Path) -> str:
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))  # a pipe would be waited for
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
