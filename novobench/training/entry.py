"""Where a process for a cell begins. Imports nothing heavy, so the command line can name it without torch."""

from __future__ import annotations

from typing import Any


def main(path: str, devices: str | None, threads: int, tell: Any) -> None:
    """Hand over to `worker`, which the forkserver has imported already."""
    from novobench.training import worker

    worker.main(path, devices, threads, tell)


def identify(config: Any, tell: Any) -> None:
    """As `main`, for `worker.identify`."""
    from novobench.training import worker

    worker.identify(config, tell)
