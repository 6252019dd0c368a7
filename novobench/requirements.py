"""The packages that novobench needs, from its own metadata, and whether they are installed.

Needs the standard library alone: `packaging`, which usually reads requirements, may itself be missing. Versions are
compared only if `packaging` or pip is installed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
"""Where it is in a checkout. An installed package has metadata instead."""

BASE, SUITE = "", "suite"
"""The extras that commands need: novobench itself, and everything that trains, evaluates and writes tables."""
_DEVELOPMENT = ("test", "lint")
"""Extras for work on novobench itself."""


class UnknownRequirements(Exception):
    """The requirements cannot be read; the message says why and what to do."""


@dataclass(frozen=True)
class Requirement:
    """One package."""

    name: str
    versions: str
    """The versions that fit, such as `>=2.4,<2.5`; empty if any does."""
    extra: str
    """The extra of novobench that asks for it; empty for novobench itself."""


def declared() -> list[Requirement]:
    """Every package of novobench's extras but those for development; `BASE` first, then `SUITE`.

    Read from the checkout's `pyproject.toml`, else from the metadata of the installed package. Raises
    UnknownRequirements if there is neither, or if `pyproject.toml` is damaged.
    """
    if (project := _checkout()) is not None:
        extras = {BASE: project.get("dependencies", []), **project.get("optional-dependencies", {})}
        return _sorted(_parse(text, extra) for extra, texts in extras.items() for text in texts)
    try:
        texts = importlib.metadata.requires("novobench") or []
    except importlib.metadata.PackageNotFoundError:
        raise UnknownRequirements(
            "The requirements of novobench are unknown: it has no installed metadata and no pyproject.toml. "
            f"Run: {install_command(SUITE)}"
        ) from None
    return _sorted(_parse(text, BASE) for text in texts)


def in_checkout() -> bool:
    """Whether novobench is imported from a checkout, directly or by an editable install."""
    with suppress(UnknownRequirements):
        return _checkout() is not None
    return True


def install_command(extra: str) -> str:
    """The command that installs novobench with an extra, from wherever this novobench was installed.

    No package index has novobench, so the command names the URL that pip recorded (PEP 610).
    """
    if in_checkout():
        return "make setup" if extra in (BASE, SUITE) else f"pip install -e '.[{extra}]'"
    url = _installed_from() or "git+<URL of its repository>"
    return f"pip install 'novobench{f'[{extra}]' if extra else ''} @ {url}'"


def installed_version(name: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(name) or None
    except importlib.metadata.PackageNotFoundError:
        return None


def problem(requirement: Requirement) -> str:
    """What is wrong with a package, as the end of a sentence; empty if it is installed and fits."""
    version = installed_version(requirement.name)
    if version is None:
        return "is not installed"
    missing = [name for name in _modules(requirement.name) if not _is_importable(name)]
    if missing:
        return f"{version} is installed, but its module {missing[0]} is missing"
    if not fits(version, requirement.versions):
        return f"{version} is installed, but {requirement.versions} is needed"
    return ""


def fits(version: str, specifier: str) -> bool:
    """Whether a version fits a specifier such as `>=2.4,<2.5`. True also if the two cannot be read or compared."""
    for package in ("packaging", "pip._vendor.packaging"):
        with suppress(ImportError):
            specifiers, versions = (importlib.import_module(f"{package}.{part}") for part in ("specifiers", "version"))
            with suppress(ValueError):  # not a version, or not a specifier
                return specifiers.SpecifierSet(specifier).contains(versions.Version(version), prereleases=True)
            return True
    return True


def _checkout() -> dict[str, Any] | None:
    """The `project` table of the checkout's `pyproject.toml`; None outside a checkout."""
    if not PYPROJECT.is_file():
        return None
    import tomllib

    try:
        project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError) as error:
        raise UnknownRequirements(f"{PYPROJECT} cannot be read: {error}. Restore it.") from error
    return project if project.get("name") == "novobench" else None


def _installed_from() -> str:
    """The URL that pip installed novobench from, as a requirement spells it; empty if it is not recorded."""
    try:
        text = importlib.metadata.distribution("novobench").read_text("direct_url.json")
        origin = json.loads(text or "{}")
        url, vcs = str(origin.get("url", "")), origin.get("vcs_info")
        local = url.startswith("file:")  # pip takes `git+file:///…` as an argument, but not in a requirement
        return f"{vcs['vcs']}+{url}@{vcs['commit_id']}" if vcs and not local else url
    except (importlib.metadata.PackageNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _sorted(requirements: Iterable[Requirement]) -> list[Requirement]:
    """Those that commands need first, without those for development."""
    return sorted(
        (each for each in requirements if each.extra not in _DEVELOPMENT),
        key=lambda each: (each.extra not in (BASE, SUITE), each.extra, each.name.lower()),
    )


def _parse(text: str, extra: str) -> Requirement:
    """Read `omegaconf>=2.4,<2.5; extra == "suite"`. Installed metadata names the extra in the marker."""
    requirement, _, marker = text.partition(";")
    marked = re.search(r"""\bextra\s*==\s*["']([^"']*)""", marker)
    parts = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*(.*)", requirement, re.DOTALL)
    name, versions = (parts[1], parts[2].strip(" ()")) if parts else (requirement, "")
    # any version fits a package that comes from a URL, `name @ https://…`
    return Requirement(name, "" if versions.startswith("@") else versions, marked[1] if marked else extra)


def _modules(name: str) -> list[str]:
    """The top-level packages that a distribution installs, as far as it lists its files."""
    files = importlib.metadata.distribution(name).files or []
    return sorted({file.parts[0] for file in files if len(file.parts) == 2 and file.parts[1] == "__init__.py"})


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
