"""Patterns that choose parameters by name, for weight decay and for roles."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def norm_parameters(module: nn.Module) -> set[int]:
    """The ids of the parameters that normalization layers own: torch's BatchNorm, InstanceNorm and SyncBatchNorm,
    LayerNorm, GroupNorm, RMSNorm and their subclasses."""
    return {id(p) for m in module.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}


def first_matches(
    module: nn.Module, patterns: Sequence[str], purpose: str, *, all_must_match: bool = True
) -> dict[str, str | None]:
    """For each trainable parameter, the first of `patterns` that matches it, or None.

    Args:
        module: the owner of the parameters. A shared parameter counts once, under its first name.
        patterns: `@norm` (parameters of normalization layers), `@bias` (parameters whose own name is `bias`), or a
            regular expression, searched in the full name of a parameter.
        purpose: of the patterns, the first word of an error: `Weight-decay` or `Role`.
        all_must_match: raise an error for a pattern that matches nothing. Default True.

    Raises:
        ValueError: a pattern matches no trainable parameter or is not a valid regular expression.
    """
    norms = norm_parameters(module)
    matchers = {pattern: _matcher(pattern, purpose) for pattern in patterns}
    first: dict[str, str | None] = {}
    unmatched = dict.fromkeys(patterns)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            hits = [pattern for pattern, matches in matchers.items() if matches(name, id(parameter) in norms)]
            first[name] = hits[0] if hits else None
            for pattern in hits:
                unmatched.pop(pattern, None)
    for pattern in unmatched if all_must_match else ():
        near = difflib.get_close_matches(pattern, first, n=3, cutoff=0.3)
        raise ValueError(
            f"{purpose} pattern '{pattern}' matches no trainable parameter. "
            f"Names look like: {', '.join(near or list(first)[:3])}."
        )
    return first


def _matcher(pattern: str, purpose: str) -> Callable[[str, bool], bool]:
    """Whether `pattern` matches a parameter, given its full name and whether a normalization layer owns it."""
    if pattern == "@norm":
        return lambda _, is_norm: is_norm
    if pattern == "@bias":
        return lambda name, _: name.rpartition(".")[2] == "bias"
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{purpose} pattern '{pattern}' is not a valid regular expression: {error}") from None
    return lambda name, _: expression.search(name) is not None
