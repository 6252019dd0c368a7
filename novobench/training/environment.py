"""What a training runs on: library versions, hardware, and the code with its uncommitted changes."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from typing import Any

from novobench import hardware, requirements
from novobench.config import OptimizerConfig
from novobench.places import ROOT

_RESULT_PATHS = ("novobench", "configs", "experiments", "pyproject.toml", "constraints.txt")
"""Uncommitted changes in these make a result dirty; changes in results/ do not."""


def describe(optimizer: OptimizerConfig | None = None) -> dict[str, Any]:
    """The content of a run's `environment.json`: no host name or user. Packages are those that novobench declares and
    that are installed, with their versions. `optimizer_code` has the digests of optimizers named by their paths, if
    there are any."""
    code, dirty = code_version()
    named = {part.name: part.code for part in ((optimizer, optimizer.others) if optimizer else ()) if part.code}
    return {
        **({"optimizer_code": named} if named else {}),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": _packages(),
        "hardware": hardware.describe(),
        "code": code,
        "dirty": dirty,
    }


def code_version() -> tuple[str, bool]:
    """The commit, and whether anything that decides results differs from it.

    For a copy of the code without `.git`, $NOVOBENCH_CODE may hold both, in the format of
    `git describe --always --dirty --abbrev=12 --exclude '*'`. Otherwise it is the version of the package.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        if stated := os.environ.get("NOVOBENCH_CODE"):
            return stated.removesuffix("-dirty"), stated.endswith("-dirty")
        return f"novobench {requirements.installed_version('novobench') or 'unknown'}", False
    return commit[:12], bool(_git("status", "--porcelain", "--", *_RESULT_PATHS))


def changes() -> str:
    """The uncommitted diff of what decides results, with untracked files by name. Empty if there are no changes."""
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


def _packages() -> dict[str, str]:
    names: list[str] = []
    with suppress(requirements.UnknownRequirements):  # a bare copy of the code: nothing declares its packages
        names = [requirement.name for requirement in requirements.declared()]
    return {name: version for name in names if (version := requirements.installed_version(name))}
