"""What a training ran on: library versions, hardware, the code and whether it was changed."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

from novobench import hardware
from novobench.places import ROOT

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
        "hardware": hardware.describe(),
        "code": code,
        "dirty": dirty,
    }


def code_version() -> tuple[str, bool]:
    """The commit, and whether anything that decides results differs from it.

    Where a copy of the code came without its `.git`, $NOVOBENCH_CODE says so instead, in the words of
    `git describe --always --dirty --abbrev=12 --exclude '*'`.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        if stated := os.environ.get("NOVOBENCH_CODE"):
            return stated.removesuffix("-dirty"), stated.endswith("-dirty")
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
