"""Reading and writing the CSV and JSON files of `results/<scale>/`: every damage is reported, nothing is guessed.

A CSV file is described by a NamedTuple whose fields are its columns. All values are text, as they are in the file; the
annotation of a column (`Integer`, `Number`, …) holds the function that checks them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from novobench.errors import NovobenchError
from novobench.files import number, write_bytes
from novobench.places import display_path

SCHEMA = 1
"""Version of the files whose lines or entries have no version of their own."""


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("empty")
    return text


def _zero_or_one(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(text)
    return text == "1"


def _number_or_empty(text: str) -> float | None:
    return number(text) if text else None


def named_numbers(text: str) -> dict[str, float]:
    """Name -> number of `loss=2.5 lr=0.1`; NaN for a number that was not finite. Raises ValueError for other text."""
    numbers = {}
    for word in text.split(" "):
        name, _, value = word.rpartition("=")
        if not name or name in numbers:
            raise ValueError(text)
        numbers[name] = number(value)
    return numbers


Text = Annotated[str, str]
Name = Annotated[str, _not_empty]
Integer = Annotated[str, int]
Decimal = Annotated[str, float]
Number = Annotated[str, number]
"""A float, or `nan` if the value was not finite."""
OptionalNumber = Annotated[str, _number_or_empty]
Flag = Annotated[str, _zero_or_one]
NamedNumbers = Annotated[str, named_numbers]
"""`loss=2.5 lr=0.1`"""

Line = TypeVar("Line", bound=tuple[str, ...])
"""A NamedTuple that describes a CSV file; its first column is `schema`."""

_FORBIDDEN = re.compile("[\r\n\0\ud800-\udfff]")
"""Characters that some reader of CSV cannot handle."""
_MAX_LENGTH = 10_000
"""Characters per value. Readers of CSV have a limit too; Python's is 131,072."""
_MAX_INTERNED = 100_000


# ---------------------------------------------------------------------------------------------- CSV


def read_lines(path: Path, line_type: type[Line], unique: Sequence[str] = ()) -> list[Line]:
    """All lines of a CSV file, checked by `check_lines`; an empty list if the file does not exist."""
    numbered_lines = list(parse_lines(path, read_bytes(path), line_type))
    check_lines(path, numbered_lines, unique)
    return [line for _, line in numbered_lines]


def parse_lines(path: Path, content: bytes | None, line_type: type[Line]) -> Iterator[tuple[int, Line]]:
    """Line numbers and lines of a CSV file with this content; nothing for None.

    The values are not checked (see `check_lines`). Equal values are one object: among millions of lines, most columns
    hold a few distinct words. Raises NovobenchError, which names file and line, unless the file has exactly the columns
    of `line_type`, in any order, and every line has all of them.
    """
    if content is None:
        return
    text = _decode(path, content)
    reader = csv.reader(_split(text), strict=True)
    interned: dict[str, str] = {}
    try:
        header, columns = next(reader, []), list(_checkers(line_type))
        if sorted(header) != sorted(columns):
            raise damaged(path, f"its header {_difference(header, columns)}")
        if not text.endswith("\n"):
            raise damaged(path, "its last line is cut off")
        positions = [header.index(column) for column in columns]
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise damaged(path, f"line {reader.line_num} has {len(values)} of {len(header)} columns")
            if len(interned) > _MAX_INTERNED:
                interned.clear()
            ordered = [values[position] for position in positions]
            line = line_type._make(map(interned.setdefault, ordered, ordered))  # type: ignore[attr-defined]
            yield reader.line_num, line
    except csv.Error as error:
        raise damaged(path, f"line {reader.line_num} is not valid CSV ({error})") from None


def check_lines(
    path: Path, numbered_lines: Iterable[tuple[int, Line]], unique: Sequence[str] = (), schema: int = SCHEMA
) -> None:
    """Raise NovobenchError, which names file and line, unless every line passes `check_line` and no two lines agree in
    all columns of `unique`."""
    keys: set[tuple[str, ...]] = set()
    for line_number, line in numbered_lines:
        try:
            check_line(line, schema)
        except ValueError as error:
            raise damaged(path, f"line {line_number} {error}") from None
        key = tuple(getattr(line, column) for column in unique)
        if key and key in keys:
            raise damaged(path, f"line {line_number} repeats {' '.join(key)}")
        keys.add(key)


def check_line(line: Line, schema: int = SCHEMA) -> Line:
    """The line itself. Raises ValueError unless it has this schema and every value is valid in its column."""
    for (column, checker), value in zip(_checkers(type(line)).items(), line, strict=True):
        try:
            checker(value)
        except ValueError:
            raise ValueError(f"has '{value}' as {column}") from None
        check_text(value, column)
    if int(line[0]) != schema:
        raise ValueError(f"has schema {line[0]}, and this novobench reads {schema}")
    return line


def check_text(text: str, name: str) -> None:
    """Raise ValueError, which calls the text by its name, unless it is one line that every reader of CSV can hold."""
    if _FORBIDDEN.search(text):
        raise ValueError(f"has a line break or an invalid character in {name}")
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"has {len(text)} characters in {name}; the limit is {_MAX_LENGTH}")


@cache
def _checkers(line_type: type) -> dict[str, Callable[[str], Any]]:
    """Column -> the function of its annotation, which raises ValueError for an invalid value."""
    hints = get_type_hints(line_type, include_extras=True)
    return {column: hint.__metadata__[0] for column, hint in hints.items()}


def csv_bytes(columns: Iterable[str], lines: Iterable[Sequence[str]]) -> bytes:
    """The content of a CSV file with a header."""
    buffer = io.BytesIO()
    with io.TextIOWrapper(buffer, encoding="utf-8", newline="", write_through=True) as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(lines)
        text.flush()
        return buffer.getvalue()


def _split(text: str) -> Iterator[str]:
    """The lines of a text, one at a time. Only a line feed ends a line."""
    start = 0
    while end := text.find("\n", start) + 1:
        yield text[start:end]
        start = end
    yield text[start:]


def _difference(columns: Sequence[str], expected: Sequence[str]) -> str:
    """How the columns of a file differ from the expected ones."""
    missing, unknown = sorted(set(expected) - set(columns)), sorted(set(columns) - set(expected))
    parts = [f"lacks {missing}"] * bool(missing) + [f"has unknown columns {unknown}"] * bool(unknown)
    return " and ".join(parts) or "has a column twice"


# ---------------------------------------------------------------------------------------------- JSON


def parse_entries(
    path: Path, content: bytes | None, keys: Mapping[str, type], schemas: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Cell -> its entry in a JSON file with this content; empty for None. Raises NovobenchError, which names the file,
    if the file is damaged, or if an entry has none of the schemas or fails `check_entry`."""
    entries = {} if content is None else parse_object(path, content)
    for cell, entry in entries.items():
        try:
            if not isinstance(entry, dict) or "schema" not in entry:
                raise ValueError("has no schema")
            if entry["schema"] not in schemas:
                raise ValueError(f"has schema {entry['schema']}, and this novobench reads {max(schemas)}")
            check_entry(entry, keys)
        except ValueError as error:
            raise damaged(path, f"the entry of {cell} {error}") from None
    return entries


def parse_object(path: Path, content: bytes) -> dict[str, Any]:
    """The object in a JSON file with this content. Raises NovobenchError, which names the file, if there is none."""
    try:
        parsed = json.loads(_decode(path, content))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"it is not valid JSON ({error})") from None
    if not isinstance(parsed, dict):
        raise damaged(path, "it does not hold an object")
    return parsed


def check_entry(entry: Any, keys: Mapping[str, type]) -> None:
    """Raise ValueError unless an entry has all keys with values of their types."""
    if not isinstance(entry, dict):
        raise ValueError("is not an object")
    for key, kind in keys.items():
        if not isinstance(entry.get(key), kind):
            raise ValueError(f"lacks its {key}")


# ---------------------------------------------------------------------------------------------- both


def read_bytes(path: Path) -> bytes | None:
    """The content of a file; None if it does not exist. Raises NovobenchError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NovobenchError(
            f"Cannot read {display_path(path)}: {error.strerror}. Put the file back, or remove it."
        ) from None


def write_changed(path: Path, content: bytes) -> None:
    """Write a file atomically, unless it has this content already: its time then says when it last changed."""
    try:
        unchanged = path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        unchanged = False
    if not unchanged:
        write_bytes(path, content)


def damaged(path: Path, what: str) -> NovobenchError:
    """The error about a results file that cannot be used as it is."""
    return NovobenchError(
        f"{display_path(path)} is damaged: {what}. Restore it from git (git checkout -- {display_path(path)}), or "
        "remove it, and run the same command again: it is rebuilt from the run folders that still exist."
    )


def _decode(path: Path, content: bytes) -> str:
    """The text of a file. Raises NovobenchError if it is not UTF-8 or contains a merge conflict."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise damaged(path, f"it is not UTF-8 ({error.reason} at byte {error.start})") from None
    has_marker = any(f"\n{mark}" in f"\n{text[:7]}" or f"\n{mark}" in text for mark in ("<" * 7, "=" * 7, ">" * 7))
    if has_marker and (conflict := re.search(r"^(<{7}|={7}|>{7})(?=\s|$)", text, re.MULTILINE)):
        line_number = text.count("\n", 0, conflict.start()) + 1
        raise damaged(path, f"line {line_number} is a merge conflict marker, '{conflict[0]}'")
    return text
