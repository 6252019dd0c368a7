"""Tables as CSV and Markdown, from the records of `results/<scale>/` alone."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from novobench import places
from novobench.config import CellConfig
from novobench.suite.checked_files import SCHEMA, write_changed, write_csv
from novobench.suite.experiment import Column, Experiment
from novobench.suite.table_rows import TableRow, table_rows


def columns_of(experiment: Experiment, rows: list[TableRow]) -> list[Column]:
    """The experiment's columns but those that the data of this scale lack: nothing that was run has a number there."""
    if not any(any(entry.values.values()) for entry in rows):
        return experiment.columns
    return [column for column in experiment.columns if any(entry.values.get(column.key) for entry in rows)]


def write_table(experiment: Experiment, scale: str, rows: list[TableRow] | None = None) -> tuple[Path, Path]:
    """Write `results/<scale>/<name>.csv` and `.md`; returns their paths. `rows`: if they are there already."""
    rows = table_rows(experiment, scale) if rows is None else rows
    folder = places.workspace().results(scale)
    csv_path, md_path = folder / f"{experiment.name}.csv", folder / f"{experiment.name}.md"
    _write_csv(csv_path, experiment, rows)
    write_changed(md_path, markdown(experiment, rows, scale).encode())
    return csv_path, md_path


def _write_csv(path: Path, experiment: Experiment, rows: list[TableRow]) -> None:
    keys = [column.key for column in columns_of(experiment, rows)]
    fields = ["schema", "row", "label", *experiment.settings, "seeds", "warnings"]
    fields += [f"{key}{part}" for key in keys for part in ("", "_sd", "_low", "_high", "_paper")]
    lines = []
    for entry in rows:
        line: dict[str, Any] = {"schema": SCHEMA, "row": entry.row.id, "label": one_line(entry.row.label)}
        line |= {key: one_line(setting(entry.config, key)) for key in experiment.settings}
        line["seeds"] = len(entry.cells)
        line["warnings"] = one_line("; ".join(entry.warnings))
        estimates = entry.estimates
        for key in keys:
            found = estimates.get(key)
            if found is None:
                line[key] = "nan" if _absent(entry, key) == _NOT_FINITE else ""
            else:
                line |= {key: _digits(found.mean), f"{key}_sd": _digits(found.sd)}
                line |= {f"{key}_low": _digits(found.low), f"{key}_high": _digits(found.high)}
            line[f"{key}_paper"] = entry.row.paper.get(key, "")
        lines.append(line)
    write_csv(path, fields, ([str(line.get(key, "")) for key in fields] for line in lines))


_NOT_FINITE = "not finite"


def _absent(entry: TableRow, key: str) -> str:
    """Why a column has no number of this row."""
    if entry.config is None:
        return ""
    if not entry.cells:
        return "not run"
    if entry.mixed:
        return "not averaged"
    return _NOT_FINITE if entry.values.get(key) else "none"


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def setting(config: CellConfig | None, key: str) -> str:
    """The value of a dotted key as a reader wants it; empty for a row without a cell."""
    if config is None:
        return ""
    value: Any = config
    for name in re.findall(r"[^.\[\]]+", key):
        if isinstance(value, list):
            value = value[int(name)] if name.isdecimal() and int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)  # type: ignore[arg-type]
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def one_line(text: str) -> str:
    """Text for a CSV file, a figure and a terminal: one line, without what these cannot hold or take for a command."""
    return " ".join(_NO_TEXT.sub(" ", text).split())


_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+")
"""Control characters, halves of characters, and what is no character."""


def plain(text: str) -> str:
    """Text that Markdown shows as it is, signs of its own included; in one line."""
    return _SPECIAL.sub(r"\\\g<0>", one_line(text))


_SPECIAL = re.compile(r"[\\`*<|~$]|\[(?=[^\]]*\][(\[:])|(?<![^\W_])_|_(?![^\W_])|&(?=#|\w+;)")
"""Markdown's signs within a line. An underscore between letters, as names have it, is none, nor is a bracket that
begins no link."""


def prose(text: str) -> str:
    """A note as Markdown shows it: text as it is, but code where there is a pair of backticks."""
    parts = re.split(r"(`[^`]+`)", one_line(text))
    escaped = "".join(part if place % 2 else _SPECIAL.sub(r"\\\g<0>", part) for place, part in enumerate(parts))
    return re.sub(r"^(\d*)([-+=>#.)])", r"\1\\\2", escaped)  # no list, quotation or heading


def markdown(experiment: Experiment, rows: list[TableRow], scale: str) -> str:
    """The table a person reads: ours (95 % interval over seeds) beside the paper's value, notes below."""
    ours_elsewhere = "" if scale == "full" else " (other data)"
    head = ["", *map(plain, experiment.settings.values()), "seeds"]
    columns = columns_of(experiment, rows)
    for column in columns:
        head += [plain(column.label), f"paper{ours_elsewhere}"]
    body, notes = [], []
    for entry in rows:
        mark = ""
        quoted = f"Number quoted by the paper from {entry.row.quoted}; not run here." if entry.row.quoted else ""
        warnings = (f"**Warning**: {prose(text)}." for text in entry.warnings)
        for note in (prose(entry.row.note or quoted), *warnings):
            if note:
                notes.append(note)
                mark += f" [{len(notes)}]"
        cells = [plain(entry.row.label) + mark, *(plain(setting(entry.config, key)) for key in experiment.settings)]
        cells.append(str(len(entry.cells)) if entry.config is not None else "")
        estimates = entry.estimates
        for column in columns:
            found, printed = estimates.get(column.key), entry.row.paper.get(column.key)
            cells += [str(found) if found else _absent(entry, column.key)]
            cells += ["" if printed is None else f"{printed:.2f}"]
        body.append(cells)
    title = plain(f"{experiment.name}: {experiment.title}")
    lines = [f"# {title}", "", f"{prose(experiment.where)}, at {scale} scale.", ""]
    lines += [_line(head), _line(["---"] * len(head)), *map(_line, body), ""]
    lines += [f"[{i}] {note}  " for i, note in enumerate(notes, 1)]
    lines += ["" if notes else None, *(f"- {prose(note)}" for note in experiment.notes)]  # type: ignore[list-item]
    lines += [f"- {prose(note)}" for note in _rates_notes(rows, scale)]
    lines += [f"- {prose(note)}" for note in _baseline_notes(experiment, rows)]
    lines += [f"- {_seeds_note(rows)}", f"- {prose(_code_note(rows))}"]
    return "\n".join(line for line in lines if line is not None) + "\n"


def _rates_notes(rows: list[TableRow], scale: str) -> list[str]:
    """Which rows train at rates that no search has found for this scale's data. At full scale, rates are recipe."""
    trained = [entry for entry in rows if entry.config is not None]
    taken = [entry.row.label for entry in trained if not entry.searched]
    if scale == "full" or not taken:
        return []
    which = "any row" if len(taken) == len(trained) else ", ".join(dict.fromkeys(taken))
    return [f"No search has been made at {scale} scale for the rates of {which}: they were made for other data."]


def _baseline_notes(experiment: Experiment, rows: list[TableRow]) -> list[str]:
    """What the data alone give; more than one line if rows differ in their data."""
    told: dict[str, list[str]] = {}
    for entry in rows:
        numbers = next((stored.numbers for stored in entry.cells.values()), {})
        if not entry.mixed and all((column.split, column.metric) in numbers for column in experiment.baselines):
            text = ", ".join(f"{c.label} {four_digits(numbers[c.split, c.metric])}" for c in experiment.baselines)
            told.setdefault(text, []).append(entry.row.label)
    if len(told) == 1:
        return [f"Without training: {text}." for text in told if text]
    return [f"Without training, for {', '.join(labels)}: {text}." for text, labels in told.items()]


def four_digits(value: float) -> str:
    """A number for a sentence; in words if it is not finite."""
    return f"{value:.4g}" if math.isfinite(value) else _NOT_FINITE


def _seeds_note(rows: list[TableRow]) -> str:
    if any(len(entry.cells) > 1 for entry in rows):
        return "± is the half-width of the 95 % t interval of the mean over seeds; a row with one seed has none."
    return "One seed: no interval can be given, and a small difference between rows means nothing. Use SEEDS=5."


def _code_note(rows: list[TableRow]) -> str:
    lines = [line for entry in rows for stored in entry.cells.values() for line in stored.records]
    hardware = sorted({line.hardware for line in lines})
    dirty = any(line.dirty == "1" for line in lines)
    trained = f"Trained on {'; '.join(hardware) or 'nothing yet'}"
    return trained + (", some of it with uncommitted changes to the code." if dirty else ".")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
