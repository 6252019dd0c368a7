"""What data sources share: the identity of files, by their content, and counts that are as the config says."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from novobench.errors import DataError
from novobench.files import derived_folder
from novobench.hardware import cores

log = logging.getLogger(__name__)

_DIGEST_BYTES = 16
_TOLD_ABOVE = 20_000
"""Files from which on reading them all takes long enough to be logged."""


class Count(NamedTuple):
    """How many of something the data hold, and how many the config says."""

    found: int
    declared: int
    what: str
    """`train images`, `classes`."""
    proposed: int | None = None
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


def listing_key(paths: Sequence[Path]) -> str:
    """16 hex digits that change when a file is added, removed, renamed, replaced or written to; reads no content."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            about = path.stat()
            state = f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"
        except OSError:
            state = "missing"
        digest.update(os.fsencode(path) + f"\0{state}\n".encode())
    return digest.hexdigest()[:16]


def content_digests(paths: Sequence[Path]) -> np.ndarray:
    """BLAKE2b of each file's bytes, uint8 [n, 16]; zeros for a file that cannot be read.

    All files are read once a machine: the digests are kept in the cache until one of the files changes.
    """

    def build(folder: Path) -> None:
        if len(paths) > _TOLD_ABOVE:
            log.info("Reading %d files once, to know the data set by its content.", len(paths))
        with ThreadPoolExecutor(cores()) as pool:
            digests = b"".join(pool.map(_content_digest, paths))
        np.save(folder / "digests.npy", np.frombuffer(digests, dtype=np.uint8).reshape(-1, _DIGEST_BYTES))

    folder = derived_folder(f"contents/{listing_key(paths)}", build)
    return np.load(folder / "digests.npy")


def _content_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).digest()
    except OSError:
        return bytes(_DIGEST_BYTES)
