"""Checks a config tree against dataclasses. Imports no torch."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from novobench import ranges, yaml_text
from novobench.config_loading import first_line
from novobench.errors import ConfigError


def typed(tree: DictConfig, schema: type, nodes: Mapping[str, type], where: str) -> Any:
    """`tree` as an instance of the dataclass `schema`.

    nodes: dotted key of a field that is typed `Any` -> the dataclass of its value. where: names the file and row in
    errors. Raises ConfigError for an unknown or missing key, a wrong type, or a value outside its field's range.
    """
    try:
        structure = copy.deepcopy(_structure(schema, tuple(nodes.items())))
        _check_kinds(structure, tree, where)
        merged = OmegaConf.merge(structure, tree)
        for key, node in nodes.items():
            _read_untyped_values(OmegaConf.select(merged, key), node)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {_explain(error)}") from None
    except (TypeError, ValueError, OverflowError) as error:  # OmegaConf raises some of these itself
        raise ConfigError(f"{where}: {first_line(error)}") from None
    ranges.check(config, where)
    return config


@cache
def _structure(schema: type, nodes: tuple[tuple[str, type], ...]) -> DictConfig:
    """The dataclass as an OmegaConf structure, with the dataclasses of all nodes."""
    structure = OmegaConf.structured(schema)
    for key, kind in _hints(schema).items():
        if dataclasses.is_dataclass(kind) and OmegaConf.is_missing(structure, key):
            with read_write(structure):
                structure[key] = OmegaConf.structured(kind)
    for key, node in nodes:
        parent, _, name = key.rpartition(".")
        container = OmegaConf.select(structure, parent) if parent else structure
        with read_write(container):
            container[name] = OmegaConf.structured(node)
    return structure


_hints = cache(get_type_hints)


def _check_kinds(structure: DictConfig, tree: DictConfig, where: str, path: str = "") -> None:
    """Raise ConfigError, with the key, for a value of a wrong kind that OmegaConf accepts or does not name: not a
    mapping, a list or a boolean where one is needed, or a number that no float holds. Fields without a default are
    skipped: OmegaConf does not count them as `in` the structure.

    Clear the default of each mapping that `tree` sets: it replaces the default, instead of being merged with it.
    """
    hints = _hints(OmegaConf.get_type(structure))  # type: ignore[arg-type]
    for key, value in ((str(key), value) for key, value in tree.items()):
        if key not in structure:
            continue
        default = structure[key]
        if isinstance(default, DictConfig):
            if not isinstance(value, DictConfig):
                raise _wrong_kind(where, path + key, "a mapping", value)
            if dataclasses.is_dataclass(OmegaConf.get_type(structure, key)):
                _check_kinds(default, value, where, f"{path}{key}.")
            else:
                with read_write(structure):
                    structure[key] = {}
        elif _must_be_list(hints[key], value) and not isinstance(value, ListConfig):
            raise _wrong_kind(where, path + key, "a list", value)
        elif _is_numeric(hints[key]) and isinstance(value, int) and abs(value) > ranges.LARGEST_INT:
            raise _wrong_kind(where, path + key, "a number below 2^63", ranges.quoted(value))
        elif hints[key] is bool and type(value) is int and value not in (0, 1):  # OmegaConf takes any number for true
            raise _wrong_kind(where, path + key, "true or false", value)


def _must_be_list(hint: Any, value: Any) -> bool:
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return any(get_origin(kind) is list for kind in kinds) and not (value is None and type(None) in kinds)


def _is_numeric(hint: Any) -> bool:
    return not {int, float}.isdisjoint((hint, *get_args(hint)))


def _wrong_kind(where: str, key: str, kind: str, value: Any) -> ConfigError:
    return ConfigError(f"{where}: '{key}' must be {kind}, not {'null' if value is None else value}.")


def _read_untyped_values(tree: DictConfig, node: type) -> None:
    """Give the values of fields without a type (options of third-party optimizers) the types of YAML 1.2."""
    for name, kind in _hints(node).items():
        if Any in (kind, *get_args(kind)) and not OmegaConf.is_missing(tree, name):
            with read_write(tree):
                tree[name] = yaml_text.untyped_value(OmegaConf.to_container(tree)[name])  # type: ignore[index, call-overload]


def _explain(error: OmegaConfBaseException) -> str:
    """OmegaConf's error as a clause that names the key."""
    key = str(error.full_key or error.key or "")
    reason = first_line(error)
    if "missing mandatory value" in reason.lower():
        return f"'{key}' is required, but it is not set."
    unknown = re.match(r"Key '\S+' not in '\w+'\.?(?: Did you mean: ('\w+'))?", reason)
    if unknown:
        return f"there is no key '{key}'." + (f" Did you mean {unknown[1]}?" if unknown[1] else "")
    return f"'{key}': {reason}"
