"""Parameter groups that differ in weight decay, chosen by ordered patterns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from novobench.optim.patterns import first_matches


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
    matches = first_matches(module, tuple(factors), "Weight-decay")
    parameters = dict(module.named_parameters())
    members = [
        (factor, [name for name, match in matches.items() if match == pattern])
        for pattern, factor in (*factors.items(), (None, 1.0))
    ]
    return [
        {
            "params": [parameters[name] for name in names],
            "param_names": names,
            "weight_decay": weight_decay * factor,
            "weight_decay_factor": factor,
        }
        for factor, names in members
        if names
    ]
