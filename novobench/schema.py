"""A config tree checked against the dataclasses that say what it may hold. Imports no torch."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from novobench import ranges, yaml_text
from novobench.config_loading import first_line
from novobench.errors import ConfigError


def typed(tree: DictConfig, schema: type, nodes: Mapping[str, type], where: str) -> Any:
    """`tree` checked against the dataclass `schema`, whose open nodes are checked against `nodes`.

    `nodes` maps a dotted key whose field is typed `Any` to the dataclass that holds there. Values must lie in the
    ranges that the fields declare.
    """
    try:
        structure = copy.deepcopy(_structure(schema, tuple(nodes.items())))
        _check_kinds(structure, tree, where)
        merged = OmegaConf.merge(structure, tree)
        for key, node in nodes.items():
            _read_free_values(OmegaConf.select(merged, key), node)
        made = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {_explained(error)}") from None
    except (TypeError, ValueError) as error:  # OmegaConf lets some of its own through
        raise ConfigError(f"{where}: {first_line(error)}") from None
    ranges.check(made, where)
    return made


@cache
def _structure(schema: type, nodes: tuple[tuple[str, type], ...]) -> DictConfig:
    """The dataclass as OmegaConf has it, with all its nodes."""
    structure = OmegaConf.structured(schema)
    for key, kind in _hints(schema).items():
        if dataclasses.is_dataclass(kind) and OmegaConf.is_missing(structure, key):
            with read_write(structure):
                structure[key] = OmegaConf.structured(kind)
    for key, node in nodes:
        parent, _, name = key.rpartition(".")
        holder = OmegaConf.select(structure, parent) if parent else structure
        with read_write(holder):
            holder[name] = OmegaConf.structured(node)
    return structure


_hints = cache(get_type_hints)


def _check_kinds(structure: DictConfig, tree: DictConfig, where: str, path: str = "") -> None:
    """Refuse what should be a mapping, a list or a truth value and is none, and drop the default of a mapping that is
    given: that is whole."""
    hints = _hints(OmegaConf.get_type(structure))  # type: ignore[arg-type]
    for key, given in ((str(key), given) for key, given in tree.items()):
        if key not in structure:
            continue
        there = structure[key]
        if isinstance(there, DictConfig):
            if not isinstance(given, DictConfig):
                raise _wrong_kind(where, path + key, "a mapping", given)
            if dataclasses.is_dataclass(OmegaConf.get_type(structure, key)):
                _check_kinds(there, given, where, f"{path}{key}.")
            else:
                with read_write(structure):
                    structure[key] = {}
        elif get_origin(hints[key]) is list and not isinstance(given, ListConfig):
            raise _wrong_kind(where, path + key, "a list", given)
        elif hints[key] is bool and type(given) is int and given not in (0, 1):  # OmegaConf takes any for true
            raise _wrong_kind(where, path + key, "true or false", given)


def _wrong_kind(where: str, key: str, wanted: str, given: Any) -> ConfigError:
    return ConfigError(f"{where}: '{key}' must be {wanted}, not {'null' if given is None else given}.")


def _read_free_values(given: DictConfig, node: type) -> None:
    """Read the fields that have no type, those of other people's optimizers."""
    for name, kind in _hints(node).items():
        if Any in (kind, *get_args(kind)) and not OmegaConf.is_missing(given, name):
            with read_write(given):
                given[name] = yaml_text.untyped_value(OmegaConf.to_container(given)[name])  # type: ignore[index, call-overload]


def _explained(error: OmegaConfBaseException) -> str:
    key = str(error.full_key or error.key or "")
    reason = first_line(error)
    if "missing mandatory value" in reason.lower():
        return f"'{key}' must be given and is not."
    unknown = re.match(r"Key '\S+' not in '\w+'\.?(?: Did you mean: ('\w+'))?", reason)
    if unknown:
        return f"there is no key '{key}'." + (f" Did you mean {unknown[1]}?" if unknown[1] else "")
    return f"'{key}': {reason}"
