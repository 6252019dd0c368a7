"""The archive that carries results to the next machine."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gpu_proof import places

TAR_BYTES = 16 * 2**20 - 1
LOG_BYTES = 2**16
"""Longest log in the tar: a quarter of this from its start, the remainder from its end."""
PREDICTIONS = 20
"""Predictions per split in a tar that would otherwise be too large: the number in results/<scale>/examples.json."""


def pack(scale: str, target: Path) -> None:
    """Write the tar atomically. Predictions are cut and logs dropped until it is small enough."""
    for predictions, logs in ((None, True), (PREDICTIONS, True), (PREDICTIONS, False)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as tar:
            for path in files_to_pack(scale, logs):
                content = shortened(path, predictions)
                member = tarfile.TarInfo(path.relative_to(places.ROOT).as_posix())
                member.size, member.mtime = len(content), int(path.stat().st_mtime)
                tar.addfile(member, io.BytesIO(content))
        if buffer.tell() <= TAR_BYTES:
            places.write(target, buffer.getvalue())
            return
    print(f"{target}: not written. Its {buffer.tell():,} bytes exceed {TAR_BYTES:,}.", flush=True)


def files_to_pack(scale: str, logs: bool) -> Iterator[Path]:
    """The files of the tar. A cell without a record starts again on the next machine, so only its log is included."""
    results, runs = places.ROOT / "results" / scale, places.ROOT / "runs" / scale
    yield from sorted(path for path in results.rglob("*") if path.is_file() and path.name != places.TAR)
    of_a_process = ("lock", "heartbeat.json")
    for cell in sorted(path for path in runs.glob("*") if path.is_dir()):
        finished = (cell / "record.json").exists()
        for path in sorted(path for path in cell.iterdir() if path.is_file() and path.name not in of_a_process):
            if (finished or path.name in ("log.txt", "failure.json")) and (logs or path.name != "log.txt"):
                yield path
    if logs:
        yield from sorted(places.LOGS.glob("*.log"))


def shortened(path: Path, predictions: int | None) -> bytes:
    """The content of a file: both ends of a log, the first lines of predictions."""
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
    """Unpack an earlier tar. A tar that would write anywhere else is rejected as a whole."""
    try:
        with tarfile.open(source) as tar:
            members = tar.getmembers()
            allowed = [("results", scale), ("runs", scale), ("runs", places.LOGS.name)]
            for member in members:
                parts = PurePosixPath(member.name).parts
                if not member.isreg() or ".." in parts or parts[:2] not in allowed:
                    raise places.CannotRun(
                        f"{source} was not written by this script: it holds {member.name}. Nothing was unpacked."
                    )
            tar.extractall(places.ROOT, members, filter="data")
    except (OSError, tarfile.TarError) as error:
        reason = str(error).splitlines()[0]
        raise places.CannotRun(
            f"--resume {source}: {reason}. Give a {places.TAR} that an earlier call wrote."
        ) from error
