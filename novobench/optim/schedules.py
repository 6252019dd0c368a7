"""Learning rate and weight decay as pure functions of the update number, with no state to save.

Update 0 is the first update of the weights; `total` is the number of updates of the whole run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal


@dataclass(frozen=True)
class ScheduleSpec:
    """A warm-up, then a decay over the remaining updates. Annotations give the intervals of valid values.

    Configs may write the length of the warm-up as `schedule.warmup: 5ep`, `500steps`, `0.05` or `5/90` (a share of the
    run); it becomes `warmup_updates` or `warmup_fraction`.
    """

    name: Literal["constant", "polynomial", "cosine", "multistep"] = "constant"
    """The decay after the warm-up."""
    power: Annotated[float, "(0, inf)"] = 1.0
    """`polynomial`: 2 is the paper's "quadratic" decay."""
    min_lr: Annotated[float, "[0, inf)"] = 0.0
    """Final rate of `polynomial` and `cosine`, absolute. OpenSeq2Seq's Jasper uses 1e-5."""
    floor: Literal["shift", "max"] = "shift"
    """How they reach `min_lr`: `shift` decays the part of the rate above it (OpenSeq2Seq, NeMo); `max` decays the
    whole rate and never goes below it (DeepLearningExamples)."""
    warmup_updates: Annotated[int, "[0, inf)"] = 0
    """Length of the warm-up in updates; excludes `warmup_fraction`."""
    warmup_fraction: Annotated[float, "[0, 1)"] = 0.0
    """Length of the warm-up as a share of all updates (the paper's Table 5)."""
    warmup_start_factor: Annotated[float, "[0, 1]"] = 0.0
    """The warm-up starts at this share of the base rate."""
    warmup_counts_from: Literal[0, 1] = 1
    """c in (u + c) / (length + c), the share of the climb that update u has completed. 0 as in OpenSeq2Seq, whose first
    update has the start rate; 1 as in NeMo."""
    decay_spans: Literal["rest", "whole"] = "rest"
    """`rest`: the decay starts after the warm-up. `whole`: it spans the whole run, and the warm-up replaces its first
    part (Transformer-XL)."""
    milestones: list[Annotated[float, "[0, 1]"]] = field(default_factory=list)
    """`multistep`: shares of the whole run at which the rate is multiplied by `factor`."""
    factor: Annotated[float, "[0, inf)"] = 0.1
    """`multistep`: multiplies the rate at each milestone."""
    weight_decay_milestones: list[Annotated[float, "[0, 1]"]] = field(default_factory=list)
    """Shares of the run at which weight decay takes its factor from the same index of
    `weight_decay_factors` (Codreanu et al.)."""
    weight_decay_factors: list[Annotated[float, "[0, inf)"]] = field(default_factory=list)
    """Factors on the base weight decay, one per milestone."""


def validate(spec: ScheduleSpec) -> None:
    """Check the constraints that the intervals of single fields cannot express.

    Raises:
        ValueError: the fields contradict each other; the message names them.
    """
    if spec.warmup_updates and spec.warmup_fraction:
        raise ValueError(
            f"'schedule': warmup_updates {spec.warmup_updates} and warmup_fraction {spec.warmup_fraction} are both "
            "given. Keep one."
        )
    for name, milestones in (
        ("milestones", spec.milestones),
        ("weight_decay_milestones", spec.weight_decay_milestones),
    ):
        if milestones != sorted(milestones):
            raise ValueError(f"'schedule.{name}' must be increasing shares of the run, not {milestones}.")
    if spec.name == "multistep" and not spec.milestones:
        raise ValueError("'schedule.milestones' is empty: a multistep schedule needs at least one, e.g. [0.5].")
    if len(spec.weight_decay_milestones) != len(spec.weight_decay_factors):
        raise ValueError(
            f"'schedule': {len(spec.weight_decay_milestones)} weight_decay_milestones need the same "
            f"number of weight_decay_factors, not {len(spec.weight_decay_factors)}."
        )


def learning_rate(update: int, total: int, base_lr: float, spec: ScheduleSpec) -> float:
    """The learning rate of one update.

    Args:
        update: number of the update, from 0 to `total` - 1.
        total: updates of the whole run.
        base_lr: the rate after the warm-up.
        spec: a schedule that `validate` accepts.
    """
    warmup = spec.warmup_updates or round(spec.warmup_fraction * total)
    if update < warmup:
        climb = (update + spec.warmup_counts_from) / (warmup + spec.warmup_counts_from)
        return base_lr * (spec.warmup_start_factor + (1 - spec.warmup_start_factor) * climb)
    start = warmup if spec.decay_spans == "rest" else 0
    done = min(1.0, (update - start) / max(1, total - start))
    if spec.name in ("polynomial", "cosine"):
        remaining = (1 - done) ** spec.power if spec.name == "polynomial" else 0.5 * (1 + math.cos(math.pi * done))
        if spec.floor == "max":
            return max(base_lr * remaining, spec.min_lr)
        return (base_lr - spec.min_lr) * remaining + spec.min_lr
    if spec.name == "multistep":
        return base_lr * spec.factor ** sum(update >= milestone * total for milestone in spec.milestones)
    return base_lr


def weight_decay(update: int, total: int, base: float, spec: ScheduleSpec) -> float:
    """The weight decay of one update: `base` before the first milestone, then `base` times the factor of the last one.

    Args:
        update: number of the update, from 0 to `total` - 1.
        total: updates of the whole run.
        base: the configured coefficient.
        spec: a schedule that `validate` accepts.
    """
    factor = 1.0
    for milestone, value in zip(spec.weight_decay_milestones, spec.weight_decay_factors, strict=True):
        if update >= milestone * total:
            factor = value
    return base * factor
