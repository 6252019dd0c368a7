"""YAML as this project reads it: no duplicate keys, and plain scalars that keep their text.

The meaning of a plain scalar depends on the type of its field, which is known only after files and overrides have been
merged. So here a scalar becomes a number only if Python writes that number in the same way, which loses nothing: `5`,
`0.25`, `1e-05`. All other plain scalars except null stay text: `no`, `0123`, `12:30`, `1.10`, and also `1e3` and
`true`, which become a number or a Boolean in a field of that type. `untyped_value` reads scalars without such a field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError

_NUMBER = "tag:yaml.org,2002:float"
_DATE = "tag:yaml.org,2002:timestamp"
_KEPT_TAGS = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str", _DATE)
_BOOLEANS = {"true": True, "false": False}


class _Loader(yaml.SafeLoader):
    """Resolves only null and `<<`, and requires the keys of a mapping to be unique scalars."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors: ClassVar = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag in _KEPT_TAGS or tag.endswith((":seq", ":map"))
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key must be a scalar", key.start_mark)
            if key.value in lines:
                duplicate = f"the key '{key.value}' is a duplicate of line {lines[key.value]}; keep one of them"
                raise ConstructorError(None, None, duplicate, key.start_mark)
            lines[key.value] = line
            if key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"
        return node


def _construct_number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    return _number(node.value)


def _construct_date(loader: _Loader, node: yaml.ScalarNode) -> str:
    try:
        loader.construct_yaml_timestamp(node)
    except (ValueError, AttributeError):  # AttributeError: tagged as a date, but without its form
        message = f"{node.value} looks like a date but is not a valid one; put it in quotes if it is text"
        raise ConstructorError(None, None, message, node.start_mark) from None
    return node.value


_NUMBERS = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$", re.ASCII), list("-+.0123456789")
_Loader.add_implicit_resolver(_NUMBER, *_NUMBERS)
_Loader.add_constructor(_NUMBER, _construct_number)
_Loader.add_constructor(_DATE, _construct_date)


def _number(text: str) -> Any:
    """The number that Python writes as `text`, else `text`."""
    for kind in (int, float):
        with suppress(ValueError):
            if str(kind(text)) == text and text[-1].isdigit():
                return kind(text)
    return text


def parse_yaml(text: str) -> Any:
    """YAML text as plain data. Raises `yaml.YAMLError`, which names the line, if the text is invalid."""
    try:
        content = yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader: data only
        _check_depth(content)
        return content
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply, or an alias is inside its own anchor") from None


def _check_depth(value: Any, depth: int = 0) -> None:
    if depth > 50:
        raise RecursionError
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(inner, depth + 1)


class _Dumper(yaml.SafeDumper):
    """Quotes text that a reader of YAML 1.1 or 1.2 would take for something else."""


_Dumper.add_implicit_resolver(_NUMBER, *_NUMBERS)


def dump(content: Any) -> str:
    """Plain data as YAML text that every YAML reader reads back as the same data."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def dump_inline(value: Any) -> str:
    """Plain data as YAML text in one line, to be written after a key."""
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)
    text = yaml.dump([value], Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=1e9)
    return text.strip()[1:-1]


def parse_value(text: str) -> Any:
    """The value of `key=value` on the command line: YAML if it starts with a bracket, brace or quote, else a scalar."""
    if text[:1] in ("[", "{", '"', "'"):
        return parse_yaml(text)
    return None if text in ("", "~", "null", "Null", "NULL") else _number(text)


def untyped_value(value: Any) -> Any:
    """`value` without a typed field: scalars that are numbers or Booleans of YAML 1.2 become such."""
    if isinstance(value, dict):
        return {key: untyped_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [untyped_value(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if value in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return _BOOLEANS[value.lower()]
    with suppress(ValueError):  # more digits than Python converts
        return next((convert(value) for pattern, convert in _NUMBER_FORMS if re.fullmatch(pattern, value)), value)
    return value


_NUMBER_FORMS: tuple[tuple[str, Callable[[str], Any]], ...] = (
    (r"[-+]?[0-9]+", int),
    (r"0x[0-9a-fA-F]+|0o[0-7]+", lambda text: int(text, 0)),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
    (r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", lambda text: float(text.replace(".", "", 1))),
)
"""The numbers of YAML 1.2's core schema."""


def problem(error: yaml.YAMLError) -> str:
    """The message of a YAML error, with its line if it is known."""
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or " ".join(str(error).split())
    return reason if mark is None else f"line {mark.line + 1}: {reason}"
