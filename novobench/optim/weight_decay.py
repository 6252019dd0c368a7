"""Parameter groups that differ in weight decay, chosen by ordered patterns."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def weight_decay_groups(
    module: nn.Module, weight_decay: float, factors: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    r"""Split the trainable parameters of a module into groups that differ in weight decay.

    Any optimizer takes the groups:

        groups = weight_decay_groups(model, 0.001, {"@norm": 0.0, "@bias": 0.0, r"^head\.": 0.1})
        optimizer = torch.optim.AdamW(groups, lr=1e-3)

    Args:
        module: the owner of the parameters. Parameters that do not require gradients are left out. A shared parameter
            counts once, under its first name.
        weight_decay: the coefficient of a parameter that no pattern matches.
        factors: pattern -> factor of `weight_decay`. Patterns are tried in the order of the mapping, and the first
            match decides. The default is one group without patterns. A pattern is one of

            - `@norm`: the parameters of a normalization layer: torch's BatchNorm, InstanceNorm and SyncBatchNorm,
              LayerNorm, GroupNorm, RMSNorm and their subclasses;
            - `@bias`: the parameters whose own name is `bias`, those of normalization layers included;
            - a regular expression, searched in the full name of a parameter, such as `layers.0.conv.weight`.

    Returns:
        One dict for each pattern that decides for some parameter, in the order of the patterns, then one for the
        parameters that match none. Within a group, parameters keep the order of `module.named_parameters()`. Keys:
        `params`, `param_names` (full names), `weight_decay` (`weight_decay` times the factor) and
        `weight_decay_factor`, by which a schedule multiplies its own coefficient.

    Raises:
        ValueError: a pattern matches no trainable parameter or is not a valid regular expression; a factor or
            `weight_decay` is negative, infinite or NaN.
    """
    factors = dict(factors or {})
    for name, value in [("weight_decay", weight_decay), *((f"factor of '{p}'", f) for p, f in factors.items())]:
        if not 0.0 <= value < math.inf:
            raise ValueError(f"Invalid {name}: {value} (must be finite and at least 0)")
    norms = {id(p) for m in module.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}
    trainable = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    matchers = {pattern: _matcher(pattern) for pattern in factors}
    members: dict[str | None, list[tuple[str, nn.Parameter]]] = {pattern: [] for pattern in (*factors, None)}
    unmatched = dict(matchers)
    for name, parameter in trainable:
        hits = [pattern for pattern, matches in matchers.items() if matches(name, id(parameter) in norms)]
        members[hits[0] if hits else None].append((name, parameter))
        for pattern in hits:
            unmatched.pop(pattern, None)
    for pattern in unmatched:
        near = difflib.get_close_matches(pattern, [name for name, _ in trainable], n=3, cutoff=0.3)
        raise ValueError(
            f"Weight-decay pattern '{pattern}' matches no trainable parameter. "
            f"Names look like: {', '.join(near or [name for name, _ in trainable[:3]])}."
        )
    return [
        {
            "params": [parameter for _, parameter in chosen],
            "param_names": [name for name, _ in chosen],
            "weight_decay": weight_decay * factor,
            "weight_decay_factor": factor,
        }
        for chosen, factor in zip(members.values(), (*factors.values(), 1.0), strict=True)
        if chosen
    ]


def _matcher(pattern: str) -> Callable[[str, bool], bool]:
    """Whether `pattern` matches a parameter, given its full name and whether a normalization layer owns it."""
    if pattern == "@norm":
        return lambda _, is_norm: is_norm
    if pattern == "@bias":
        return lambda name, _: name.rpartition(".")[2] == "bias"
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"Weight-decay pattern '{pattern}' is not a valid regular expression: {error}") from None
    return lambda name, _: expression.search(name) is not None
