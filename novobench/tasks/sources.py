"""What the data sources of all tasks share: folders, splits, counts, text files, and data identity by content."""

from __future__ import annotations

import codecs
import errno
import hashlib
import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from novobench.errors import DataError, kind_and_message, suggestion
from novobench.files import derived_folder, write_text
from novobench.hardware import cores

log = logging.getLogger(__name__)

_DIGEST_BYTES = 16
_LOG_ABOVE_FILES = 20_000
"""Reading more files than this takes long enough to be logged."""
VALIDATION_NAMES = ("valid", "validation", "val", "dev")
"""What data sets call the split that is for tuning and curves."""

_ROLE_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys((*VALIDATION_NAMES, "development", "eval"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}


# ---------------------------------------------------------------------------------------------- folders and splits


def split_role(name: str) -> str:
    """`train`, `valid` or `test` for the usual names of splits, such as `Train`, `dev-clean`, `corpus.val.tok` and
    `test2016`; empty for any other. The first word of the name that says a role counts."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_ROLE_NAMES[word] for word in words if word in _ROLE_NAMES), "")


def splits_by_role(names: Iterable[str]) -> dict[str, list[str]]:
    """`train`, `valid`, `test` -> the names with that role, the plainest (shortest) first."""
    names = sorted(names, key=lambda name: (len(name), name))
    return {role: [name for name in names if split_role(name) == role] for role in ("train", "valid", "test")}


def data_folder(data_root: Path, path: str, name: str, contents: str) -> Path:
    """The folder of a data set: `path` (the key `data.path`), or else `name`, under the data root.

    `contents` says in a message what the folder should hold, e.g. `an ImageFolder tree`. Raises DataError if there is
    no such folder.
    """
    folder = data_root / (path or name)
    if not os.path.isdir(folder):
        file = "; a file has this name" if os.path.exists(folder) else ""
        raise DataError(
            f"No data folder {folder} for '{name}' (data.path under the data root{file}). Put {contents} there, set "
            "NOVOBENCH_DATA or data_root to another data root, or use data.source=hub."
        )
    return folder


def missing_split(where: str, split: str, splits: Sequence[str], remedy: str = "") -> DataError:
    """The error for a split that does not exist: which splits there are, and what to do.

    `where` is the folder or the corpus, `splits` are the splits that it has, and `remedy` is a sentence that names the
    keys to set.
    """
    hint = suggestion(split, list(splits))
    return DataError(f"{where} has no split '{split}'.{hint} It holds: {listed(splits)}. {remedy}".rstrip())


def split_key(data: Any, split: str, default: str) -> str:
    """The config key that names a split, e.g. `data.test_split`; `default` if no split key of the config `data` has
    this value."""
    keys = ("train_split", "search_split", "test_split")
    return next((f"data.{key}" for key in keys if getattr(data, key) == split), default)


def describe(data: Any, built_in: str) -> str:
    """A data set for messages, `data 'pets' (folder pets)`, from its config; `built_in` is the built-in source."""
    origin = "built in" if data.source == built_in else f"{data.source} {data.path or data.name}"
    return f"data '{data.name}' ({origin})"


def listed(names: Iterable[str]) -> str:
    """The first ten names with commas between and, if there are more, how many there are; `nothing` without names."""
    names = [printable(name) for name in names]
    return (", ".join(names[:10]) or "nothing") + (f", … ({len(names)} in all)" if len(names) > 10 else "")


def printable(name: str | Path) -> str:
    """A file name with escapes for bytes that are not UTF-8, which can be neither printed nor logged."""
    return os.fsencode(name).decode(errors="backslashreplace")


def list_folder(folder: Path) -> list[str]:
    """Names of the entries of a folder, sorted, without hidden ones; empty if the folder does not exist.

    Raises DataError if it cannot be listed.
    """
    with listing_errors(folder):
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
    return sorted(name for name in names if not name.startswith("."))


@contextmanager
def listing_errors(folder: Path) -> Iterator[None]:
    """Raise DataError, naming the folder, for whatever keeps the body from listing it."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        place = printable(getattr(error, "filename", None) or folder)
        reason = getattr(error, "strerror", None) or kind_and_message(error)
        raise DataError(f"Cannot list {place}: {reason}. Make the folder readable, or set data.path.") from None


# ---------------------------------------------------------------------------------------------- counts


class Count(NamedTuple):
    """How many items of a kind the data hold, and how many the config declares."""

    actual: int
    declared: int | list[int]
    items: str
    """What is counted: `train images`, `classes`."""
    proposed: int | list[int] | None = None
    """The value that the message proposes for the config; None: `actual`."""


def check_counts(data: str, counts: Mapping[str, Count], why: str = "") -> None:
    """Raise one DataError for all counts that differ from the config, with the options that make the config right.

    `data` describes the data set (see `describe`); `counts` has a count per config key, e.g. `data.train_size`; `why`
    is a sentence that explains a count.
    """
    wrong = {key: count for key, count in counts.items() if count.actual != count.declared}
    if not wrong:
        return
    differences = ", ".join(
        f"{count.actual} {count.items}, but {key} is {count.declared}" for key, count in wrong.items()
    )
    options = " ".join(
        f"{key}={count.actual if count.proposed is None else count.proposed}" for key, count in wrong.items()
    )
    raise DataError(f"{data} has {differences}. {f'{why} ' if why else ''}Complete the data, or add: --set {options}")


# ---------------------------------------------------------------------------------------------- files


_TRANSIENT = {
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EAGAIN", "EBUSY", "EINTR", "ETIMEDOUT", "ENOTCONN",
        "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH",
        "ENETRESET", "EREMOTEIO", "ENOLINK", "ECOMM", "EPROTO", "ESHUTDOWN",
    )
    if hasattr(errno, name)
}  # fmt: skip
"""Errors of a disk, a network or a machine, not of one file. They may pass, so they say nothing about the file."""


class UnreadableFile(Exception):
    """A path is no readable file. The message is the reason: missing, no permission, a folder, a pipe."""


@contextmanager
def open_file(path: Path) -> Iterator[BufferedReader]:
    """A regular file, open for reading.

    Raises UnreadableFile with the reason if `path` is no readable file. Raises DataError, naming the file, if the disk
    or the network fails, also while the body reads the file: that error may pass.
    """
    try:  # O_NONBLOCK: opening a pipe must not wait for its writer
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        if error.errno in _TRANSIENT:
            raise _read_failure(path, error) from error
        if isinstance(error, IsADirectoryError):
            raise UnreadableFile("it is a folder") from None
        if not isinstance(error, FileNotFoundError):
            raise UnreadableFile(error.strerror or type(error).__name__) from None
        broken_link = path.is_symlink()
        raise UnreadableFile(
            f"it is a link to {os.readlink(path)}, which is missing" if broken_link else "it is missing"
        ) from None
    except ValueError:  # a null character, or a character that the file system's encoding lacks
        raise UnreadableFile("no file can have this name") from None
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UnreadableFile("it is a pipe or a device, not a file")
        try:
            yield file
        except OSError as error:
            if error.errno in _TRANSIENT:
                raise _read_failure(path, error) from error
            raise


def _read_failure(path: Path, error: OSError) -> DataError:
    return DataError(
        f"Cannot read {path}: {error.strerror}. Check the disk, the network and the limits of this machine, then run "
        "the same command again."
    )


def unreadable_reason(path: Path) -> str:
    """Why `path` cannot be opened as a file; empty if it can. Raises DataError as `open_file` does."""
    try:
        with open_file(path):
            return ""
    except UnreadableFile as error:
        return str(error)


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, unchanged except that a byte-order mark at the start is removed.

    Only a newline ends a line: other Unicode separators occur inside sentences. Raises DataError that names the file
    and, where one line is at fault, the line.
    """
    try:
        with open_file(path) as file:
            content = file.read()
    except UnreadableFile as error:
        raise DataError(f"Cannot read {path}: {error}. Put the text there.") from None
    for start, program in _COMPRESSED.items():
        if content.startswith(start):
            raise DataError(f"{path} is compressed by {program}. Unpack it, and leave the text under this name.")
    # UTF-16 has its own mark, or else null bytes in half of the places of most texts.
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or content.count(0) > len(content) / 4:
        raise DataError(f"{path} is UTF-16, or not text at all. Convert it: iconv -f utf-16 -t utf-8 {path.name}.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]  # without the byte-order mark, unlike `content`
        raise DataError(
            f"{path} line {before.count(10) + 1} is not UTF-8 (byte 0x{error.object[error.start]:02x}). Convert the "
            f"file, e.g. iconv -f latin1 -t utf-8 {path.name}."
        ) from None
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh91AY&SY": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\3\4": "zip",
}
"""The first bytes of a compressed file -> the program that wrote it."""


# ---------------------------------------------------------------------------------------------- identity


def listing_key(paths: Sequence[Path]) -> str:
    """16 hex digits that change when a file is added, removed, renamed, replaced or written to; reads no content.

    Raises DataError if the disk or the network fails.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
            state = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        except OSError as error:
            if error.errno in _TRANSIENT:
                raise _read_failure(path, error) from error
            state = "missing"
        except ValueError:  # a name that no file can have
            state = "missing"
        digest.update(str(path).encode("utf-8", "surrogatepass") + f"\0{state}\n".encode())
    return digest.hexdigest()[:16]


def content_digests(paths: Sequence[Path]) -> np.ndarray:
    """BLAKE2b of each file's bytes, uint8 [n, 16]; zeros for a missing or unreadable file.

    Files are read once per machine: the cache keeps the digests until one of the files changes. Files that could not be
    read are tried again each time. Raises DataError if the disk or the network fails.
    """

    def build(folder: Path) -> None:
        if len(paths) > _LOG_ABOVE_FILES:
            log.info("Reading %d files once, to identify the data set by its content.", len(paths))
        with ThreadPoolExecutor(cores()) as pool:
            digests = b"".join(pool.map(_content_digest, paths))
        np.save(folder / "digests.npy", np.frombuffer(digests, dtype=np.uint8).reshape(-1, _DIGEST_BYTES))

    folder = derived_folder(f"contents/{listing_key(paths)}", build)
    digests = np.load(folder / "digests.npy")
    for index in np.flatnonzero(~digests.any(axis=1)).tolist():
        digests[index] = np.frombuffer(_content_digest(paths[index]), dtype=np.uint8)
    return digests


def _content_digest(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).digest()
    except UnreadableFile:
        return bytes(_DIGEST_BYTES)
    except OSError as error:
        raise _read_failure(path, error) from error


def cached_value(name: str, paths: Sequence[Path], compute: Callable[[], str]) -> str:
    """`compute()`, kept in the cache under `name` until one of the files `paths` changes."""
    folder = derived_folder(f"{name}-{listing_key(paths)}", lambda folder: write_text(folder / "value.txt", compute()))
    return (folder / "value.txt").read_text(encoding="utf-8")
