"""The Triton kernels inside a graph that `torch.compile` makes: two operators, and the backend that calls them.

A graph may hand over other tensors than the optimizer holds, such as copies, so the operators keep no state: v comes as
the 0-d tensors of the optimizer's state and goes back into them. Tables of addresses are kept for tensors that come
again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from novobench.optim.novograd.backend import (
    Backend,
    GradScaling,
    Group,
    ParamState,
    State,
    param_states,
    rate_scale_squared,
)
from novobench.optim.novograd.kernel_tables import group_numbers
from novobench.optim.novograd.launch_plan import GroupNumbers, LaunchPlan, Member, StateVectors
from novobench.optim.novograd.tuning import LaunchSettings

_KEPT = 4
_prepared: OrderedDict[tuple[Any, ...], tuple[LaunchPlan, GroupNumbers]] = OrderedDict()
"""Tables by the tensors they describe, the last used at the end."""


class CompiledBackend(Backend):
    """For all parameters of an optimizer, on one device, if kernels take each of them. Lives for one step."""

    def __init__(self, groups: Sequence[Group], state: State) -> None:
        self._groups, self._state = groups, state
        self._tensors: list[ParamState] = []
        self._group_of: list[int] = []
        self._rate_scales_squared: list[int] = []
        self._squares: Tensor | None = None

    def is_current(self) -> bool:
        return True

    def prepare(self) -> bool:
        for i, group in enumerate(self._groups):
            # The kernels take r² apart from the tensors.
            members = [(group, parameter, 1.0) for parameter in group["params"] if parameter.grad is not None]
            self._tensors += [t for _, t in param_states(members, self._state)]
            self._group_of += [i] * len(members)
            self._rate_scales_squared += [rate_scale_squared(parameter, group) for _, parameter, _ in members]
        return len(self._tensors) > 0

    def square_norm(self) -> Tensor:
        self._squares = square_norms(*self._triples(), self._group_of, self._rate_scales_squared, len(self._groups))
        return self._squares.double().sum()

    def update(self, scaling: GradScaling) -> None:
        rates = [group["lr"] for group in self._groups]
        novograd_update(
            *self._triples(),
            [t.exp_avg_sq for t in self._tensors],
            [t.max_exp_avg_sq for t in self._tensors if t.max_exp_avg_sq is not None],
            [t.rounding_counter for t in self._tensors if t.rounding_counter is not None],
            self._group_of,
            self._rate_scales_squared,
            [number for group in self._groups for number in group_numbers(group)],
            [lr if isinstance(lr, Tensor) else torch.tensor(lr) for lr in rates],
            scaling.grad_scale,
            scaling.found_inf,
            scaling.decision,
            self._squares,
        )

    def _triples(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        return [t.weight for t in self._tensors], [t.grad for t in self._tensors], [t.exp_avg for t in self._tensors]


# Tables are sent from the host, which a CUDA graph cannot repeat: capture an eager step instead.
_UNSAFE = (torch.Tag.cudagraph_unsafe,)


@torch.library.custom_op("novobench::novograd_square_norms", mutates_args=(), tags=_UNSAFE)
def square_norms(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    group_of: Sequence[int],
    rate_scales_squared: Sequence[int],
    groups: int,
) -> Tensor:
    """‖g‖² of all tensors, fp32 [len(weights)], in an order that `novograd_update` knows."""
    plan, _ = _tables(weights, grads, exp_avgs, group_of, rate_scales_squared, groups)
    v = torch.zeros(len(weights), device=weights[0].device)
    counters = torch.zeros_like(v, dtype=torch.int64) if any(bucket.rounds for bucket in plan.buckets) else None
    plan.norms(StateVectors.of(v, v, counters))  # the copies are not read
    return plan.squares.clone()


@torch.library.custom_op(
    "novobench::novograd_update",
    mutates_args=("weights", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "counters"),
    tags=_UNSAFE,
)
def novograd_update(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    counters: Sequence[Tensor],
    group_of: Sequence[int],
    rate_scales_squared: Sequence[int],
    numbers: Sequence[float],
    rates: Sequence[Tensor],
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    decision: Tensor | None,
    squares: Tensor | None,
) -> None:
    """One step over tensors of one device.

    `group_of` has the number of each one's group, `rate_scales_squared` r² of each one (see `backend`); `numbers` and
    `rates` what groups set; `max_exp_avg_sqs` is empty without amsgrad; `counters` are those of the moments that are
    rounded; `grad_scale`, `found_inf` and `decision` are those of `GradScaling`; `squares` is what `square_norms`
    returned, if it was called.
    """
    plan, own_numbers = _tables(weights, grads, exp_avgs, group_of, rate_scales_squared, len(rates))
    own_numbers.set(list(numbers), list(rates))
    v = torch.stack(list(exp_avg_sqs))
    v_max = torch.stack(list(max_exp_avg_sqs)) if max_exp_avg_sqs else v
    all_counters, rounded = None, []
    if counters:
        all_counters = torch.zeros_like(v, dtype=torch.int64)
        rounded = [
            all_counters[i] for i, (w, m) in enumerate(zip(weights, exp_avgs, strict=True)) if w.dtype != m.dtype
        ]
        torch._foreach_copy_(rounded, list(counters))
    vectors = StateVectors.of(v, v_max, all_counters)
    if squares is None:
        plan.norms(vectors)
    else:
        plan.squares.copy_(squares)
        vectors.v_old.copy_(v)
        vectors.v_max_old.copy_(v_max)
        if all_counters is not None and vectors.counters_old is not None:
            vectors.counters_old.copy_(all_counters)
    if decision is not None:
        decision = decision.to(v.device, torch.float32)
    plan.update(vectors, own_numbers, grad_scale, found_inf, decision)
    torch._foreach_copy_(list(exp_avg_sqs), list(v))
    if max_exp_avg_sqs:
        torch._foreach_copy_(list(max_exp_avg_sqs), list(v_max))
    if counters:
        torch._foreach_copy_(list(counters), rounded)


@square_norms.register_fake
def _(weights: Sequence[Tensor], *_: Any) -> Tensor:
    return weights[0].new_empty(len(weights), dtype=torch.float32)


def _tables(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    group_of: Sequence[int],
    rate_scales_squared: Sequence[int],
    groups: int,
) -> tuple[LaunchPlan, GroupNumbers]:
    """The tables for these tensors, from the cache if they are among the last used."""
    tensors = (*weights, *grads, *exp_avgs)
    key = (
        tuple(group_of),
        tuple(rate_scales_squared),
        *((t.data_ptr(), t.dtype, t.shape, t.stride()) for t in tensors),
    )
    if key in _prepared:
        _prepared.move_to_end(key)
    else:
        members = [
            Member(*member) for member in zip(group_of, weights, grads, exp_avgs, rate_scales_squared, strict=True)
        ]
        plan = LaunchPlan(members, range(len(members)), LaunchSettings())
        _prepared[key] = plan, GroupNumbers(groups, weights[0].device)
        if len(_prepared) > _KEPT:
            _prepared.popitem(last=False)
    return _prepared[key]
