"""`novobench doctor`: what this machine has, and what would stop a run, each with its cure.

It is asked when something is missing, so it needs the standard library alone.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from novobench import hardware, places, requirements
from novobench.errors import NovobenchError, one_line

_LEAST_FREE_GB = 2.0
_LEAST_OPEN_FILES = 1024
_LEAST_SHARED_MB = 256


def check() -> int:
    """Print one line a check; 1 if any of them would stop a run at laptop scale."""
    bad = 0
    for state, text in _checks():
        print(f"{state:<5} {one_line(text)}", flush=True)
        bad += state == "FAIL"
    print("All well." if not bad else f"{bad} problem(s) would stop a run.")
    return 1 if bad else 0


def _checks() -> Iterator[tuple[str, str]]:
    fits = sys.version_info >= (3, 11)
    yield (
        "ok" if fits else "FAIL",
        f"Python {platform.python_version()}" + ("" if fits else ": 3.11 or newer is needed"),
    )
    yield from _packages()
    yield from _devices()
    yield from _folders()
    yield from _limits()
    in_git = (places.ROOT / ".git").exists() and shutil.which("git") is not None
    yield (
        "ok" if in_git else "note",
        "git: " + ("records carry the commit" if in_git else "none; records name no commit"),
    )


def _packages() -> Iterator[tuple[str, str]]:
    """Each package of `pyproject.toml`: there, complete, and of a version that fits."""
    try:
        needed = requirements.declared()
    except NovobenchError as error:
        yield "FAIL", str(error)
        return
    for requirement in needed:
        problem = requirements.problem(requirement)
        if not problem:
            yield "ok", f"{requirement.name} {requirements.installed_version(requirement.name) or ''}".rstrip()
        elif requirement.extra in requirements.REQUIRED_EXTRAS:
            yield "FAIL", f"{requirement.name} {problem}. Run: make setup"
        else:
            yield "note", f"{requirement.name} {problem} (optional). Run: pip install 'novobench[{requirement.extra}]'"


def _devices() -> Iterator[tuple[str, str]]:
    gpus = hardware.visible_gpus()
    accelerators = f"{len(gpus)} GPU(s)" if gpus else "no GPU: laptop scale alone makes sense here"
    yield "ok", f"{hardware.cores()} CPU cores; {accelerators}"
    if gpus:
        daemon = hardware.mps_pipe_folder()
        yield (
            "ok" if daemon else "note",
            f"MPS daemon at {daemon}: cells on one GPU compute at once"
            if daemon
            else "no MPS daemon: cells on one GPU take turns. Start one with: nvidia-cuda-mps-control -d",
        )


def _folders() -> Iterator[tuple[str, str]]:
    try:
        places.require_checkout()
    except NovobenchError as error:
        yield "FAIL", str(error)
    for folder in (places.workspace().root / "runs", places.workspace().root / "results"):
        yield _writable(folder)
    try:
        cache = places.cache_root()
    except NovobenchError as error:
        yield "FAIL", str(error)
    else:
        yield _writable(cache, f" Set {places.CACHE} to a folder that can be written.")
    yield _temporary()
    try:
        data = places.data_root()
    except NovobenchError as error:
        yield "FAIL", str(error)
        return
    absent = f"absent: only built-in corpora can be used. Set {places.DATA} to your data sets"
    readable = data.is_dir() and os.access(data, os.R_OK | os.X_OK)
    found = "found" if readable else "cannot be read" if data.is_dir() else absent
    yield ("ok" if readable else "note", f"data folder {data} {found}")


def _writable(folder: Path, cure: str = "") -> tuple[str, str]:
    try:
        places.check_writable(folder)
        free = shutil.disk_usage(folder).free / 1e9
    except OSError as error:
        return "FAIL", f"cannot write into {folder}: {error.strerror}.{cure}"
    if free < _LEAST_FREE_GB:
        return "FAIL", f"{free:.1f} GB free on the disk of {folder}; {_LEAST_FREE_GB:g} GB are the least"
    if not places.supports_locks(folder):
        return "note", f"can write into {folder} ({free:.0f} GB free), but not lock: run one command at a time"
    return "ok", f"can write into {folder} ({free:.0f} GB free)"


def _temporary() -> tuple[str, str]:
    given = os.environ.get("TMPDIR", "")
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        return "FAIL", f"no folder for temporary files: {error.strerror}. Set TMPDIR to one that can be written"
    if given and os.path.abspath(given) != os.path.abspath(folder):
        return "note", f"TMPDIR is {given}, where no file can be made; temporary files go to {folder}"
    return "ok", f"temporary files go to {folder}"


def _limits() -> Iterator[tuple[str, str]]:
    """What the system allows a process, where it is little."""
    try:
        import resource

        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if 0 <= files < _LEAST_OPEN_FILES:  # RLIM_INFINITY is -1
            yield "note", f"{files} open files are allowed; several cells at a time may need more: ulimit -n 4096"
    except ImportError:  # Windows
        pass
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total / 1e6
        if size < _LEAST_SHARED_MB:
            yield (
                "note",
                f"/dev/shm has {size:.0f} MB: little for data-loader workers (runtime.workers). In a container: "
                "docker run --shm-size=2g",
            )
