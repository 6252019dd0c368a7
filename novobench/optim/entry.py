"""What novobench knows about an optimizer that a config can name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Role = Literal["matrix", "embedding", "head", "norm_bias"]
"""What a parameter is for: a weight matrix or convolution, an embedding, the output layer's weight, or a parameter of a
normalization layer, a bias or another vector."""
ROLES: tuple[Role, ...] = get_args(Role)

Schedule = Literal["task", "constant", "own"]
"""Which learning rate an optimizer expects. `task`: the config's schedule. `constant`: the config's warm-up, then its
base rate. `own`: it sets its rates itself from the base rate, and training leaves `lr` of its groups alone."""
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


@dataclass(frozen=True)
class Range:
    """The interval from which `novobench search` samples a value, uniformly in its logarithm."""

    low: float
    high: float

    @classmethod
    def around(cls, usual: float) -> Range:
        """The range whose ends are a factor of 32 apart, with `usual` in its geometric middle, written with two digits.

        All default ranges have this width: the same number of trials then covers each of them equally densely.
        """
        low = float(f"{usual / 32**0.5:.2g}")
        return cls(low, float(f"{32 * low:.4g}"))


RANGES = {"lr": Range.around(1e-2), "weight_decay": Range.around(1e-3)}
"""For constructors whose defaults say nothing."""


@dataclass(frozen=True)
class OptimizerEntry:
    """What novobench knows about an optimizer: how to build it, its options and their search ranges."""

    name: str
    factory: str
    """`module:Class`, imported at the first build; called with the groups, the arguments in `takes` and the options."""
    options: type
    """A frozen dataclass of its options besides lr and weight_decay, with their defaults. An annotation such as
    `Annotated[float, "[0, 1)"]` gives the interval of valid values."""
    description: str
    reference: str
    state_bytes_per_parameter: float
    """Bytes of state per fp32 parameter of a large matrix, apart from the one or two numbers per tensor."""
    tunable: Mapping[str, Range] = field(default_factory=lambda: dict(RANGES))
    """Key below `optimizer` in a config, such as `lr` or `others.lr_ratio`, -> its search range."""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Named sets of options."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the factory that no config can change."""
    guards_on_device: bool = False
    """Whether its step reads the attribute `found_inf` (0-d fp32 tensor, as torch's GradScaler sets it) and leaves
    weights and state unchanged unless it is 0. Training then needs no host sync to check whether an update is finite;
    with any other optimizer it needs one per update."""
    decays_gradient: bool = False
    """Whether its weight decay is L2 regularization, which the step adds to the gradient first. LARC then comes after
    this addition; see `larc_`."""
    schedule: Schedule = "task"
    """Which learning rate it expects. Milestones of weight decay apply with any."""
    roles: tuple[Role, ...] = ROLES
    """The parameters that it takes by default; `optimizer.others` gets those of other roles."""
    requires: str = ""
    """The package that must be installed to build it, other than torch; novobench's extra `rivals` has it."""
    code: str = ""
    """For a class or function named by its path: 10 hex digits of the sha256 of the source file that defines it, empty
    if there is none. Empty for registered names, whose packages the environment lists."""
    takes: tuple[str, ...] = ("lr", "weight_decay")
    """Which of these two arguments the factory accepts. Without `weight_decay`, weights do not decay. Unless
    `schedule` is `own`, each update's rate is written into `lr` of the optimizer's groups in any case."""
