"""The range of a config field: declared in its annotation, checked by one function.

A string in an annotation is an interval in mathematical notation, `Annotated[float, "[0, 1)"]`; `inf` is no bound.
In `list[...]` or `dict[str, ...]` it applies to each entry. Every number of a config must be finite, annotated or not.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from novobench.errors import ConfigError

NOT_EMPTY = "not empty"
"""Annotation of a list, mapping or string that must not be empty."""
FILE_NAME = "file name"
"""Annotation of a string that becomes part of a file's name."""

PositiveInt = Annotated[int, "[1, inf)"]
NonNegativeInt = Annotated[int, "[0, inf)"]
PositiveFloat = Annotated[float, "(0, inf)"]
NonNegativeFloat = Annotated[float, "[0, inf)"]
Fraction = Annotated[float, "[0, 1]"]
DropoutRate = Annotated[float, "[0, 1)"]
FileName = Annotated[str, FILE_NAME]
Name = Annotated[str, NOT_EMPTY]
"""A name that is only looked up, never written as a file name."""

LARGEST_INT = 2**63 - 1
"""The largest integer of torch and numpy."""
_INTERVAL = re.compile(r"([\[(])\s*(\S+)\s*,\s*(\S+)\s*([\])])")
_UNSAFE_IN_FILE_NAMES = re.compile(r"[/\\\x00-\x1f\x7f:*?\"<>|]|^\.|^\s|\s$")
_LONGEST_NAME = 100
"""Bytes. File systems allow 255 for a whole file name."""
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Characters that no path, table or UTF-8 file can hold: control characters except white space, and lone surrogates."""


_SCALARS = {str: "text", int: "a number", float: "a number", bool: "true or false"}


def check(config: Any, where: str) -> None:
    """Raise ConfigError, naming `where` and the full key, for the first field of a dataclass whose value is outside its
    range."""
    try:
        _check_fields(config, "")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_fields(config: Any, key: str) -> None:
    for name, hint in _hints(type(config)).items():  # type: ignore[arg-type]
        _check(getattr(config, name), hint, f"{key}.{name}" if key else name)


@cache
def _hints(kind: type) -> dict[str, Any]:
    fields = {spec.name for spec in dataclasses.fields(kind)}
    return {name: hint for name, hint in get_type_hints(kind, include_extras=True).items() if name in fields}


def _check(value: Any, hint: Any, key: str) -> None:
    if dataclasses.is_dataclass(value):
        _check_fields(value, key)
        return
    if value is None or hint is Any:  # the schema decides whether None is allowed
        return
    origin, inner = get_origin(hint), get_args(hint)
    scalar = inner[0] if origin is Annotated else hint
    if scalar in _SCALARS and isinstance(value, dict | list):  # OmegaConf lets them into a list of scalars
        raise ConfigError(f"'{key}' must be {_SCALARS[scalar]}, not {quoted(value)}.")
    if origin is Annotated:
        for rule in inner[1:]:
            if requirement := violated(rule, value):
                raise ConfigError(f"'{key}' must be {requirement}, not {quoted(value)}.")
        _check(value, inner[0], key)
    elif origin in (Union, types.UnionType):
        kind = next((kind for kind in inner if kind is not type(None)), Any)
        _check(value, kind, key)
    elif origin is list:
        for index, entry in enumerate(value):
            _check(entry, inner[0], f"{key}[{index}]")
    elif origin is dict:
        for name, entry in value.items():
            _check(name, inner[0], f"{key}' key '{name}")
            _check(entry, inner[1], f"{key}.{name}")
    elif isinstance(value, str) and _NOT_TEXT.search(value):
        raise ConfigError(f"'{key}' must be text without control characters, not {quoted(value)}.")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"'{key}' must be a finite number, not {value}.")
    elif isinstance(value, int) and abs(value) > LARGEST_INT:
        raise ConfigError(f"'{key}' must be a number below 2^63, not {quoted(value)}.")


def violated(rule: str, value: Any) -> str:
    """What a rule requires, in words, if `value` violates it; else an empty string."""
    if rule == NOT_EMPTY:
        if isinstance(value, str):
            return "" if value and "\n" not in value else "a name in one line, and not empty"
        return "" if value else "a collection of at least one entry"
    if rule == FILE_NAME:
        is_unsafe = (
            not value
            or len(value.encode(errors="surrogatepass")) > _LONGEST_NAME
            or _UNSAFE_IN_FILE_NAMES.search(value)
        )
        requirement = (
            f"usable in a file name: no slash or control character, no leading dot, at most {_LONGEST_NAME} bytes"
        )
        return requirement if is_unsafe else ""
    if not isinstance(value, int | float):
        return "a number"
    low_sign, low, high, high_sign = _bounds(rule)
    is_above = value >= low if low_sign == "[" else value > low
    is_below = value <= high if high_sign == "]" else value < high
    return "" if is_above and is_below else _in_words(low_sign, low, high, high_sign, whole=isinstance(value, int))


@cache
def _bounds(interval: str) -> tuple[str, float, float, str]:
    match = _INTERVAL.fullmatch(interval)
    if match is None:
        raise ValueError(f"{interval!r} is not an interval such as '[0, 1)'")
    return match[1], float(match[2]), float(match[3]), match[4]


def _in_words(low_sign: str, low: float, high: float, high_sign: str, *, whole: bool) -> str:
    lower = f"{low:g} or more" if low_sign == "[" else f"above {low:g}"
    upper = f"at most {high:g}" if high_sign == "]" else f"below {high:g}"
    if math.isinf(low):
        return upper
    if math.isinf(high):
        return lower if whole else f"{lower} and finite"
    return f"{low:g} to {high:g}" if (low_sign, high_sign) == ("[", "]") else f"{lower} and {upper}"


def quoted(value: Any) -> str:
    """A value for a message, cut if it is long."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"
