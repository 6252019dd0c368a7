"""Where a process for a cell begins. Imports nothing heavy, so the command line can name it without torch.

A forkserver keeps the environment that it was started in; `environment` is that of the process that asks.
"""

from __future__ import annotations

import os
from typing import Any


def main(environment: dict[str, str], path: str, devices: str | None, threads: int, tell: Any) -> None:
    """Hand over to `worker`, which the forkserver has imported already."""
    from novobench.training import worker

    os.environ.update(environment)
    worker.main(path, devices, threads, tell)


def identify(environment: dict[str, str], config: Any, tell: Any) -> None:
    """As `main`, for `worker.identify`."""
    from novobench.training import worker

    os.environ.update(environment)
    worker.identify(config, tell)
