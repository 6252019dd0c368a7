"""Several optimizers as one, each with its own parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from novobench.optim.entry import OptimizerEntry


@dataclass(frozen=True)
class Part:
    """An optimizer and what training must know to set its rates."""

    entry: OptimizerEntry
    optimizer: Optimizer
    weight_decay: float
    """Its coefficient, before the groups' `weight_decay_factor` and the schedule."""


class Composite(Optimizer):
    """Several optimizers that step together: one optimizer to training, to Lightning and to GradScaler.

    `param_groups` and `state` are those of the parts, in their order: the same dicts, so a change of a group reaches
    the part's next step. Parameter groups are added to the parts, not here.

    Args:
        parts: at least one; no parameter may belong to two.

    Raises:
        ValueError: a parameter belongs to two parts, or a part's step requires a closure.
    """

    parts: tuple[Part, ...]
    _step_supports_amp_scaling = False
    """GradScaler unscales before the step, as for the parts."""

    def __init__(self, parts: Sequence[Part]) -> None:
        parameters = [p for part in parts for group in part.optimizer.param_groups for p in group["params"]]
        if len(set(parameters)) < len(parameters):
            raise ValueError("Some parameters belong to more than one optimizer.")
        for part in parts:
            closure = inspect.signature(part.optimizer.step).parameters.get("closure")
            if closure is not None and closure.default is inspect.Parameter.empty:
                raise ValueError(
                    f"optimizer '{part.entry.name}' requires a closure that recomputes all gradients, so it cannot be "
                    "one of several optimizers."
                )
        # Optimizer.__init__ would make groups and a state of its own; __setstate__ sets up everything else.
        self.__setstate__({"parts": tuple(parts), "defaults": {}})

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts, "defaults": self.defaults}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return [group for part in self.parts for group in part.optimizer.param_groups]

    @property
    def state(self) -> dict[Tensor, Any]:  # type: ignore[override]
        return {key: state for part in self.parts for key, state in part.optimizer.state.items()}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        raise TypeError("Add the group to the optimizer of one of `parts`.")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step all parts, in order. If `found_inf` is set, as by GradScaler, each part gets it.

        Args:
            closure: recomputes the loss and the gradients; called once, before the first part's step, with gradients
                enabled.

        Returns:
            The closure's loss, or None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.optimizer.__dict__.pop("found_inf", None)
            if "found_inf" in self.__dict__:
                part.optimizer.found_inf = self.__dict__["found_inf"]  # type: ignore[attr-defined]
            part.optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.optimizer.zero_grad(set_to_none)

    def train(self) -> None:
        """Switch the parts that have `train()` and `eval()` to the weights that they train."""
        for optimizer in switchable(self):
            optimizer.train()

    def eval(self) -> None:
        """Switch the same parts to the weights that are to be evaluated."""
        for optimizer in switchable(self):
            optimizer.eval()

    def state_dict(self) -> dict[str, Any]:
        """`parts`: the state dicts of the parts, in order."""
        return {"parts": [part.optimizer.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: it is of another number of optimizers, or does not fit one of them.
        """
        states = state_dict["parts"]
        if len(states) != len(self.parts):
            raise ValueError(f"The state is of {len(states)} optimizers, not of {len(self.parts)}.")
        for part, state in zip(self.parts, states, strict=True):
            part.optimizer.load_state_dict(state)


def switchable(optimizer: Optimizer) -> list[Any]:
    """The optimizers among `optimizer`, or its parts, that train other weights than those to be evaluated: they have
    the methods `train()` and `eval()`, as schedule-free optimizers do."""
    if isinstance(optimizer, Composite):
        return [each for part in optimizer.parts for each in switchable(part.optimizer)]
    has_both = all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))
    return [optimizer] if has_both else []
