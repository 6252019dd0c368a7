"""What a training ran on: library versions, hardware, the code and whether it was changed."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from novobench.config import ROOT

_PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "numpy",
    "scipy",
    "scikit-learn",
    "timm",
    "datasets",
    "omegaconf",
    "transformers",
    "sentencepiece",
    "sacrebleu",
    "num2words",
)
_RESULT_PATHS = ("novobench", "configs", "experiments", "pyproject.toml", "constraints.txt")
"""Uncommitted changes here make a result dirty; changes in results/ do not."""


def describe() -> dict[str, Any]:
    """The content of a run's `environment.json`. Holds no host name, user or path."""
    code, dirty = code_version()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "hardware": hardware(),
        "code": code,
        "dirty": dirty,
    }


def hardware() -> str:
    """One phrase for the machine: its GPUs, else its processor and the cores this process may use."""
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return f"{count} × {torch.cuda.get_device_name(0)}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {cores} cores"


def code_version() -> tuple[str, bool]:
    """The commit, and whether anything that decides results differs from it."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return f"novobench {_version('novobench') or 'unknown'}", False
    return commit[:12], bool(_git("status", "--porcelain", "--", *_RESULT_PATHS))


def changes() -> str:
    """The uncommitted diff of what decides results, untracked files by name; empty if clean."""
    diff = _git("diff", "HEAD", "--", *_RESULT_PATHS) or ""
    untracked = _git("ls-files", "--others", "--exclude-standard", "--", *_RESULT_PATHS) or ""
    return diff + "".join(f"untracked: {name}\n" for name in untracked.splitlines())


def _git(*words: str) -> str | None:
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@lru_cache
def processor() -> str:
    """The CPU's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
