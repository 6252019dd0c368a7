"""The packages that novobench needs, as `pyproject.toml` says, against those that are installed.

Needs the standard library alone: what usually reads requirements, `packaging`, may be among what is missing. Versions
are compared where it, or pip, is there.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from novobench import places
from novobench.errors import NovobenchError

REQUIRED_EXTRAS = ("", "suite")
"""The extras without which no command runs; "" stands for novobench itself."""
_DEVELOPMENT_EXTRAS = ("test", "lint")
"""Extras that are for work on novobench."""


@dataclass(frozen=True)
class Requirement:
    """`name` in one of `versions`, such as `>=2.4,<2.5`, for novobench's `extra` ("": for novobench itself)."""

    name: str
    versions: str
    extra: str


def declared() -> list[Requirement]:
    """All that novobench may need, from the checkout's `pyproject.toml`, else from what was installed with it.

    Raises NovobenchError where there is neither.
    """
    file = places.ROOT / "pyproject.toml"
    if file.is_file():
        import tomllib

        try:
            project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
        except (OSError, ValueError) as error:
            raise NovobenchError(f"{file} cannot be read: {error}. Restore it.") from error
        if project.get("name") == "novobench":
            extras = {"": project.get("dependencies", []), **project.get("optional-dependencies", {})}
            return _sorted(_read(text, extra) for extra, texts in extras.items() for text in texts)
    try:
        texts = importlib.metadata.requires("novobench") or []
    except importlib.metadata.PackageNotFoundError:
        raise NovobenchError(
            "novobench itself is not installed, and there is no pyproject.toml beside it: what it needs is unknown. "
            "Run: make setup, in its checkout."
        ) from None
    return _sorted(_read(text, "") for text in texts)


def _sorted(found: Iterable[Requirement]) -> list[Requirement]:
    """Those that runs need first; without those that only work on novobench needs."""
    return sorted(
        (each for each in found if each.extra not in _DEVELOPMENT_EXTRAS),
        key=lambda each: (each.extra not in REQUIRED_EXTRAS, each.extra, each.name.lower()),
    )


def _read(text: str, extra: str) -> Requirement:
    """`omegaconf>=2.4,<2.5; extra == "suite"`, in which the marker names the extra in what is installed."""
    needed, _, marker = text.partition(";")
    marked = re.search(r"""\bextra\s*==\s*["']([^"']*)""", marker)
    read = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*(.*)", needed, re.DOTALL)
    name, versions = (read[1], read[2].strip(" ()")) if read else (needed, "")
    # of a package that is taken from an address, `name @ https://…`, any version fits
    return Requirement(name, "" if versions.startswith("@") else versions, marked[1] if marked else extra)


def installed_version(name: str) -> str | None:
    """The version of a package that is installed; None if it is not."""
    try:
        return importlib.metadata.version(name) or None
    except importlib.metadata.PackageNotFoundError:
        return None


def problem(requirement: Requirement) -> str:
    """What is wrong with a package, as the end of a sentence; empty if it is there and fits."""
    version = installed_version(requirement.name)
    if version is None:
        return "is not installed"
    gone = [name for name in _modules(requirement.name) if not _found(name)]
    if gone:
        return f"{version} is installed, but its module {gone[0]} is not there"
    if not fits(version, requirement.versions):
        return f"{version} is installed, but {requirement.versions} is needed"
    return ""


def _modules(name: str) -> list[str]:
    """The top-level packages that a distribution brings, as far as it lists its files."""
    files = importlib.metadata.distribution(name).files or []
    return sorted({file.parts[0] for file in files if len(file.parts) == 2 and file.parts[1] == "__init__.py"})


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def fits(version: str, wanted: str) -> bool:
    """Whether a version is in what is wanted, such as `>=2.4,<2.5`. One that cannot be read or compared fits."""
    for home in ("packaging", "pip._vendor.packaging"):
        with suppress(ImportError):
            specifiers, versions = (importlib.import_module(f"{home}.{part}") for part in ("specifiers", "version"))
            with suppress(ValueError):  # what is no version, and what is no condition on one
                return specifiers.SpecifierSet(wanted).contains(versions.Version(version), prereleases=True)
            return True
    return True
