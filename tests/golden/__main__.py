"""`python -m tests.golden` trains the small cells again and replaces the golden losses, one CSV file per task.

Run it when a change is meant to alter results, and say in the commit why they change.
"""

import os
import sys
import tempfile
from pathlib import Path

from tests.golden import curves


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NOVOBENCH_CACHE"] = f"{folder}/cache"
        by_task: dict[str, dict[str, list[float]]] = {}
        for task, optimizer in curves.CURVES:
            losses = curves.train(task, optimizer, Path(folder) / f"{task}-{optimizer}")
            by_task.setdefault(task, {})[optimizer] = losses
            sys.stdout.write(f"{task} {optimizer}: {losses[0]:.4g} -> {losses[-1]:.4g}\n")
    for task, losses_by_optimizer in by_task.items():
        curves.write(task, losses_by_optimizer)


if __name__ == "__main__":
    main()
