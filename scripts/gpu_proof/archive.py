"""The one file that carries everything to the next machine."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gpu_proof import places

TAR_BYTES = 16 * 2**20 - 1
LOG_BYTES = 2**16
"""Of a log: a quarter from its start, the rest from its end."""
PREDICTIONS = 20
"""Kept of each split if the tar would be too large: as many as results/<scale>/examples.json shows."""


def pack(scale: str, target: Path) -> None:
    """Write the tar, whole or not at all; the larger things are cut short until it is small enough."""
    for predictions, logs in ((None, True), (PREDICTIONS, True), (PREDICTIONS, False)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as tar:
            for path in kept(scale, logs):
                content = shortened(path, predictions)
                member = tarfile.TarInfo(path.relative_to(places.ROOT).as_posix())
                member.size, member.mtime = len(content), int(path.stat().st_mtime)
                tar.addfile(member, io.BytesIO(content))
        if buffer.tell() <= TAR_BYTES:
            places.write(target, buffer.getvalue())
            return
    print(f"{target}: not written, {buffer.tell():,} bytes are more than {TAR_BYTES:,}.", flush=True)


def kept(scale: str, logs: bool) -> Iterator[Path]:
    """The files that belong into the tar. A cell without a record starts anew elsewhere: only its log goes along."""
    results, runs = places.ROOT / "results" / scale, places.ROOT / "runs" / scale
    yield from sorted(path for path in results.rglob("*") if path.is_file() and path.name != places.TAR)
    idle = ("lock", "heartbeat.json")  # of a process at work
    for cell in sorted(path for path in runs.glob("*") if path.is_dir()):
        finished = (cell / "record.json").exists()
        for path in sorted(path for path in cell.iterdir() if path.is_file() and path.name not in idle):
            if (finished or path.name in ("log.txt", "failure.json")) and (logs or path.name != "log.txt"):
                yield path
    if logs:
        yield from sorted(places.LOGS.glob("*.log"))


def shortened(path: Path, predictions: int | None) -> bytes:
    """A file's content; of a log both ends, of predictions the first ones."""
    content = path.read_bytes()
    if path.name == "log.txt" or path.suffix == ".log":
        first = LOG_BYTES // 4
        if len(content) > LOG_BYTES:
            return content[:first] + b"\n[...]\n" + content[first - LOG_BYTES :]
    elif predictions is not None and path.name.startswith("predictions-"):
        lines = gzip.decompress(content).splitlines(keepends=True)[:predictions]
        return gzip.compress(b"".join(lines), mtime=0)
    return content


def unpack(source: Path, scale: str) -> None:
    """Put the files of an earlier tar in place. One that would write anywhere else is refused as a whole."""
    try:
        with tarfile.open(source) as tar:
            members = tar.getmembers()
            allowed = [("results", scale), ("runs", scale), ("runs", places.LOGS.name)]
            for member in members:
                parts = PurePosixPath(member.name).parts
                if not member.isreg() or ".." in parts or parts[:2] not in allowed:
                    raise places.CannotRun(
                        f"{source} is no tar of this script: it holds {member.name}. Nothing was unpacked."
                    )
            tar.extractall(places.ROOT, members, filter="data")
    except (OSError, tarfile.TarError) as error:
        reason = str(error).splitlines()[0]
        raise places.CannotRun(
            f"--resume {source}: {reason}. Give a {places.TAR} that an earlier call wrote."
        ) from error
