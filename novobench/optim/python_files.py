"""Import a Python file by its path, `./file.py`, with the modules next to it, once per process."""

from __future__ import annotations

import difflib
import hashlib
import importlib.machinery
import importlib.util
import inspect
import sys
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

CODE_DIGITS = 10
"""Hex digits of a digest of code."""


def find(text: str) -> Path:
    """The file that a path names, absolute. `~` is the home folder; other paths are relative to the current folder.

    Raises ImportError, with the nearest names of that folder, if there is no such file.
    """
    file = Path(text).expanduser()
    if file.is_file():
        return file.resolve()
    others = sorted(path.name for path in file.parent.glob("*.py")) if file.parent.is_dir() else []
    near = difflib.get_close_matches(file.name, others, n=1)
    hint = f" Did you mean '{text.removesuffix(file.name)}{near[0]}'?" if near else ""
    place = "" if file.is_absolute() else f" in the current folder, {Path.cwd()}"
    raise ImportError(f"there is no file {text}{place}.{hint}")


def module_of(file: Path) -> ModuleType:
    """The module of a file that `find` returned, imported at the first call of this process.

    Its folder counts as a package, so `from .neighbor import f` works. It also comes last in Python's search path, so
    `import neighbor` works, and no file there can shadow a library. An error of the import passes unchanged.
    """
    digest = hashlib.sha256(str(file.parent).encode()).hexdigest()[:CODE_DIGITS]
    package = f"novobench_folder_{digest}"
    name = f"{package}.{file.stem.replace('.', '_')}"
    if name in sys.modules:
        return sys.modules[name]
    if package not in sys.modules:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(file.parent)]
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    importlib.invalidate_caches()
    spec = importlib.util.spec_from_file_location(name, file, loader=_SourceLoader(name, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Compiles the source each time. Bytecode in `__pycache__` can be of an earlier edit of the same second and length,
    and then the code that runs would not be the one whose digest is in the cell's id."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def code_of(factory: Any) -> str:
    """10 hex digits of the sha256 of the source file that defines a class or function; empty if it has none."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(factory))
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:CODE_DIGITS] if file else ""
    except (TypeError, OSError, ValueError):  # built in, in an archive, or a circle of wrappers
        return ""
