"""The fused NovoGrad step as one operator, for graphs that `torch.compile` makes.

A graph may hand over other tensors than the optimizer holds, such as copies, so the operator keeps no state: v comes
as the 0-d tensors of `state` and goes back into them. Tables of addresses are kept for tensors that come again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from novobench.optim.novograd import launch_plan as tables

_KEPT = 4
_prepared: OrderedDict[tuple[Any, ...], tuple[tables.Plan, tables.Rates]] = OrderedDict()
"""Tables by what they were made for, the last used at the end."""


@torch.library.custom_op(
    "novobench::novograd_step",
    mutates_args=("parameters", "moments", "seconds", "largest", "counters"),
    tags=(torch.Tag.cudagraph_unsafe,),  # tables are sent from the host; capture an eager step instead
)
def novograd_step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    moments: Sequence[Tensor],
    seconds: Sequence[Tensor],
    largest: Sequence[Tensor],
    counters: Sequence[Tensor],
    groups: Sequence[int],
    numbers: Sequence[float],
    rates: Sequence[Tensor],
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    max_grad_norm: float | None,
    decides: bool,
) -> Tensor:
    """One step over tensors of one device; `groups` has each one's group, `numbers` and `rates` what groups set.

    `seconds` and `largest` (empty without amsgrad) are v and the largest v, `counters` those of the moments that are
    rounded. Returns what the kernel `decide` found, if
    the whole step is to be decided about.
    """
    tensors = (*parameters, *gradients, *moments)
    key = (tuple(groups), *((t.data_ptr(), t.dtype, t.shape, t.stride()) for t in tensors))
    if key in _prepared:
        _prepared.move_to_end(key)
    else:
        members = [tables.Member(*member) for member in zip(groups, parameters, gradients, moments, strict=True)]
        device = parameters[0].device
        _prepared[key] = tables.Plan(members, range(len(members))), tables.Rates(len(rates), device)
        if len(_prepared) > _KEPT:
            _prepared.popitem(last=False)
    plan, own_rates = _prepared[key]
    own_rates.set(list(numbers), list(rates))
    v = torch.stack(list(seconds))
    v_old = torch.empty_like(v)
    most = torch.stack(list(largest)) if largest else v
    vectors = tables.Seconds(v, v_old, most, torch.empty_like(v) if largest else v_old)
    rounded = [i for i, (w, m) in enumerate(zip(parameters, moments, strict=True)) if w.dtype != m.dtype]
    if counters:
        counts = torch.zeros(len(v), dtype=torch.int64, device=v.device)
        of_members = list(counts)
        torch._foreach_copy_([of_members[i] for i in rounded], list(counters))
        vectors = vectors._replace(counters=counts, counters_old=torch.empty_like(counts))
    plan.norms(vectors)
    if decides:
        plan.decide(max_grad_norm, grad_scale, found_inf)
    plan.update(vectors, own_rates, grad_scale, found_inf, plan.decided if decides else None)
    torch._foreach_copy_(list(seconds), list(v))
    if largest:
        torch._foreach_copy_(list(largest), list(most))
    if counters:
        torch._foreach_copy_(list(counters), [of_members[i] for i in rounded])
    return plan.decided.clone()


@novograd_step.register_fake
def _(parameters: Sequence[Tensor], *_: Any) -> Tensor:
    return parameters[0].new_empty(3, dtype=torch.float32)
