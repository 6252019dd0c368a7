"""Tables as CSV and Markdown, from the records of `results/<scale>/` alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from novobench.config import CellConfig, cell_id, to_yaml
from novobench.files import read_csv, write_csv, write_text
from novobench.suite import records
from novobench.suite.curves import at_equal, read_curves
from novobench.suite.experiment import Column, Experiment, Row, row_config, searched
from novobench.suite.statistics import Estimate, estimate

Values = dict[tuple[str, str], float]
"""Split and metric -> value of one cell."""


@dataclass(frozen=True)
class TableRow:
    """A row with what its finished cells say: an estimate a column, none where nothing is recorded."""

    row: Row
    config: CellConfig | None
    cells: list[str]
    estimates: dict[str, Estimate]
    warnings: list[str]
    """Texts of the experiment's flags that some seed raised."""


def table_rows(experiment: Experiment, scale: str) -> list[TableRow]:
    """Every row of the experiment with the estimates over all seeds on record."""
    recorded: dict[str, Values] = {}
    for line in read_csv(records.results_folder(scale) / "records.csv"):
        recorded.setdefault(line["cell"], {})[line["split"], line["metric"]] = float(line["value"])
    configs = [row_config(experiment, row, scale, seed=0) for row in experiment.rows]
    cells = [
        [] if config is None else sorted(_same_but_seed(cell_id(config), recorded), key=_seed) for config in configs
    ]
    every = [cell for mine in cells for cell in mine]
    values = {column.key: _values(column, every, recorded, scale) for column in experiment.columns}
    rows = []
    for row, config, mine in zip(experiment.rows, configs, cells, strict=True):
        found = {key: [of_cell[cell] for cell in mine if cell in of_cell] for key, of_cell in values.items()}
        estimates = {key: estimate(numbers) for key, numbers in found.items() if numbers}
        rows.append(TableRow(row, config, mine, estimates, _warnings(experiment, mine, recorded)))
    return rows


def _warnings(experiment: Experiment, cells: list[str], recorded: dict[str, Values]) -> list[str]:
    found = []
    for flag in experiment.flags:
        raised = sum(recorded[cell].get((flag.split, flag.metric), flag.above) > flag.above for cell in cells)
        if raised:
            found.append(f"{flag.text} ({raised} of {len(cells)} seeds)")
    return found


def columns_of(experiment: Experiment, rows: list[TableRow]) -> list[Column]:
    """The experiment's columns but those that the data of this scale lack: nothing that was run has a number there."""
    if not any(entry.estimates for entry in rows):
        return experiment.columns
    return [column for column in experiment.columns if any(column.key in entry.estimates for entry in rows)]


def _values(column: Column, cells: list[str], recorded: dict[str, Values], scale: str) -> dict[str, float]:
    """Cell -> the column's number, for those that have it."""
    if column.when:
        curves = {cell: curve for cell, curve in read_curves(scale).items() if cell in cells}
        return at_equal(curves, f"{column.when}/{column.metric}", f"{column.split}/{column.metric}")
    own, other = (column.split, column.metric), (column.minus, column.metric)
    return {
        cell: recorded[cell][own] - (recorded[cell][other] if column.minus else 0.0)
        for cell in cells
        if own in recorded[cell] and (not column.minus or other in recorded[cell])
    }


def _same_but_seed(cell: str, known: Any) -> list[str]:
    pattern = re.compile(re.sub(r"-s\d+-", r"-s\\d+-", cell))
    return [other for other in known if pattern.fullmatch(other)]


def _seed(cell: str) -> int:
    match = re.search(r"-s(\d+)-", cell)
    return int(match[1]) if match else 0


def write_table(experiment: Experiment, scale: str) -> tuple[Path, Path]:
    """Write `results/<scale>/<name>.csv` and `.md`; returns their paths."""
    rows = table_rows(experiment, scale)
    folder = records.results_folder(scale)
    csv_path, md_path = folder / f"{experiment.name}.csv", folder / f"{experiment.name}.md"
    _write_csv(csv_path, experiment, rows)
    write_text(md_path, markdown(experiment, rows, scale))
    return csv_path, md_path


def _write_csv(path: Path, experiment: Experiment, rows: list[TableRow]) -> None:
    keys = [column.key for column in columns_of(experiment, rows)]
    fields = ["schema", "row", "label", *experiment.shown, "seeds", *(["warnings"] if experiment.flags else [])]
    fields += [f"{key}{part}" for key in keys for part in ("", "_sd", "_low", "_high", "_paper")]
    lines = []
    for entry in rows:
        line: dict[str, Any] = {"schema": records.SCHEMA, "row": entry.row.id, "label": entry.row.label}
        line |= {key: setting(entry.config, key) for key in experiment.shown}
        line["seeds"] = len(entry.cells)
        if experiment.flags:
            line["warnings"] = "; ".join(entry.warnings)
        for key in keys:
            found = entry.estimates.get(key)
            if found is not None:
                line |= {key: _digits(found.mean), f"{key}_sd": _digits(found.sd)}
                line |= {f"{key}_low": _digits(found.low), f"{key}_high": _digits(found.high)}
            line[f"{key}_paper"] = entry.row.printed.get(key, "")
        lines.append(line)
    write_csv(path, fields, lines)


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def setting(config: CellConfig | None, key: str) -> str:
    """The value of a dotted key as a reader wants it; empty for a row without a cell."""
    if config is None:
        return ""
    value = OmegaConf.select(OmegaConf.create(to_yaml(config)), key)
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def markdown(experiment: Experiment, rows: list[TableRow], scale: str) -> str:
    """The table a person reads: ours (95 % interval over seeds) beside the paper's value, notes below."""
    ours_elsewhere = "" if scale == "paper" else " (other data)"
    head = ["", *experiment.shown.values(), "seeds"]
    columns = columns_of(experiment, rows)
    for column in columns:
        head += [f"{column.label}", f"paper{ours_elsewhere}"]
    body, notes = [], []
    for entry in rows:
        mark = ""
        quoted = f"Number quoted by the paper from {entry.row.quoted}; not run here." if entry.row.quoted else ""
        for note in (entry.row.note or quoted, *(f"**Warning**: {text}." for text in entry.warnings)):
            if note:
                notes.append(note)
                mark += f" [{len(notes)}]"
        cells = [entry.row.label + mark, *(setting(entry.config, key) for key in experiment.shown)]
        cells.append(str(len(entry.cells)) if entry.config is not None else "")
        for column in columns:
            found, printed = entry.estimates.get(column.key), entry.row.printed.get(column.key)
            cells += [str(found) if found else "" if entry.config is None else "not run"]
            cells += ["" if printed is None else f"{printed:.2f}"]
        body.append(cells)
    lines = [f"# {experiment.name}: {experiment.title}", "", f"{experiment.where}, at {scale} scale.", ""]
    lines += [_line(head), _line(["---"] * len(head)), *map(_line, body), ""]
    lines += [f"[{i}] {note}  " for i, note in enumerate(notes, 1)]
    lines += ["" if notes else None, *(f"- {note}" for note in experiment.notes)]  # type: ignore[list-item]
    lines += [f"- {note}" for note in _rates_notes(experiment, rows, scale)]
    lines += [f"- {note}" for note in _beside_notes(experiment, rows, scale)]
    lines += [f"- {_seeds_note(rows)}", f"- {_code_note(rows, scale)}"]
    return "\n".join(line for line in lines if line is not None) + "\n"


def _rates_notes(experiment: Experiment, rows: list[TableRow], scale: str) -> list[str]:
    """Which rows train at rates that no search has found for this scale's data. At paper scale, rates are recipe."""
    trained = [entry.row for entry in rows if entry.config is not None]
    taken = [row.label for row in trained if not searched(experiment, row, scale)]
    if scale == "paper" or not taken:
        return []
    which = "any row" if len(taken) == len(trained) else ", ".join(dict.fromkeys(taken))
    return [f"No search has been made at {scale} scale for the rates of {which}: they were made for other data."]


def _beside_notes(experiment: Experiment, rows: list[TableRow], scale: str) -> list[str]:
    """What the data alone give; more than one line if rows differ in their data."""
    lines = read_csv(records.results_folder(scale) / "records.csv")
    told: dict[str, list[str]] = {}
    for entry in rows:
        numbers = {(x["split"], x["metric"]): float(x["value"]) for x in lines if x["cell"] in entry.cells[:1]}
        if entry.cells and all((column.split, column.metric) in numbers for column in experiment.beside):
            text = ", ".join(f"{c.label} {numbers[c.split, c.metric]:.4g}" for c in experiment.beside)
            told.setdefault(text, []).append(entry.row.label)
    if len(told) == 1:
        return [f"Without training: {text}." for text in told if text]
    return [f"Without training, for {', '.join(labels)}: {text}." for text, labels in told.items()]


def _seeds_note(rows: list[TableRow]) -> str:
    if any(len(entry.cells) > 1 for entry in rows):
        return "± is the half-width of the 95 % t interval of the mean over seeds; a row with one seed has none."
    return "One seed: no interval can be given, and a small difference between rows means nothing. Use SEEDS=5."


def _code_note(rows: list[TableRow], scale: str) -> str:
    mine = {cell for entry in rows for cell in entry.cells}
    lines = [x for x in read_csv(records.results_folder(scale) / "records.csv") if x["cell"] in mine]
    hardware = sorted({line["hardware"] for line in lines})
    dirty = any(line["dirty"] == "1" for line in lines)
    trained = f"Trained on {'; '.join(hardware) or 'nothing yet'}"
    return trained + (", some of it with uncommitted changes to the code." if dirty else ".")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
