"""What data sources share: text files, data known by their content, and counts that are as the config says."""

from __future__ import annotations

import codecs
import errno
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np

from novobench.errors import DataError
from novobench.files import derived_folder, write_text
from novobench.hardware import cores

log = logging.getLogger(__name__)

_DIGEST_BYTES = 16
_TOLD_ABOVE = 20_000
"""Files from which on reading them all takes long enough to be logged."""


class Count(NamedTuple):
    """How many of something the data hold, and how many the config says."""

    found: int
    declared: int | list[int]
    what: str
    """`train images`, `classes`."""
    proposed: int | list[int] | None = None
    """What the config should say instead, if not what is found."""


def check_counts(data: str, counts: Mapping[str, Count], why: str = "") -> None:
    """Raise one DataError for all the counts that are not as the config says, with the options that would make it so.

    `data` says which data, e.g. `data 'pets' (folder pets)`; `counts` go by config key, e.g. `data.train_size`; `why`
    is a sentence for a count that needs a reason.
    """
    wrong = {key: count for key, count in counts.items() if count.found != count.declared}
    if not wrong:
        return
    listed = ", ".join(f"{count.found} {count.what}, but {key} is {count.declared}" for key, count in wrong.items())
    options = " ".join(
        f"{key}={count.found if count.proposed is None else count.proposed}" for key, count in wrong.items()
    )
    raise DataError(f"{data} has {listed}. {f'{why} ' if why else ''}Complete the data, or add: --set {options}")


_PASSING = {
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EAGAIN", "EBUSY", "EINTR", "ETIMEDOUT", "ENOTCONN",
        "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH",
        "ENETRESET", "EREMOTEIO", "ENOLINK", "ECOMM", "EPROTO", "ESHUTDOWN",
    )
    if hasattr(errno, name)
}  # fmt: skip
"""Trouble of a disk, a network or a machine, not of one file: it may pass, so nothing may be concluded from it."""


class NoFile(Exception):
    """There is no file that can be read in a place, with the reason: nothing, no permission, a folder, a pipe."""


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """An ordinary file, open for reading.

    Raises NoFile with the reason if there is none, and DataError, naming the file, if the disk or the network fails,
    also while the file is read: that may pass.
    """
    try:  # a pipe is not waited for
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        if error.errno in _PASSING:
            raise DataError(_failing(path, error)) from error
        if isinstance(error, IsADirectoryError):
            raise NoFile("it is a folder") from None
        if not isinstance(error, FileNotFoundError):
            raise NoFile(error.strerror or type(error).__name__) from None
        gone = f"it is a link to {os.readlink(path)}, which is missing" if path.is_symlink() else "it is missing"
        raise NoFile(gone) from None
    except ValueError:  # a null character, or one that the file system's encoding lacks
        raise NoFile("no file can have this name") from None
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NoFile("it is a pipe or a device, not a file")
        try:
            yield file
        except OSError as error:
            if error.errno in _PASSING:
                raise DataError(_failing(path, error)) from error
            raise


def _failing(path: Path, error: OSError) -> str:
    return (
        f"Cannot read {path}: {error.strerror}. Check the disk, the network and the limits of this machine, then run "
        "the same command again."
    )


def listing_key(paths: Sequence[Path]) -> str:
    """16 hex digits that change when a file is added, removed, renamed, replaced or written to; reads no content.

    Raises DataError where the disk or the network fails.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            about = path.stat()
            state = f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"
        except OSError as error:
            if error.errno in _PASSING:
                raise DataError(_failing(path, error)) from error
            state = "missing"
        except ValueError:  # a name that no file can have
            state = "missing"
        digest.update(str(path).encode("utf-8", "surrogatepass") + f"\0{state}\n".encode())
    return digest.hexdigest()[:16]


def content_digests(paths: Sequence[Path]) -> np.ndarray:
    """BLAKE2b of each file's bytes, uint8 [n, 16]; zeros for a file that is missing or not readable.

    All files are read once a machine: the digests are kept in the cache until one of the files changes. What could not
    be read is tried again each time. Raises DataError where the disk or the network fails.
    """

    def build(folder: Path) -> None:
        if len(paths) > _TOLD_ABOVE:
            log.info("Reading %d files once, to know the data set by its content.", len(paths))
        with ThreadPoolExecutor(cores()) as pool:
            digests = b"".join(pool.map(_content_digest, paths))
        np.save(folder / "digests.npy", np.frombuffer(digests, dtype=np.uint8).reshape(-1, _DIGEST_BYTES))

    folder = derived_folder(f"contents/{listing_key(paths)}", build)
    digests = np.load(folder / "digests.npy")
    for place in np.flatnonzero(~digests.any(axis=1)).tolist():
        digests[place] = np.frombuffer(_content_digest(paths[place]), dtype=np.uint8)
    return digests


def _content_digest(path: Path) -> bytes:
    try:
        with opened(path) as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).digest()
    except NoFile:
        return bytes(_DIGEST_BYTES)
    except OSError as error:
        raise DataError(_failing(path, error)) from error


def remembered(name: str, paths: Sequence[Path], compute: Callable[[], str]) -> str:
    """`compute()`, kept in the cache under `name` until one of the files that it reads changes."""
    folder = derived_folder(f"{name}-{listing_key(paths)}", lambda folder: write_text(folder / "value.txt", compute()))
    return (folder / "value.txt").read_text(encoding="utf-8")


def why_no_file(path: Path) -> str:
    """Why `path` cannot be opened as a file; empty if it can. Raises DataError as `opened` does."""
    try:
        with opened(path):
            return ""
    except NoFile as error:
        return str(error)


def names_in(folder: Path) -> list[str]:
    """Names of what lies in a folder, sorted, without hidden ones; none if there is no such folder. Raises DataError if
    it cannot be listed."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"Cannot look into the folder {folder}: {reason}. Set data.path or its rights.") from None


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text without the byte-order mark that some editors put first, and otherwise as they stand.

    Only a newline ends a line: other separators of Unicode occur inside sentences. Raises DataError, naming the file
    and, where there is one, the line.
    """
    try:
        with opened(path) as file:
            content = file.read()
    except NoFile as error:
        raise DataError(f"Cannot read {path}: {error}. Put the text there.") from None
    for start, program in _PACKED.items():
        if content.startswith(start):
            raise DataError(f"{path} is packed by {program}. Unpack it, and leave the text under this name.")
    # UTF-16 is known by its mark, or else by the null bytes that are half of most texts.
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or content.count(0) > len(content) / 4:
        raise DataError(f"{path} is UTF-16, or no text at all. Convert it: iconv -f utf-16 -t utf-8 {path.name}.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]  # without the mark, unlike `content`
        raise DataError(
            f"{path} line {before.count(10) + 1} is not UTF-8 (byte 0x{error.object[error.start]:02x}). Convert the "
            f"file, e.g. iconv -f latin1 -t utf-8 {path.name}."
        ) from None
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh91AY&SY": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\3\4": "zip",
}
"""How files begin that were not unpacked."""
