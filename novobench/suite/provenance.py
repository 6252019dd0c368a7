"""The origin of each value in a row's config, for `novobench config`.

`config_loading.config_files` and `experiment.row_layers` define the layers and their order. This module only remembers
the last layer that sets each key; `experiment.row_config` merges the values.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from novobench import places, yaml_text
from novobench.budget import parse_warmup
from novobench.config import CellConfig, cell_id
from novobench.config_loading import config_files
from novobench.errors import one_line
from novobench.optim import registry
from novobench.places import display_path
from novobench.suite.experiment import Experiment, Row
from novobench.suite.row_configs import row_config, row_layers

KeyPath = tuple[str, ...]
"""The keys from the top of a config down to a value."""


def annotated_yaml(experiment: Experiment, row: Row, scale: str, extra: Mapping[str, Any]) -> str | None:
    """The resolved config of a row at seed 0 as a YAML document with the origin of each value as a comment.

    None if the row has no cell at the scale. The document loads to the same values as `config.yaml` of a run folder.
    """
    config = row_config(experiment, row, scale, 0, extra)
    if config is None:
        return None
    origins = _origins(experiment, row, scale, extra, config)
    lines = list(_lines(dataclasses.asdict(config), origins))
    width = max(len(text) for text, origin in lines if origin and len(text) <= 60)
    title = f"# {experiment.name}/{row.id} at {scale} scale: {cell_id(config)}, {config.total_updates:,} updates"
    body = [f"{text:<{width}}  # {one_line(origin)}" if origin else text for text, origin in lines]
    return "\n".join(["---", title, *body])


def _origins(
    experiment: Experiment, row: Row, scale: str, extra: Mapping[str, Any], config: CellConfig
) -> dict[KeyPath, str]:
    """The origin of each value that is not a default."""
    origins: dict[KeyPath, str] = {}
    for file, content in config_files(places.workspace().task_config(experiment.task, scale)):
        _record(origins, (), content, display_path(file))
    for layer in row_layers(experiment, row, scale, 0, extra):
        for key, value in layer.overrides.items():
            names = [name for name in re.split(r"[.\[\]]+", key) if name]
            while names[-1].isdecimal():  # a list has one origin, whichever of its entries is set
                names.pop()
            _record(origins, tuple(names), value, layer.origin)
    optimizer = config.optimizer
    if optimizer.preset is not None:
        for option in registry.get(optimizer.name).presets[optimizer.preset]:
            origins.setdefault(("optimizer", "options", option), f"preset {optimizer.preset} of {optimizer.name}")
    if optimizer.code:
        origins[("optimizer", "code")] = f"file of {optimizer.name}"
    if optimizer.others.code:
        origins[("optimizer", "others", "code")] = f"file of {optimizer.others.name}"
    origins[("recipe_version",)] = f"code of the task {config.task}"
    return origins


def _record(origins: dict[KeyPath, str], path: KeyPath, value: Any, origin: str) -> None:
    """Remember `origin` for the value at `path`, or for each value in the mapping there."""
    if path == ("schedule", "warmup"):
        unit = parse_warmup(str(value))[1]
        origins[("schedule", "warmup_updates" if unit == "steps" else "warmup_fraction")] = f"{origin}, warmup {value}"
        origins.pop(("schedule", "warmup_fraction" if unit == "steps" else "warmup_updates"), None)
    elif isinstance(value, Mapping) and value:
        for key, inner in value.items():
            _record(origins, (*path, str(key)), inner, origin)
    else:
        for lower in [other for other in origins if other[: len(path)] == path]:  # `{}` removes what is there
            del origins[lower]
        origins[path] = origin


def _lines(config: Mapping[str, Any], origins: Mapping[KeyPath, str], path: KeyPath = ()) -> Iterator[tuple[str, str]]:
    """Lines of YAML with the origin of the value that begins there; an empty origin for other lines."""
    for key, value in config.items():
        here = (*path, str(key))
        start = f"{'  ' * len(path)}{yaml_text.dump_inline(key)}:"
        if isinstance(value, Mapping) and value:
            yield start, ""
            yield from _lines(value, origins, here)
        elif isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            yield start, origins.get(here, "default")
            for entry in value:
                yield f"{'  ' * len(here)}- {yaml_text.dump_inline(entry)}", ""
        else:
            yield f"{start} {yaml_text.dump_inline(value)}", origins.get(here, "default")
