"""Where a process for a cell begins. Imports nothing heavy, so the command line can name it without torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def begin(environment: dict[str, str], call: Callable[..., None], *arguments: Any) -> None:
    """`call` in the environment of the process that asks: a forkserver keeps the one that it was started in."""
    os.environ.clear()
    os.environ.update(environment)
    call(*arguments)


def main(path: str, devices: str | None, threads: int, tell: Any) -> None:
    """Hand over to `worker`, which the forkserver has imported already."""
    from novobench.training import worker

    worker.main(path, devices, threads, tell)


def identify(config: Any, tell: Any) -> None:
    """As `main`, for `worker.identify`."""
    from novobench.training import worker

    worker.identify(config, tell)
