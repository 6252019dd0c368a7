"""From YAML files and overrides to a config tree, which `schema.py` then checks against the dataclasses of `config.py`.

A config is pure data: YAML files joined by `base:`, then overrides by dotted keys. An error is one line that names the
file, the full key, the reason and the nearest valid name. This module imports no torch.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from novobench import places, yaml_text
from novobench.errors import ConfigError, suggestion
from novobench.places import display_path

_MOST_LEVELS = 20
"""Of a dotted key."""

# ---------------------------------------------------------------------------------------------- files


def load_tree(path: Path) -> DictConfig:
    """A YAML file merged over its `base:` files, unchecked.

    `base` is relative to the file. Files that the workspace lacks are those that come with novobench. Mappings are
    merged key by key; an empty mapping, `{}`, removes what the files below have there.
    """
    (_, lowest), *above = config_files(path)
    tree = OmegaConf.create(lowest)
    for file, content in above:
        tree = merge_over(tree, content, display_path(file))
    return tree


def config_files(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A YAML file and the `base:` files below it, each with its own content, the lowest first."""
    files: list[tuple[Path, dict[str, Any]]] = []
    while True:
        if any(path == file for file, _ in files):
            raise ConfigError(
                f"{display_path(path)}: `base:` goes round in a circle through {display_path(files[0][0])}."
            )
        content = read_yaml(path)
        base = content.pop("base", None)
        files.append((path, content))
        if base is None:
            return files[::-1]
        path = places.workspace().find((path.parent / str(base)).resolve())


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, as plain data without interpolation."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = suggestion(path.name, [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else [])
        raise ConfigError(f"No such config: {display_path(path)}.{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {display_path(path)}: {error}.") from None
    try:
        content = yaml_text.parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{display_path(path)} is not valid YAML: {yaml_text.problem(error)}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{display_path(path)} must hold a mapping, not {type(content).__name__}.")
    if "${" in json.dumps(content, default=str):
        raise ConfigError(f"{display_path(path)} uses '${{…}}': configs are pure data; write the value itself.")
    return content


def merge_over(below: DictConfig, above: Mapping[str, Any], where: str) -> DictConfig:
    """`above` merged over `below`, which is changed. Mappings are merged, except that `{}` replaces what is below it.

    Raises ConfigError, naming `where`, if a list would replace a mapping.
    """
    _clear_replaced(below, above)
    try:
        return OmegaConf.merge(below, above)  # type: ignore[return-value]
    except (OmegaConfBaseException, TypeError):
        names = ", ".join(f"'{key}'" for key, value in above.items() if isinstance(value, list | ListConfig))
        raise ConfigError(f"{where}: {names or 'a list in it'} must be a mapping, not a list.") from None


def _clear_replaced(below: Any, above: Any) -> None:
    """Empty the mappings of `below` for which `above` holds `{}`."""
    if isinstance(below, DictConfig) and isinstance(above, Mapping):
        for key, value in above.items():
            if value == {} and key in below:
                below[key] = {}
            else:
                _clear_replaced(below.get(key), value)


# ---------------------------------------------------------------------------------------------- overrides


def override(tree: DictConfig, changes: Mapping[str, Any], where: str, *default: Any) -> DictConfig:
    """A copy of `tree` with dotted keys set in turn, as `set_keys` does."""
    tree = copy.deepcopy(tree)
    set_keys(tree, changes, where, *default)
    return tree


def set_keys(
    tree: DictConfig,
    changes: Mapping[str, Any],
    where: str,
    default: Callable[[DictConfig, str], Any] = lambda tree, key: None,
) -> None:
    """Set dotted keys of `tree` in turn, e.g. `{"optimizer.lr": 0.1, "model.widths[0]": 16}`.

    A mapping adds its keys to the existing ones, and `{}` removes all of them. A dotted key adds or changes one entry:
    `data.set_sizes.dev: 200`. If an override sets an entry of a list that the tree lacks, `default(tree, key)` returns
    the list, or None if there is no such list.
    """
    for key, value in changes.items():
        try:
            if key.count(".") > _MOST_LEVELS:
                raise ValueError("it is nested too deeply")
            list_key = key.partition("[")[0]
            if list_key != key and OmegaConf.select(tree, list_key) is None:
                entries = default(tree, list_key)
                if entries is not None:
                    OmegaConf.update(tree, list_key, entries)
            _clear_replaced(OmegaConf.select(tree, key), value)
            OmegaConf.update(tree, key, value, merge=value != {})
        except (OmegaConfBaseException, ValueError, IndexError, TypeError) as error:
            raise ConfigError(f"{where}: cannot set '{key}': {first_line(error)}") from None


def parse_overrides(arguments: Iterable[str]) -> dict[str, Any]:
    """`["optimizer.lr=0.1"]` from the command line -> `{"optimizer.lr": 0.1}`. If a key is repeated, the last one wins.

    A value that begins with a bracket, a brace or a quotation mark is YAML; any other is taken literally.
    """
    changes: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        argument = " ".join(argument.split())[:200]  # for a message of one line
        if not equals or not key:
            raise ConfigError(f"'{argument}' is not an override: write key=value, e.g. optimizer.lr=0.1.")
        changes.pop(key, None)  # so that the key moves to the end
        try:
            changes[key] = yaml_text.parse_value(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"'{argument}': the value is not valid YAML: {yaml_text.problem(error)}.") from None
        if "${" in json.dumps(changes[key], default=str):  # only after parsing: YAML has escapes
            raise ConfigError(f"'{argument}' uses '${{…}}': configs are pure data; write the value itself.")
    return changes


_FIXED_KEYS = {
    "seed": "--seeds chooses the seeds of each row",
    "scale": "--scale chooses it",
    "task": "the experiment's `task:` says it",
    "purpose": "`novobench search` sets it for its trials",
    "recipe_version": "it belongs to the task's code",
    "optimizer.code": "it is a digest of the file that optimizer.name names",
    "optimizer.others.code": "it is a digest of the file that optimizer.others.name names",
}
"""Fields of a cell that no override may set -> what decides them."""


def check_overridable(changes: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError if an override sets what a command or the code decides."""
    for key in changes:
        names = [name for name in re.split(r"[.\[\]]+", key) if name]
        for length in range(1, len(names) + 1):
            if reason := _FIXED_KEYS.get(".".join(names[:length])):
                raise ConfigError(f"{where} cannot set '{key}': {reason}.")


def first_line(error: Exception) -> str:
    """The first line of an error's message, as a sentence."""
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line if line.endswith((".", "?")) else line + "."
