"""What a training relies on in a task: the checks of `novobench check task`."""

from __future__ import annotations

from novobench.training.conformance.checks import Check
from novobench.training.conformance.task_config import DECLARATIONS
from novobench.training.conformance.task_training import TRAINING

TASK_CHECKS: tuple[Check, ...] = (*DECLARATIONS, *TRAINING)
