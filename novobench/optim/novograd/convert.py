"""Converts optimizer states of other NovoGrad implementations, so that a training can continue with this one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_TIMM = ("decoupled_decay", "corrected_weight_decay", "max_lr_snapshot")
_APEX = ("bias_correction", "norm_type", "init_zero", "step", "exp_avg_sq")
"""Keys of their groups that NovoGrad's groups do not have."""


def convert_state_dict(state_dict: dict[str, Any], parameters: Iterable[Tensor]) -> dict[str, Any]:
    """Convert the `state_dict()` of apex's FusedNovoGrad or timm's NvNovoGrad for `NovoGrad.load_state_dict`.

    Args:
        state_dict: what `state_dict()` of the other optimizer returned. It is not changed.
        parameters: the parameters, in the order in which the other optimizer got them. apex keeps v by position, in one
            vector for fp16 and one for fp32 parameters, so this function needs their dtypes.

    Returns:
        A new state. v is 0-d fp32; a parameter whose v is 0 has had no gradient, or only zero ones, and its next step
        counts as its first. Keys that other programs keep in groups stay: `initial_lr` of a scheduler, timm's
        `lr_scale`, names.

    Raises:
        ValueError: the state is neither apex's nor timm's; it has another number of parameters or norms; or it uses
            what NovoGrad does not have: apex's bias correction or infinity norm, timm's `corrected_weight_decay`.

    A state does not show apex's `reg_inside_moment`. Only convert states with True there: False, apex's default, is
    another algorithm, whose moments mean something else.
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
    keys = ", ".join(key for key in groups[0] if key != "params")
    raise ValueError(
        f"This is neither a state of apex's FusedNovoGrad nor of timm's NvNovoGrad; its groups have the keys {keys}"
    )


def _group(group: dict[str, Any], foreign_options: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """A group without options that NovoGrad lacks, and with `options`. Both libraries add ε to √v."""
    shared = {name: value for name, value in group.items() if name not in foreign_options}
    return {**shared, "eps_inside_sqrt": False, **options}


def _exp_avg_sq(value: Any) -> Tensor:
    """v, 0-d fp32: -1, before a first step, for their 0, which means no gradient yet, or only zero ones."""
    v = torch.as_tensor(value, dtype=torch.float32).detach().reshape(()).clone()
    return v if v > 0 else torch.full_like(v, -1.0)


def _from_timm(state_dict: dict[str, Any]) -> dict[str, Any]:
    groups, state = [], {}
    for group in state_dict["param_groups"]:
        if group.get("corrected_weight_decay"):
            raise ValueError("timm's corrected_weight_decay has no counterpart in NovoGrad")
        groups.append(_group(group, _TIMM, decoupled_weight_decay=group["decoupled_decay"]))
    for index, own in state_dict["state"].items():
        state[index] = {"exp_avg": own["exp_avg"].clone(), "exp_avg_sq": _exp_avg_sq(own["exp_avg_sq"])}
        if "max_exp_avg_sq" in own:
            state[index]["max_exp_avg_sq"] = torch.as_tensor(own["max_exp_avg_sq"], dtype=torch.float32).reshape(())
    return {**state_dict, "state": state, "param_groups": groups}


def _from_apex(state_dict: dict[str, Any], parameters: list[Tensor]) -> dict[str, Any]:
    groups, state = [], {}
    position = 0
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
            parameter, position = parameters[position], position + 1
            if index in state_dict["state"]:
                norm = next(norms[parameter.dtype], None)  # the norm itself, not its square
                if norm is None:
                    raise ValueError(
                        "The state has fewer norms than parameters. Pass all of them, in the other optimizer's order"
                    )
                state[index] = {
                    "exp_avg": state_dict["state"][index]["exp_avg"].clone(),
                    "exp_avg_sq": _exp_avg_sq(norm**2),
                }
        if any(next(left, None) is not None for left in norms.values()):
            raise ValueError("The state has more norms than parameters. Pass parameters of the dtypes of that training")
    return {**state_dict, "state": state, "param_groups": groups}
