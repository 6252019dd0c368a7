"""Results files, CSV and JSON, read with everything checked: what is damaged is named, never guessed at."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from novobench.errors import NovobenchError
from novobench.files import number, write_bytes
from novobench.places import display_path

SCHEMA = 1
"""Of the lines of a CSV file."""

Values = tuple[str, ...]
Line = dict[str, str]
Kinds = Mapping[str, Callable[[str], Any]]
"""The columns of a CSV file, each with a function that raises ValueError for text that does not belong there."""
_UNFIT = re.compile("[\r\n\0\ud800-\udfff]")
"""What no value holds: some reader of CSV would stumble over it."""
_LONGEST = 10_000
"""Characters of a value. Readers of CSV have a limit, too: Python's is 131,072."""


def name(text: str) -> str:
    if not text:
        raise ValueError("empty")
    return text


def yes_or_no(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(text)
    return text == "1"


def number_or_empty(text: str) -> float | None:
    return number(text) if text else None


def read_lines(path: Path, kinds: Kinds, unique: Sequence[str] = ()) -> list[Line]:
    """The lines of a results file; none if it does not exist. Raises NovobenchError, naming file and line, unless each
    has all columns, this schema and values of their kinds, and no two agree in the columns `unique`."""
    lines: list[Line] = []
    seen: set[tuple[str, ...]] = set()
    for number_of_line, values in read_values(path, kinds):
        where = f"line {number_of_line}"
        try:
            line = check_line(dict(zip(kinds, values, strict=True)), kinds)
        except ValueError as error:
            raise damaged(path, f"{where} {error}") from None
        key = tuple(line[column] for column in unique)
        if key and key in seen:
            raise damaged(path, f"{where} repeats {' '.join(key)}")
        seen.add(key)
        lines.append(line)
    return lines


def read_values(path: Path, kinds: Kinds) -> Iterator[tuple[int, Values]]:
    """The number and the values of each line of a results file, in the order of `kinds`; nothing if it does not exist.

    Raises NovobenchError, naming file and line, if the columns are others; the values are not looked at. Equal texts
    are one object: of millions of lines, most columns hold a few words.
    """
    text = _text(path)
    if text is None:
        return
    reader = csv.reader(_split(text), strict=True)
    known: dict[str, str] = {}
    try:
        header = next(reader, [])
        if sorted(header) != sorted(kinds):
            raise damaged(path, f"its header {_difference(header, kinds)}")
        if not text.endswith("\n"):
            raise damaged(path, "its last line is cut")
        order = [header.index(column) for column in kinds]
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise damaged(path, f"line {reader.line_num} has {len(values)} of {len(header)} columns")
            if len(known) > _MOST_KNOWN:
                known.clear()
            ordered = [values[place] for place in order]
            yield reader.line_num, tuple(map(known.setdefault, ordered, ordered))
    except csv.Error as error:
        raise damaged(path, f"line {reader.line_num} is no CSV ({error})") from None


_MOST_KNOWN = 100_000


def _split(text: str) -> Iterator[str]:
    """The lines of a text, one at a time; only a line feed ends one."""
    start = 0
    while end := text.find("\n", start) + 1:
        yield text[start:end]
        start = end
    yield text[start:]


def write_csv(path: Path, fields: Iterable[str], lines: Iterable[Sequence[str]]) -> None:
    """Write a CSV file with a heading, atomically; the file stays as it is if it holds just that."""
    buffer = io.BytesIO()
    with io.TextIOWrapper(buffer, encoding="utf-8", newline="", write_through=True) as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(fields)
        writer.writerows(lines)
        text.flush()
        write_changed(path, buffer.getvalue())


def write_changed(path: Path, content: bytes) -> None:
    """Write a file atomically, unless it holds just that: its time then tells when it last changed."""
    try:
        same = path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        same = False
    if not same:
        write_bytes(path, content)


def check_line(line: Mapping[str, str], kinds: Kinds) -> Line:
    """The line in the order of its columns. Raises ValueError unless it has all, of their kinds, and the schema."""
    if line.keys() != kinds.keys():
        raise ValueError(_difference(line, kinds))
    for column, kind in kinds.items():
        try:
            kind(line[column])
        except ValueError:
            raise ValueError(f"has '{line[column]}' as {column}") from None
        if _UNFIT.search(line[column]):
            raise ValueError(f"has a line break, or what is no text, as {column}")
        if len(line[column]) > _LONGEST:
            raise ValueError(f"has {len(line[column])} characters as {column}; {_LONGEST} are the most")
    if int(line["schema"]) != SCHEMA:
        raise ValueError(f"has schema {line['schema']}, and this novobench reads {SCHEMA}")
    return {column: line[column] for column in kinds}


def _difference(columns: Iterable[str], kinds: Kinds) -> str:
    """How columns differ from those they should be."""
    absent, unknown = sorted(kinds.keys() - set(columns)), sorted(set(columns) - kinds.keys())
    parts = [f"lacks {absent}"] * bool(absent) + [f"has unknown columns {unknown}"] * bool(unknown)
    return " and ".join(parts) or "has a column twice"


def read_entries(path: Path, keys: Mapping[str, type], schemas: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Cell -> its entry of a JSON file; empty if the file does not exist. Raises NovobenchError that names the file."""
    text = _text(path)
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"it is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise damaged(path, "it holds no object")
    for cell, entry in content.items():
        try:
            check_entry(entry, keys, schemas)
        except ValueError as error:
            raise damaged(path, f"the entry of {cell} {error}") from None
    return content


def check_entry(entry: Any, keys: Mapping[str, type], schemas: Sequence[int]) -> None:
    """Raises ValueError unless an entry has one of the schemas, and all keys with values of their types."""
    if not isinstance(entry, dict) or "schema" not in entry:
        raise ValueError("has no schema")
    if entry["schema"] not in schemas:
        raise ValueError(f"has schema {entry['schema']}, and this novobench reads {max(schemas)}")
    for key, kind in keys.items():
        if not isinstance(entry.get(key), kind):
            raise ValueError(f"lacks its {key}")


def _text(path: Path) -> str | None:
    """A file's text; None if there is none. Raises NovobenchError if it cannot be read or has the marks of a merge."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise damaged(path, f"it is not UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise NovobenchError(
            f"Cannot read {display_path(path)}: {error.strerror}. Put the file back, or remove it."
        ) from None
    marked = any(f"\n{mark}" in f"\n{text[:7]}" or f"\n{mark}" in text for mark in ("<" * 7, "=" * 7, ">" * 7))
    if marked and (conflict := re.search(r"^(<{7}|={7}|>{7})(?=\s|$)", text, re.MULTILINE)):
        number_of_line = text.count("\n", 0, conflict.start()) + 1
        raise damaged(path, f"line {number_of_line} is the mark of a merge conflict, '{conflict[0]}'")
    return text


def damaged(path: Path, what: str) -> NovobenchError:
    """The error of a results file that cannot be used as it is."""
    return NovobenchError(
        f"{display_path(path)} is damaged: {what}. Restore it from git (git checkout -- {display_path(path)}), or "
        "remove it, and run the same command again: it is rebuilt from the run folders that are left."
    )
