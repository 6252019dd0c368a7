"""`novobench doctor`: what this machine has, and what would stop a run, each with its cure."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from novobench import hardware
from novobench.config import ROOT
from novobench.console import console
from novobench.suite.executors import visible_gpus

_NEEDED = (
    "torch",
    "torchaudio",
    "torchvision",
    "pytorch-lightning",
    "omegaconf",
    "datasets",
    "jiwer",
    "scikit-learn",
    "scipy",
    "soundfile",
    "timm",
    "matplotlib",
    "rich",
)
_OPTIONAL = ("espeakng-loader", "tensorboard", "wandb", "pytorch_optimizer")
_LEAST_FREE_GB = 2.0


def check() -> int:
    """Print one line a check; 1 if any of them would stop a run at laptop scale."""
    out = console()
    bad = 0
    for state, text in _checks():
        out.print(f"{state:<5} {text}")
        bad += state == "FAIL"
    out.print("All well." if not bad else f"{bad} problem(s) would stop a run.")
    return 1 if bad else 0


def _checks() -> Iterator[tuple[str, str]]:
    fits = sys.version_info >= (3, 11)
    yield (
        "ok" if fits else "FAIL",
        f"Python {platform.python_version()}" + ("" if fits else ": 3.11 or newer is needed"),
    )
    for name in _NEEDED + _OPTIONAL:
        yield _package(name, optional=name in _OPTIONAL)
    gpus = visible_gpus()
    accelerators = f"{len(gpus)} GPU(s)" if gpus else "no GPU: laptop scale alone makes sense here"
    yield "ok", f"{hardware.cores()} CPU cores; {accelerators}"
    if gpus:
        daemon = hardware.mps_daemon()
        yield (
            "ok" if daemon else "note",
            f"MPS daemon at {daemon}: cells on one GPU compute at once"
            if daemon
            else "no MPS daemon: cells on one GPU take turns. Start one with: nvidia-cuda-mps-control -d",
        )
    for folder in (ROOT / "runs", ROOT / "results"):
        yield _writable(folder)
    free = shutil.disk_usage(ROOT).free / 1e9
    yield ("ok" if free > _LEAST_FREE_GB else "FAIL", f"{free:.0f} GB free on the disk of this checkout")
    data = Path(os.environ.get("NOVOBENCH_DATA", ROOT / "data"))
    found = (
        "found" if data.is_dir() else "absent: only built-in corpora can be used. Set NOVOBENCH_DATA to your data sets"
    )
    yield ("ok" if data.is_dir() else "note", f"data folder {data} {found}")
    in_git = (ROOT / ".git").exists() and shutil.which("git") is not None
    yield (
        "ok" if in_git else "note",
        "git: " + ("records carry the commit" if in_git else "none; records name no commit"),
    )


def _package(name: str, *, optional: bool) -> tuple[str, str]:
    try:
        return "ok", f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return (
            ("note", f"{name} is not installed (optional)")
            if optional
            else ("FAIL", f"{name} is not installed. Run: make setup")
        )


def _writable(folder: Path) -> tuple[str, str]:
    probe = folder / ".probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        return "FAIL", f"cannot write into {folder}: {error.strerror}"
    return "ok", f"can write into {folder}"
