"""The packages that novobench needs, as `pyproject.toml` says, against those that are installed.

Needs the standard library alone: what reads requirements usually, `packaging`, may be among what is missing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass

from novobench import places
from novobench.errors import NovobenchError

NEEDED = ("", "suite")
"""The extras without which no command runs; "" stands for novobench itself."""
_UNASKED = ("test", "lint")
"""Extras that are for work on novobench."""


@dataclass(frozen=True)
class Requirement:
    """`name` in one of `versions`, such as `>=2.4,<2.5`, for novobench's `extra` ("": for novobench itself)."""

    name: str
    versions: str
    extra: str


def of_novobench() -> list[Requirement]:
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
        (each for each in found if each.extra not in _UNASKED),
        key=lambda each: (each.extra not in NEEDED, each.extra, each.name.lower()),
    )


def _read(text: str, extra: str) -> Requirement:
    """`omegaconf>=2.4,<2.5; extra == "suite"`, in which the marker names the extra in what is installed."""
    needed, _, marker = text.partition(";")
    marked = re.search(r"""\bextra\s*==\s*["']([^"']*)""", marker)
    read = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*(.*)", needed, re.DOTALL)
    name, versions = (read[1], read[2].strip(" ()")) if read else (needed, "")
    # of a package that is taken from an address, `name @ https://…`, any version fits
    return Requirement(name, "" if versions.startswith("@") else versions, marked[1] if marked else extra)


def installed(name: str) -> str | None:
    """The version of a package that is installed; None if it is not."""
    try:
        return importlib.metadata.version(name) or None
    except importlib.metadata.PackageNotFoundError:
        return None


def problem(requirement: Requirement) -> str:
    """What is wrong with a package, as the end of a sentence; empty if it is there and fits."""
    version = installed(requirement.name)
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


# -------------------------------------------------------------------------------------------------- versions


def fits(version: str, wanted: str) -> bool:
    """Whether a version lies in what is wanted, such as `>=2.4,<2.5` (PEP 440). One that cannot be read fits."""
    return all(_fits(version.strip(), clause.strip()) for clause in wanted.split(",") if clause.strip())


_PRE = {"dev": -4, "a": -3, "alpha": -3, "b": -2, "beta": -2, "c": -1, "rc": -1, "pre": -1, "preview": -1}
_VERSION = re.compile(
    r"v?(?:(\d+)!)?(\d+(?:\.\d+)*)(?:[-_.]?(a|alpha|b|beta|c|rc|pre|preview)[-_.]?(\d*))?"
    r"(?:[-_.]?(post|rev|r)[-_.]?(\d*)|-(\d+))?(?:[-_.]?(dev)[-_.]?(\d*))?(?:\+.*)?",
    re.IGNORECASE | re.ASCII,
)
_Key = tuple[int, tuple[int, ...], int, int, int, int, int]


def _key(version: str) -> _Key | None:
    """What orders versions: 2.4.dev1 < 2.4a1 < 2.4rc1 < 2.4 = 2.4.0 = 2.4+cpu < 2.4.post1 < 2.4.1."""
    found = _VERSION.fullmatch(version)
    if not found:
        return None
    epoch, numbers, pre, pre_number, post, post_number, bare_post, dev, dev_number = found.groups()
    release = tuple(int(part) for part in numbers.split("."))
    while len(release) > 1 and release[-1] == 0:
        release = release[:-1]
    after = int(post_number or bare_post or 0) if post or bare_post else -1
    stage = _PRE[pre.lower()] if pre else _PRE["dev"] if dev and after < 0 else 0
    unfinished = (-1, int(dev_number or 0)) if dev else (0, 0)
    return int(epoch or 0), release, stage, int(pre_number or 0), after, *unfinished


def _fits(version: str, clause: str) -> bool:
    operator, wanted = re.fullmatch(r"(===|~=|==|!=|<=|>=|<|>|)\s*(.*)", clause).groups()  # type: ignore[union-attr]
    if operator == "===":
        return version == wanted
    prefix = wanted.endswith(".*")
    have, limit = _key(version), _key(wanted.removesuffix(".*"))
    if have is None or limit is None:
        return True
    if prefix or operator == "~=":
        numbers = [int(part) for part in re.findall(r"\d+", wanted.partition("!")[2] or wanted)]
        asked = numbers if prefix else numbers[: len(_numbers(wanted)) - 1]
        same = [*have[1], *[0] * len(asked)][: len(asked)] == asked and have[0] == limit[0]
        return same and have >= limit if operator == "~=" else same is (operator != "!=")
    if operator == "<":  # 2.5rc1 is before 2.5, but nobody means it with <2.5
        early = _unfinished(have) and not _unfinished(limit) and (*have[:2], have[4]) == (*limit[:2], limit[4])
        return have < limit and not early
    if operator == ">":  # nor 2.5.post1 with >2.5
        return have > limit and not (have[4] >= 0 > limit[4] and have[:4] == limit[:4])
    return {"==": have == limit, "!=": have != limit, "<=": have <= limit, ">=": have >= limit}.get(operator, True)


def _unfinished(key: _Key) -> bool:
    return key[2] < 0 or key[5] < 0


def _numbers(version: str) -> list[str]:
    """The release's parts as they were written: `~=2.2.0` is not `~=2.2`."""
    found = _VERSION.fullmatch(version)
    return found[2].split(".") if found else []
