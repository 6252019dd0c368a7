"""Results in the layout of earlier versions. A collection rewrites them in today's (`stored_cell.py`, `cells_file.py`).

There, every line of `records.csv` repeats the code and the hardware, `curves.csv` has a line per number, and
`cells.json` repeats the config for each seed, with a digest of each of the four parts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from novobench.suite.cells_file import ENTRY_KEYS
from novobench.suite.checked_files import (
    SCHEMA,
    Decimal,
    Flag,
    Integer,
    Name,
    Number,
    OptionalNumber,
    Text,
    check_lines,
    parse_entries,
    parse_lines,
)
from novobench.suite.stored_cell import LINE_SCHEMA, CurveLine, RecordLine, StoredCell

_LAST_METRIC = "parameters"
"""The metric on the last of a cell's lines in `records.csv`."""


class _Record(NamedTuple):
    schema: Integer
    cell: Name
    task: Name
    optimizer: Name
    seed: Integer
    split: Name
    metric: Name
    value: Number
    n: Integer
    unit: Text
    update: Integer
    code: Name
    dirty: Flag
    hardware: Name


class _Point(NamedTuple):
    schema: Integer
    cell: Name
    series: Name
    update: Integer
    epoch: Decimal
    seconds: OptionalNumber
    value: Number


# ---------------------------------------------------------------------------------------------- lines in either layout


def record_lines(path: Path, content: bytes | None) -> Iterator[tuple[int, RecordLine]]:
    """Line numbers and lines of `records.csv` in the earlier or in today's layout; see `parse_lines`."""
    if not _has_column(content, b"hardware"):
        yield from parse_lines(path, content, RecordLine)
        return
    for number, line in parse_lines(path, content, _Record):
        yield number, _record(line)


def curve_lines(path: Path, content: bytes | None) -> Iterator[tuple[int, CurveLine]]:
    """The same for `curves.csv`."""
    if not _has_column(content, b"series"):
        yield from parse_lines(path, content, CurveLine)
        return
    numbers, points = [], []
    for number, point in parse_lines(path, content, _Point):
        numbers.append(number)
        points.append(point)
    yield from zip(numbers, _curves(points), strict=False)


def _has_column(content: bytes | None, name: bytes) -> bool:
    return content is not None and name in content.partition(b"\n")[0].strip().split(b",")


def _record(line: _Record) -> RecordLine:
    return RecordLine(str(LINE_SCHEMA), *line[1 : len(RecordLine._fields)])


def _curves(points: list[_Point]) -> list[CurveLine]:
    """The points of each cell, split and update as one line, in the order of cells, splits and updates."""
    merged: dict[tuple[str, str], dict[int, CurveLine]] = {}
    for point in points:
        split, _, name = point.series.partition("/")
        by_update = merged.setdefault((point.cell, split), {})
        words = f"{name}={point.value}"
        if line := by_update.get(int(point.update)):
            words = f"{line.values} {words}"
        by_update[int(point.update)] = CurveLine(
            str(LINE_SCHEMA), point.cell, split, point.update, point.epoch, point.seconds, words
        )
    return [by_update[update] for by_update in merged.values() for update in sorted(by_update)]


# ---------------------------------------------------------------------------------------------- all files


def read(folder: Path, contents: Mapping[str, bytes | None]) -> tuple[dict[str, StoredCell], dict[str, StoredCell]]:
    """The whole and the incomplete cells of files whose `cells.json` has the earlier layout.

    Raises NovobenchError, which names the file and the line, if one of them is damaged.
    """
    keys = {key: kind for key, kind in ENTRY_KEYS.items() if key != "updates"}
    entries = parse_entries(folder / "cells.json", contents["cells.json"], keys, (1, 2))
    examples = parse_entries(folder / "examples.json", contents["examples.json"], {}, (SCHEMA,))
    numbered_records = list(parse_lines(folder / "records.csv", contents["records.csv"], _Record))
    numbered_points = list(parse_lines(folder / "curves.csv", contents["curves.csv"], _Point))
    check_lines(folder / "records.csv", numbered_records, ("cell", "split", "metric"))
    check_lines(folder / "curves.csv", numbered_points, ("cell", "series", "update"))
    records, points = _by_cell(numbered_records), _by_cell(numbered_points)
    whole: dict[str, StoredCell] = {}
    incomplete: dict[str, StoredCell] = {}
    for cell in dict.fromkeys([*records, *entries, *points, *examples]):
        parts = records.get(cell, []), points.get(cell, []), examples.get(cell), entries.get(cell)
        stored = StoredCell(list(map(_record, parts[0])), _curves(parts[1]), parts[2])
        if parts[3] is not None and parts[0]:
            stored.entry = _entry(parts[3], parts[0][0])
        if _is_whole(*parts):
            stored.add_digest()
            whole[cell] = stored
        else:
            incomplete[cell] = stored
    return whole, incomplete


def _by_cell(numbered_lines: list[tuple[int, Any]]) -> dict[str, list[Any]]:
    lines = sorted((line for _, line in numbered_lines), key=lambda line: line.cell)
    return {cell: list(group) for cell, group in itertools.groupby(lines, key=lambda line: line.cell)}


def _is_whole(
    records: list[_Record], points: list[_Point], examples: dict[str, Any] | None, entry: dict[str, Any] | None
) -> bool:
    """Whether the four parts of a cell match the digests in its entry. Version 1 has no digests: whether no part is
    obviously missing."""
    if entry is None or not records:
        return False
    if "digests" not in entry:
        return records[-1].metric == _LAST_METRIC and bool(points) and examples is not None
    return entry["digests"] == {
        "records.csv": _digest([line[1:] for line in records]),
        "curves.csv": _digest([line[1:] for line in points]),
        "examples.json": _digest(examples),
        "cells.json": _digest({key: entry[key] for key in entry if key not in ("schema", "digests")}),
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _entry(entry: dict[str, Any], record: _Record) -> dict[str, Any]:
    """The entry as today's `cells.json` has it: it also says what each line of `records.csv` used to say."""
    origin = {"code": record.code, "dirty": record.dirty == "1", "hardware": record.hardware}
    others = {key: value for key, value in entry.items() if key not in ("schema", "digests")}
    return {**others, "environment": {**entry["environment"], **origin}, "updates": int(record.update)}
