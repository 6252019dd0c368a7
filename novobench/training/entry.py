"""Where a process for a cell begins. Imports nothing heavy, so the command line can name it without torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from novobench.errors import kind_and_message, message_for_user


def begin(environment: dict[str, str], call: Callable[..., None], *arguments: Any) -> None:
    """`call` in the environment of the process that asks: a forkserver keeps the one that it was started in."""
    os.environ.clear()
    os.environ.update(environment)
    call(*arguments)


def main(path: str, devices: str | None, threads: int, tell: Any) -> None:
    """Hand over to `worker`, which the forkserver has imported already."""
    _worker(lambda problem: tell.send(problem)).main(path, devices, threads, tell)


def identify(config: Any, tell: Any) -> None:
    """As `main`, for `worker.identify`."""
    _worker(lambda problem: tell.send(("", problem))).identify(config, tell)


def _worker(tell: Callable[[str], None]) -> ModuleType:
    """All that a training needs. Where it cannot be imported, `tell` gets the reason, and the process ends."""
    try:
        from novobench.training import worker
    except Exception as error:
        missing = isinstance(error, ImportError)
        tell(
            message_for_user(error)
            if missing
            else f"a package cannot be loaded: {kind_and_message(error)}. Run: make setup"
        )
        sys.exit(1)
    return worker
