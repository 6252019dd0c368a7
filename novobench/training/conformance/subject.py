"""An optimizer to check, the trainings that checks make with it, and what several checks expect of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from novobench import schema
from novobench.config import BatchConfig, CellConfig, OptimizerConfig
from novobench.errors import ConfigError
from novobench.optim import registry
from novobench.optim.schedules import ScheduleSpec
from novobench.training.conformance.checks import Failed
from novobench.training.conformance.differences import changed, nonfinite
from novobench.training.conformance.net import DEAD, Training

TOTAL = 12
"""Updates of a training, unless a check needs more."""


@dataclass(frozen=True)
class Subject:
    """An optimizer to check."""

    name: str
    """A name in the registry, or a path."""
    lr: float | None = None
    """Its learning rate. None: the middle of its search range, which for a path is the constructor's default, or 0.01
    without one."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Its own options."""
    learned: float = 0.9
    """It has learned if its loss ends below this share of the first one."""

    @property
    def entry(self) -> registry.OptimizerEntry:
        return registry.get(self.name)

    @property
    def rate(self) -> float:
        if self.lr is not None:
            return self.lr
        bounds = self.entry.tunable.get("lr")
        return float(f"{(bounds.low * bounds.high) ** 0.5:.2g}") if bounds else 0.01

    @cached_property
    def takes_groups(self) -> bool:
        """Whether it takes more than one parameter group. Those that do not, such as L-BFGS, train with one."""
        try:
            Training(self.config(grouped=True))
        except Exception:  # a constructor of other code may raise anything
            return False
        return True

    def config(
        self,
        lr: float | None = None,
        weight_decay: float = 0.1,
        updates: int = TOTAL,
        schedule: str = "cosine",
        grouped: bool = False,
    ) -> CellConfig:
        """A cell with this optimizer. grouped: with a group for the parameters that do not decay. Raises ConfigError
        for options that it does not have."""
        others = registry.get("adamw")
        takes_decay = "weight_decay" in self.entry.takes
        content = {
            "name": self.name,
            "lr": self.rate if lr is None else lr,
            "weight_decay": weight_decay if takes_decay else 0.0,
            "options": dict(self.options),
            "decay_factors": {"@norm": 0.0, "@bias": 0.0} if grouped else {},
        }
        nodes = {"options": self.entry.options, "others.options": others.options}
        optimizer: OptimizerConfig = schema.typed(OmegaConf.create(content), OptimizerConfig, nodes, "--options")
        try:
            registry.validate(self.entry, optimizer.options, optimizer.weight_decay)
        except ValueError as error:
            raise ConfigError(f"--options: {error}") from None
        return CellConfig(
            task="none",
            seed=0,
            budget=f"{updates}steps",
            batch=BatchConfig(size=16, micro=16),
            optimizer=optimizer,
            schedule=ScheduleSpec(name=schedule),  # type: ignore[arg-type]
        )

    def training(
        self,
        *,
        seed: int = 0,
        half: bool = False,
        dtype: torch.dtype = torch.float32,
        strided: bool = False,
        **changes: Any,
    ) -> Training:
        """A training by this optimizer. changes: arguments of `config`; the others are those of `Training`."""
        return Training(
            self.config(**{"grouped": self.takes_groups, **changes}), seed=seed, half=half, dtype=dtype, strided=strided
        )


def update_all(training: Training, numbers: Iterable[int]) -> None:
    for number in numbers:
        training.update(number)


def check_finite(training: Training, when: str = "") -> None:
    if lost := nonfinite(training.weights()):
        raise Failed(f"{lost[0]} is not finite {when}".rstrip())


def check_moved(training: Training, before: Mapping[str, Tensor], expected: Iterable[str]) -> None:
    if still := sorted(set(expected) - changed(before, training.weights()) - DEAD):
        shape = "×".join(map(str, before[still[0]].shape)) or "a scalar"
        raise Failed(f"{still[0]} ({shape}) does not move")


def requires_closure(training: Training) -> bool:
    closure = inspect.signature(training.optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
