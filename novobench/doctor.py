"""`novobench doctor`: what this machine has, and what would stop a command, each with its remedy.

People run it when something is missing, so it needs the standard library alone.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from novobench import hardware, places, requirements
from novobench.console import counted
from novobench.errors import NovobenchError, one_line
from novobench.requirements import BASE, SUITE

_MIN_FREE_GB = 2.0
_MIN_OPEN_FILES = 1024
_MIN_SHARED_MB = 256

Check = tuple[str, str]
"""`ok`, `note` or `FAIL`, and one line."""


def check() -> int:
    """Print one line per check and a verdict; 1 if a check failed.

    A failed check would stop a run at laptop scale. The base install, which is `novobench.optim` alone, has nothing to
    run: it passes without the packages of the suite.
    """
    failures = 0
    for state, text in _checks():
        print(f"{state:<5} {one_line(text)}", flush=True)
        failures += state == "FAIL"
    if failures:
        print(f"{counted(failures, 'problem')} would stop a run.")
    elif _is_base_install():
        print(f"novobench.optim is ready. To run experiments, install the suite: {requirements.install_command(SUITE)}")
    else:
        print("All well.")
    return 1 if failures else 0


def _checks() -> Iterator[Check]:
    supported = sys.version_info >= (3, 11)
    yield (
        "ok" if supported else "FAIL",
        f"Python {platform.python_version()}" + ("" if supported else ": 3.11 or newer is needed"),
    )
    yield from _packages()
    yield from _devices()
    yield from _folders()
    yield from _limits()
    in_git = (places.ROOT / ".git").exists() and shutil.which("git") is not None
    yield (
        "ok" if in_git else "note",
        "git: " + ("records name the commit" if in_git else "not a clone; records name novobench's version instead"),
    )


def _is_base_install() -> bool:
    """Whether novobench was installed without its suite on purpose.

    pip does not record the extras that a user asked for. An install counts as a base install if fewer than half of the
    suite's packages are present: torch and other programs need some of them, too.
    """
    try:
        suite = [each for each in requirements.declared() if each.extra == SUITE]
    except requirements.UnknownRequirements:
        return False
    return 2 * sum(requirements.installed_version(each.name) is not None for each in suite) < len(suite)


def _packages() -> Iterator[Check]:
    """Whether each package is installed, complete, and of a version that fits."""
    try:
        packages = requirements.declared()
    except requirements.UnknownRequirements as error:
        yield "FAIL", str(error)
        return
    problems = {package: requirements.problem(package) for package in packages}
    suite = [package for package in packages if package.extra == SUITE]
    if _is_base_install():
        packages = [package for package in packages if package not in suite]
        missing = [package.name for package in suite if problems[package]]
        yield "note", f"suite not installed; {len(missing)} of its {len(suite)} packages missing: {', '.join(missing)}"
    for package in packages:
        if not problems[package]:
            yield "ok", f"{package.name} {requirements.installed_version(package.name)}"
            continue
        command = requirements.install_command(package.extra)
        if package.extra in (BASE, SUITE):
            yield "FAIL", f"{package.name} {problems[package]}. Run: {command}"
        else:
            yield "note", f"{package.name} {problems[package]} (optional). Run: {command}"


def _devices() -> Iterator[Check]:
    gpus = hardware.visible_gpus()
    accelerators = f"{len(gpus)} GPU(s)" if gpus else "no GPU: use laptop scale"
    yield "ok", f"{hardware.cores()} CPU cores; {accelerators}"
    if gpus:
        daemon = hardware.mps_pipe_folder()
        yield (
            "ok" if daemon else "note",
            f"MPS daemon at {daemon}: cells on one GPU run at the same time"
            if daemon
            else "no MPS daemon: cells on one GPU take turns. Start one with: nvidia-cuda-mps-control -d",
        )


def _folders() -> Iterator[Check]:
    workspace = places.workspace()
    if not workspace.experiment_files():
        yield (
            "FAIL",
            f"no experiments in {workspace.root}, and none came with novobench. Install it again",
        )
    for folder in (workspace.root / "runs", workspace.root / "results"):
        yield _writable(folder)
    try:
        cache = places.cache_root()
    except NovobenchError as error:
        yield "FAIL", str(error)
    else:
        yield _writable(cache, f" Set {places.CACHE} to a writable folder.")
    yield _temporary()
    try:
        data = places.data_root()
    except NovobenchError as error:
        yield "FAIL", str(error)
        return
    absent = f"does not exist: only built-in data sets can be used. Set {places.DATA} to the folder of your data sets"
    readable = data.is_dir() and os.access(data, os.R_OK | os.X_OK)
    state = "is readable" if readable else "is not readable" if data.is_dir() else absent
    yield ("ok" if readable else "note", f"data folder {data} {state}")


def _writable(folder: Path, remedy: str = "") -> Check:
    existed = folder.exists()
    try:
        places.check_writable(folder)
        free_gb = shutil.disk_usage(folder).free / 1e9
        locks = places.supports_locks(folder)
    except OSError as error:
        return "FAIL", f"{folder} is not writable: {error.strerror}.{remedy}"
    finally:
        if not existed:  # a check leaves no trace
            with suppress(OSError):
                folder.rmdir()
    if free_gb < _MIN_FREE_GB:
        return "FAIL", f"{free_gb:.1f} GB free on the disk of {folder}; at least {_MIN_FREE_GB:g} GB are needed"
    if not locks:
        return "note", f"{folder} is writable ({free_gb:.0f} GB free) but has no file locks: run one command at a time"
    return "ok", f"{folder} is writable ({free_gb:.0f} GB free)"


def _temporary() -> Check:
    variable = os.environ.get("TMPDIR", "")
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        return "FAIL", f"no folder for temporary files: {error.strerror}. Set TMPDIR to a writable folder"
    if variable and os.path.abspath(variable) != os.path.abspath(folder):
        return "note", f"TMPDIR is {variable}, which is not writable; temporary files go to {folder}"
    return "ok", f"temporary files go to {folder}"


def _limits() -> Iterator[Check]:
    """The limits that the system sets for a process, if they are low."""
    try:
        import resource

        open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if 0 <= open_files < _MIN_OPEN_FILES:  # RLIM_INFINITY is -1
            yield "note", f"limit of {open_files} open files; several cells at a time may need more: ulimit -n 4096"
    except ImportError:  # Windows
        pass
    shared = Path("/dev/shm")
    if shared.is_dir():
        size_mb = shutil.disk_usage(shared).total / 1e6
        if size_mb < _MIN_SHARED_MB:
            yield (
                "note",
                f"/dev/shm has {size_mb:.0f} MB, which is little for data-loader workers (runtime.workers). In a "
                "container: docker run --shm-size=2g",
            )
