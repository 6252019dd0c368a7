"""Every config key with its type, default and meaning, for `novobench config KEYS`.

The meaning is the docstring below a field of a config dataclass; its unit is part of it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf

from novobench import places, yaml_text
from novobench.config import CellConfig
from novobench.errors import ConfigError, suggestion
from novobench.optim import registry, schedules
from novobench.ranges import FILE_NAME, NOT_EMPTY
from novobench.tasks.catalog import load_task, task_config, task_names

_WIDTH = 120
_LONGEST_VALUE = 120


class Key(NamedTuple):
    """One key of a config."""

    name: str
    """Dotted; `[]` stands for the number of a list's entry, `*` for the key of a mapping's."""
    kind: str
    default: str
    """As YAML; empty if the key must be set."""
    meaning: str


def print_keys(topics: list[str], scale: str) -> None:
    """Print the keys of each topic, a task or `optimizer`; without one, the keys that all tasks share."""
    for topic in topics or [""]:
        at_scale = _values(topic, scale) if topic in task_names() else {}
        for key in keys(topic):
            default = f"default {shown(key.default)}" if key.default else "must be set"
            if key.name in at_scale and at_scale[key.name] != key.default:
                default = f"{default}; at {scale} scale {shown(at_scale[key.name])}"
            print(f"{key.name}  ({key.kind}; {default})")
            if key.meaning:
                print(textwrap.fill(key.meaning, _WIDTH, initial_indent="    ", subsequent_indent="    "))
        if topic == "optimizer":
            _print_options()
        elif not topic:
            print(f"More keys: novobench config KEYS {'|'.join([*task_names(), 'optimizer'])}")


def keys(topic: str) -> list[Key]:
    """The keys of a task (`data.` and `model.`), of `optimizer` (also `schedule.`), or those that all tasks share.
    Raises ConfigError for another topic."""
    if topic == "optimizer":
        optimizer = next(spec for spec in dataclasses.fields(CellConfig) if spec.name == "optimizer")
        kind = get_type_hints(CellConfig)[optimizer.name]
        return [*_keys(kind, "optimizer."), *_keys(schedules.ScheduleSpec, "schedule.")]
    if topic in task_names():
        task = task_config(topic)
        return [*_keys(task.DATA, "data."), *_keys(task.MODEL, "model.")]
    if topic:
        topics = [*task_names(), "optimizer"]
        raise ConfigError(f"KEYS: there is no topic '{topic}'.{suggestion(topic, topics)} Known: {', '.join(topics)}.")
    return list(_keys(CellConfig, ""))


def _keys(kind: type, prefix: str) -> Iterator[Key]:
    """The keys of a dataclass and of the dataclasses in it, in the order of the code."""
    hints, documents = get_type_hints(kind, include_extras=True), field_docstrings(kind)
    for spec in dataclasses.fields(kind):
        name, hint = prefix + spec.name, hints[spec.name]
        if dataclasses.is_dataclass(hint):
            yield from _keys(hint, f"{name}.")  # type: ignore[arg-type]
            continue
        yield Key(name, type_text(hint), _default(spec), documents[spec.name])
        place, inner = _entry(hint)
        if inner is not None:
            yield from _keys(inner, f"{name}{place}.")


def _entry(hint: Any) -> tuple[str, type | None]:
    """How a key names an entry of a list or mapping of dataclasses, and their class; None for other types."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    entry = get_args(hint)[-1] if get_origin(hint) in (list, dict) else None
    return ("[]" if get_origin(hint) is list else ".*"), entry if dataclasses.is_dataclass(entry) else None  # type: ignore[return-value]


def _default(spec: dataclasses.Field) -> str:
    if spec.default is not dataclasses.MISSING:
        return yaml_text.dump_inline(spec.default)
    if spec.default_factory is not dataclasses.MISSING:
        return yaml_text.dump_inline(_plain(spec.default_factory()))
    return ""


def _plain(value: Any) -> Any:
    """A value without dataclasses, of which only the fields that differ from their defaults are kept."""
    if dataclasses.is_dataclass(value):
        fields = {spec.name: spec.default for spec in dataclasses.fields(value)}
        return {name: getattr(value, name) for name, default in fields.items() if getattr(value, name) != default}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return {key: _plain(entry) for key, entry in value.items()} if isinstance(value, dict) else value


def type_text(hint: Any) -> str:
    """A field's type in words: `int [1, inf)`, `clip | scale`, `list of text`, `float (0, inf) or null`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        rules = [{NOT_EMPTY: "not empty", FILE_NAME: "usable in a file name"}.get(rule, rule) for rule in inner[1:]]
        return " ".join([type_text(inner[0]), *rules])
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        kinds = [type_text(kind) for kind in inner if kind is not type(None)]
        return " or ".join([*kinds, "null"] if type(None) in inner else kinds)
    if origin is list:
        return f"list of {type_text(inner[0])}"
    if origin is dict:
        return f"mapping to {type_text(inner[1])}"
    if dataclasses.is_dataclass(hint):
        return "mapping"
    return {str: "text", Any: "mapping"}.get(hint, getattr(hint, "__name__", str(hint)))


@cache
def field_docstrings(kind: type) -> Mapping[str, str]:
    """Field of a dataclass -> the docstring below it, in one line; empty if it has none."""
    documents = {spec.name: "" for spec in dataclasses.fields(kind)}
    for base in reversed(kind.__mro__):
        if base is object or not dataclasses.is_dataclass(base):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        except (OSError, TypeError):  # made by `make_dataclass`, or without a source file
            continue
        for node, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                value = following.value if isinstance(following, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    documents[node.target.id] = " ".join(value.value.split())
    return documents


def _values(task: str, scale: str) -> dict[str, str]:
    """Dotted key -> its value as YAML in the task's config at a scale."""
    tree: Any = OmegaConf.to_container(load_task(task, places.workspace().task_config(task, scale)))

    def leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
        for name, value in node.items():
            yield prefix + name, yaml_text.dump_inline(yaml_text.untyped_value(value))
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{name}.")

    return {key: value for part in ("data", "model") for key, value in leaves(tree.get(part, {}), f"{part}.")}


def shown(value: str) -> str:
    """A value for a line of text, cut if it is long."""
    return value if len(value) <= _LONGEST_VALUE else f"{value[: _LONGEST_VALUE - 2]} …"


def _print_options() -> None:
    """The options of each optimizer with their defaults."""
    for entry in registry.entries():
        print(f"optimizer.options of {entry.name}:")
        options = [key for key in _keys(entry.options, "optimizer.options.") if entry.name]
        for key in options:
            print(f"    {key.name}  ({key.kind}; default {shown(key.default) or 'none'})")
            if key.meaning:
                print(textwrap.fill(key.meaning, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8))
        if not options:
            print("    none")
