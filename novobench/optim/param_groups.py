"""Parameter groups that differ in weight decay, chosen by ordered patterns."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class DecayGroup:
    """Parameters matched by `pattern` decay with `factor` times the weight decay."""

    pattern: str
    """A regular expression searched in the parameter's full name, or `@norm` (everything of a normalisation
    layer) or `@bias` (every parameter called bias)."""
    factor: float = 0.0


def param_groups(module: nn.Module, weight_decay: float, groups: Sequence[DecayGroup]) -> list[dict[str, Any]]:
    """Split the trainable parameters of `module`: the first matching pattern wins, no match means factor 1.

    Each group carries `params`, `param_names`, `weight_decay` and `weight_decay_factor`, by which a schedule
    multiplies. Raises ValueError for a pattern that matches no trainable parameter.
    """
    norms = {id(p) for m in module.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    chosen: list[list[tuple[str, nn.Parameter]]] = [[] for _ in range(len(groups) + 1)]
    matched = [False] * len(groups)
    for name, parameter in named:
        hits = [_matches(group.pattern, name, id(parameter) in norms) for group in groups]
        matched = [old or new for old, new in zip(matched, hits, strict=True)]
        chosen[hits.index(True) if True in hits else -1].append((name, parameter))
    for group, hit in zip(groups, matched, strict=True):
        if not hit:
            near = difflib.get_close_matches(group.pattern, [name for name, _ in named], n=3, cutoff=0.3)
            raise ValueError(
                f"Weight-decay pattern '{group.pattern}' matches no trainable parameter. "
                f"Names look like: {', '.join(near or [name for name, _ in named[:3]])}."
            )
    factors = [*(group.factor for group in groups), 1.0]
    return [
        {
            "params": [parameter for _, parameter in members],
            "param_names": [name for name, _ in members],
            "weight_decay": weight_decay * factor,
            "weight_decay_factor": factor,
        }
        for members, factor in zip(chosen, factors, strict=True)
        if members
    ]


def _matches(pattern: str, name: str, is_norm: bool) -> bool:
    if pattern == "@norm":
        return is_norm
    if pattern == "@bias":
        return name.rpartition(".")[2] == "bias"
    return re.search(pattern, name) is not None
