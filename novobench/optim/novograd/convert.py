"""Optimizer states of other NovoGrads, turned into ours, so that a training begun with them goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_TIMM = ("decoupled_decay", "corrected_weight_decay", "max_lr_snapshot")
_APEX = ("bias_correction", "norm_type", "init_zero", "step", "exp_avg_sq")
"""Options in their groups that ours do not have."""


def convert_state_dict(state_dict: dict[str, Any], parameters: Iterable[Tensor]) -> dict[str, Any]:
    """The `state_dict()` of apex's FusedNovoGrad or timm's NvNovoGrad as one that `NovoGrad.load_state_dict` takes.

    Args:
        state_dict: what the other optimizer's `state_dict()` gave.
        parameters: the parameters in the order in which they were given to it. apex keeps v by position, one vector
            for fp16 and one for fp32 parameters, so their dtypes are needed.

    Differences that cannot be carried over raise `ValueError`: apex's bias correction and infinity norm, timm's
    `corrected_weight_decay`. apex's default `reg_inside_moment=False` is another algorithm than the paper's and cannot
    be seen in a state: its moments mean something else. A tensor without a v yet takes its own first step. What other
    programs keep in groups stays there: a scheduler's `initial_lr`, timm's `lr_scale`, names.
    """
    parameters = list(parameters)
    count = sum(len(group["params"]) for group in state_dict["param_groups"])
    if count != len(parameters):
        raise ValueError(f"The state has {count} parameters, but {len(parameters)} were given")
    groups = state_dict["param_groups"]
    if any("norm_type" in group for group in groups):
        return _from_apex(state_dict, parameters)
    if any("decoupled_decay" in group for group in groups):
        return _from_timm(state_dict)
    known = ", ".join(key for key in groups[0] if key != "params")
    raise ValueError(
        f"This is neither a state of apex's FusedNovoGrad nor of timm's NvNovoGrad; its groups have {known}"
    )


def _group(group: dict[str, Any], theirs: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """A group with our options in the place of `theirs`; both others add ε to √v."""
    return {**{name: value for name, value in group.items() if name not in theirs}, "eps_inside_sqrt": False, **more}


def _second(value: Any) -> Tensor:
    """v as ours: 0 there means that there was no gradient yet, or only a zero one."""
    v = torch.as_tensor(value, dtype=torch.float32).detach().reshape(()).clone()
    return v if v > 0 else torch.full_like(v, -1.0)


def _from_timm(state_dict: dict[str, Any]) -> dict[str, Any]:
    groups, state = [], {}
    for group in state_dict["param_groups"]:
        if group.get("corrected_weight_decay"):
            raise ValueError("timm's corrected_weight_decay has no counterpart in NovoGrad")
        groups.append(_group(group, _TIMM, decoupled_weight_decay=group["decoupled_decay"]))
    for index, own in state_dict["state"].items():
        state[index] = {"exp_avg": own["exp_avg"].clone(), "exp_avg_sq": _second(own["exp_avg_sq"])}
        if "max_exp_avg_sq" in own:
            state[index]["max_exp_avg_sq"] = torch.as_tensor(own["max_exp_avg_sq"], dtype=torch.float32).reshape(())
    return {**state_dict, "state": state, "param_groups": groups}


def _from_apex(state_dict: dict[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    groups, state = [], {}
    place = 0
    for group in state_dict["param_groups"]:
        if group["bias_correction"] or group["norm_type"] != 2:
            raise ValueError(
                f"apex's bias_correction={group['bias_correction']} and norm_type={group['norm_type']} have no "
                "counterpart in NovoGrad, which is the paper's: False and 2"
            )
        groups.append(_group(group, _APEX))
        norms = {
            dtype: iter(() if vector is None else vector.tolist())
            for dtype, vector in zip((torch.float16, torch.float32), group.get("exp_avg_sq", (None, None)), strict=True)
        }
        for index in group["params"]:
            parameter, place = parameters[place], place + 1
            if index in state_dict["state"]:
                norm = next(norms[parameter.dtype], None)  # the norm itself, not its square
                if norm is None:
                    raise ValueError("The state has fewer norms than parameters: are all given, in order?")
                state[index] = {
                    "exp_avg": state_dict["state"][index]["exp_avg"].clone(),
                    "exp_avg_sq": _second(norm**2),
                }
        if any(next(left, None) is not None for left in norms.values()):
            raise ValueError("The state has more norms than parameters: were the dtypes others when it was saved?")
    return {**state_dict, "state": state, "param_groups": groups}
