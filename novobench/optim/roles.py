"""What each parameter of a network is for, and the split of parameter groups by it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from novobench.optim.entry import ROLES, Role
from novobench.optim.patterns import first_matches, norm_parameters


def parameter_roles(
    module: nn.Module, patterns: Mapping[str, Role] | None = None, overrides: Mapping[str, Role] | None = None
) -> dict[str, Role]:
    """The role of each trainable parameter, by full name, in the order of `module.named_parameters()`.

    The first rule that applies decides:

    1. `overrides`;
    2. `patterns`, by which the network names what its types do not tell, such as its output layer;
    3. a parameter of a normalization layer, or of fewer than two dimensions: `norm_bias`;
    4. the weight of an `nn.Embedding` or `nn.EmbeddingBag`, also if the output layer shares it: `embedding`;
    5. all others, convolutions included: `matrix`.

    Args:
        module: the owner of the parameters. A shared parameter counts once, under its first name.
        patterns: ordered pattern -> role; see `weight_decay_groups` for patterns. One that matches nothing is allowed:
            a network may have optional parts.
        overrides: likewise, but each must match a parameter.

    Raises:
        ValueError: a pattern of `overrides` matches no trainable parameter, or a pattern is not a valid regular
            expression.
    """
    patterns, overrides = patterns or {}, overrides or {}
    norms = norm_parameters(module)
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    named = first_matches(module, tuple(patterns), "Role", all_must_match=False)
    overridden = first_matches(module, tuple(overrides), "Role")
    parameters = dict(module.named_parameters())

    def role(name: str) -> Role:
        parameter = parameters[name]
        if (pattern := overridden[name]) is not None:
            return overrides[pattern]
        if (pattern := named[name]) is not None:
            return patterns[pattern]
        if id(parameter) in norms or parameter.ndim < 2:
            return "norm_bias"
        return "embedding" if id(parameter) in tables else "matrix"

    return {name: role(name) for name in named}


def split_groups(
    groups: list[dict[str, Any]], roles: Mapping[str, Role], taken: Collection[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The parts of parameter groups (with `param_names`) whose parameters have a role in `taken`, and the rest.

    Both keep the order and the other keys of the groups; groups that would be empty are left out. A group of the first
    kind has parameters of one role, its key `role`.
    """

    def part(group: dict[str, Any], chosen: Collection[str]) -> dict[str, Any]:
        named = zip(group["param_names"], group["params"], strict=True)
        members = [(name, parameter) for name, parameter in named if roles[name] in chosen]
        return {**group, "params": [p for _, p in members], "param_names": [name for name, _ in members]}

    own = [{**part(group, {role}), "role": role} for group in groups for role in ROLES if role in taken]
    rest = [part(group, set(ROLES).difference(taken)) for group in groups]
    return [group for group in own if group["params"]], [group for group in rest if group["params"]]
