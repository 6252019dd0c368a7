"""Tables as CSV and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from novobench import places
from novobench.suite.checked_files import SCHEMA, csv_bytes, write_changed
from novobench.suite.claims_report import table_lines
from novobench.suite.differences import Difference, differences
from novobench.suite.experiment import Column, Experiment
from novobench.suite.ledger import ledger_notes
from novobench.suite.markdown_text import NOT_FINITE, four_digits, markdown_table, one_line, plain, prose
from novobench.suite.origin import origins_note
from novobench.suite.power import seeds_per_row
from novobench.suite.reproduction import reproductions
from novobench.suite.table_rows import TableRow, distinct_labels, seed_noise, setting


def write_table(experiment: Experiment, scale: str, rows: Sequence[TableRow]) -> tuple[Path, Path]:
    """Write `results/<scale>/<name>.csv` and `.md`; returns their paths.

    If rows are compared, `<name>_differences.csv` has the differences.
    """
    folder = places.workspace().results(scale)
    csv_path, markdown_path = folder / f"{experiment.name}.csv", folder / f"{experiment.name}.md"
    write_changed(csv_path, _csv(experiment, rows))
    differences_path = folder / f"{experiment.name}_differences.csv"
    if compared := differences(experiment, rows):
        write_changed(differences_path, _differences_csv(compared))
    else:
        differences_path.unlink(missing_ok=True)
    write_changed(markdown_path, markdown(experiment, rows, scale).encode())
    return csv_path, markdown_path


def _columns(experiment: Experiment, rows: Sequence[TableRow]) -> list[Column]:
    """The experiment's columns without those that the data of this scale lack: no finished cell has a value there."""
    with_values = [column for column in experiment.columns if any(row.values.get(column.key) for row in rows)]
    return with_values or experiment.columns


def _csv(experiment: Experiment, rows: Sequence[TableRow]) -> bytes:
    keys = [column.key for column in _columns(experiment, rows)]
    fields = ["schema", "row", "label", *experiment.settings, "seeds", "warnings"]
    fields += [f"{key}{part}" for key in keys for part in ("", "_sd", "_low", "_high", "_paper")]
    noise_key = experiment.columns[0].key
    noise = seed_noise(rows, noise_key)
    fields += [] if noise is None else [f"{noise_key}_pooled_sd"]
    lines = []
    for row in rows:
        line: dict[str, Any] = {"schema": SCHEMA, "row": row.row.id, "label": one_line(row.row.label)}
        line |= {key: one_line(setting(row.config, key)) for key in experiment.settings}
        line["seeds"] = len(row.cells)
        line["warnings"] = one_line("; ".join(row.warnings))
        estimates = row.estimates
        for key in keys:
            if key in estimates:
                estimate = estimates[key]
                line |= {key: _digits(estimate.mean), f"{key}_sd": _digits(estimate.sd)}
                line |= {f"{key}_low": _digits(estimate.low), f"{key}_high": _digits(estimate.high)}
            else:
                line[key] = "nan" if _reason_without_value(row, key) == NOT_FINITE else ""
            line[f"{key}_paper"] = row.row.paper.get(key, "")
        line[f"{noise_key}_pooled_sd"] = _digits(noise)
        lines.append(line)
    return csv_bytes(fields, ([str(line.get(key, "")) for key in fields] for line in lines))


def _differences_csv(compared: Sequence[Difference]) -> bytes:
    fields = ["schema", "row", "other", "column", "seeds", "difference", "sd", "low", "high", "level", "p", "p_holm"]
    fields += ["bca_low", "bca_high", "verdict", "more_seeds", "left_out", "warnings"]
    lines = []
    for each in compared:
        line = [str(SCHEMA), each.row.row.id, each.other.row.id, each.column.key]
        if (verdict := each.verdict) is None:
            line += [str(len(each.row.cells)), "0", "0", *[""] * 7, each.verdict_text, "", ""]
        else:
            numbers = [verdict.estimate.mean, verdict.estimate.sd, verdict.low, verdict.high, verdict.level]
            numbers += [verdict.p, verdict.p_adjusted, verdict.bca_low, verdict.bca_high]
            more = "" if verdict.more_seeds is None else str(verdict.more_seeds)
            line += [str(verdict.n), *map(_digits, numbers), each.verdict_text, more, str(verdict.left_out)]
        lines.append([*line, "; ".join(each.warnings)])
    return csv_bytes(fields, lines)


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _reason_without_value(row: TableRow, key: str) -> str:
    """Why a column has no value in this row."""
    if row.config is None:
        return ""
    if not row.cells:
        return "not run"
    if row.has_mixed_data:
        return "not averaged"
    return NOT_FINITE if row.values.get(key) else "none"


# ---------------------------------------------------------------------------------------------- Markdown


def markdown(experiment: Experiment, rows: Sequence[TableRow], scale: str) -> str:
    """The table that people read: our values, with 95 % intervals over seeds, next to the paper's; notes below it.

    Diagnostic rows have a table of their own below the others. It leaves out rows without a cell at this scale, and so
    does the first table if they are not in the paper.
    """
    columns = _columns(experiment, rows)
    footnotes: list[str] = []
    lines = [f"# {plain(f'{experiment.name}: {experiment.title}')}", ""]
    lines += [f"{prose(experiment.where)}, at {scale} scale.", ""]
    regular = [row for row in rows if not row.row.diagnostic and (row.row.in_paper or row.config is not None)]
    diagnostic = [row for row in rows if row.row.diagnostic and row.config is not None]
    for heading, block in (("", regular), ("Diagnostic rows:", diagnostic)):
        if block:
            lines += [heading, ""] if heading else []
            lines += [*_block(experiment, block, scale, columns, footnotes), ""]
    if footnotes:
        lines += [*(f"[{number}] {note}  " for number, note in enumerate(footnotes, 1)), ""]
    compared = differences(experiment, rows)
    lines += _differences_block(experiment, rows, compared)
    lines += table_lines(experiment, rows, scale)
    notes = [*experiment.notes, *_rates_notes(rows, scale), *_baseline_notes(experiment, rows)]
    if experiment.group == "tables" and any(not row.row.in_paper for row in [*regular, *diagnostic]):
        notes.append("†: not in the paper.")
    notes += ledger_notes(experiment.name, [row.row.id for row in rows if row.config is not None], scale)
    notes += [*_noise_notes(experiment, rows), _seeds_note(rows), *_reproduction_notes(experiment, columns, rows)]
    notes += [*_differences_notes(experiment, rows, compared), origins_note(rows)]
    return "\n".join([*lines, *(f"- {prose(note)}" for note in notes)]) + "\n"


def _block(
    experiment: Experiment, rows: Sequence[TableRow], scale: str, columns: Sequence[Column], footnotes: list[str]
) -> list[str]:
    """The lines of a Markdown table. Appends the rows' notes and warnings to `footnotes`."""
    has_paper = experiment.group == "tables"
    paper = ["paper" if scale == "full" else "paper (other data)"] * has_paper
    head = ["", *map(plain, experiment.settings.values()), "seeds"]
    head += [text for column in columns for text in (plain(column.label), *paper)]
    body = []
    for row in rows:
        quoted = f"The paper quotes this value from {row.row.quoted}; it is not run here." if row.row.quoted else ""
        texts = [prose(row.row.note or quoted), *(f"**Warning**: {prose(text)}." for text in row.warnings)]
        marks = ""
        for text in filter(None, texts):
            footnotes.append(text)
            marks += f" [{len(footnotes)}]"
        label = plain(row.row.label) + ("" if row.row.in_paper or not has_paper else " †")
        cells = [label + marks, *(plain(setting(row.config, key)) for key in experiment.settings)]
        cells.append(str(len(row.cells)) if row.config is not None else "")
        estimates, outcomes = row.estimates, reproductions(experiment, row)
        for column in columns:
            estimate, paper_value = estimates.get(column.key), row.row.paper.get(column.key)
            cells.append(str(estimate) if estimate else _reason_without_value(row, column.key))
            if has_paper:
                outcome = f": {outcomes[column.key]}" if column.key in outcomes else ""
                cells.append("" if paper_value is None else f"{paper_value:.2f}{outcome}")
        body.append(cells)
    return markdown_table(head, body)


def _differences_block(experiment: Experiment, rows: Sequence[TableRow], compared: Sequence[Difference]) -> list[str]:
    """The lines below the table that compare rows; none without comparisons."""
    if not compared:
        return []
    labels = distinct_labels(experiment, rows)
    several = len({each.column.key for each in compared}) > 1
    body = []
    for each in compared:
        cells = [plain(labels[each.row.row.id]), plain(labels[each.other.row.id])]
        cells += [plain(each.column.label)] if several else []
        seeds = len(each.row.cells) if each.verdict is None else each.verdict.n
        body.append([*cells, *each.texts(), str(seeds), each.verdict_text])
    head = ["row", "minus", *(["column"] if several else []), "difference", "interval", "BCa", "seeds", "verdict"]
    column = compared[0].column
    heading = "Differences" if several else f"Differences in {plain(column.label)} ({column.better} is better)"
    return [f"{heading}:", "", *markdown_table(head, body), "", *_pair_warnings(compared, labels)]


def _pair_warnings(compared: Sequence[Difference], labels: Mapping[str, str]) -> list[str]:
    """A line for each reason why some seeds are no clean pairs, with the differences that they are in."""
    found: dict[str, list[Difference]] = {}
    for each in compared:
        for text in each.warnings:
            found.setdefault(text, []).append(each)
    lines = []
    for text, affected in found.items():
        pairs = dict.fromkeys(f"{labels[each.row.row.id]} minus {labels[each.other.row.id]}" for each in affected)
        where = "all differences" if len(affected) == len(compared) else ", ".join(pairs)
        lines += [f"**Warning**: {plain(f'in {where}, {text}')}.", ""]
    return lines


def _rates_notes(rows: Sequence[TableRow], scale: str) -> list[str]:
    """Which rows train with rates that no search found for this scale's data. At full scale rates belong to the
    recipe."""
    trained = [row for row in rows if row.config is not None]
    labels = [row.row.label for row in trained if not row.searched]
    if scale == "full" or not labels:
        return []
    rates = "The rates" if len(labels) == len(trained) else f"The rates of {', '.join(dict.fromkeys(labels))}"
    return [f"{rates} were not searched at {scale} scale; they come from a recipe for other data."]


def _baseline_notes(experiment: Experiment, rows: Sequence[TableRow]) -> list[str]:
    """What can be had without training; several lines if rows differ in their data."""
    labels_by_text: dict[str, list[str]] = {}
    for row in rows:
        if row.has_mixed_data or not row.cells:
            continue
        values = [(c.label, row.results.value(row.cells[0], c.split, c.metric)) for c in experiment.baselines]
        texts = [f"{label} {four_digits(value)}" for label, value in values if value is not None]
        if texts and len(texts) == len(values):
            labels_by_text.setdefault(", ".join(texts), []).append(row.row.label)
    if len(labels_by_text) == 1:
        return [f"Without training: {text}." for text in labels_by_text]
    return [f"Without training, for {', '.join(labels)}: {text}." for text, labels in labels_by_text.items()]


def _noise_notes(experiment: Experiment, rows: Sequence[TableRow]) -> list[str]:
    """How much the first column varies with the seed, and what that takes."""
    column = experiment.columns[0]
    noise = seed_noise(rows, column.key)
    if noise is None:
        return []
    sd = f"Seed noise of {column.label}: a standard deviation of {noise:.2g}, pooled within rows."
    return [f"{sd} {seeds_per_row()} seeds per row detect a difference of that size (t test at 5 %, power 0.8)."]


def _reproduction_notes(experiment: Experiment, columns: Sequence[Column], rows: Sequence[TableRow]) -> list[str]:
    """How it is decided whether the paper's values are reproduced, if this was decided for any."""
    if not any(reproductions(experiment, row) for row in rows):
        return []
    declared = experiment.reproduction
    margins = [f"{each.label} ± {declared.margins[each.key]:g}" for each in columns if each.key in declared.margins]
    return [
        "A value of the paper is reproduced if the 95 % interval of our mean lies within a margin of it "
        f"({', '.join(margins)}), and not if it lies wholly outside. {declared.reason}"
    ]


def _differences_notes(experiment: Experiment, rows: Sequence[TableRow], compared: Sequence[Difference]) -> list[str]:
    """How to read the differences, and which trainings of them diverged."""
    made = [each.verdict for each in compared if each.verdict is not None]
    if not made:
        return []
    notes = [
        "Differences are paired by seed. The exact sign-flip test decides, with Holm's adjustment for all differences "
        "of the table. If no rows differed, at most one table in 20 would call any difference better or worse.",
        "“Interval” inverts that test at the level at which it decided, so it leaves out 0 exactly if a difference is "
        "better or worse. “–” means too few seeds for an interval. “BCa” is the 95 % bootstrap interval of one "
        "difference. It describes the seeds; it decides nothing.",
    ]
    if any(verdict.more_seeds for verdict in made):
        notes.append(
            "With about as many more seeds as a verdict says, the test finds a true difference of the size observed "
            "with probability 0.8."
        )
    labels = distinct_labels(experiment, rows)
    for each in compared:
        if each.verdict and (note := each.verdict.note(labels[each.row.row.id], labels[each.other.row.id])):
            notes.append(f"A training that diverged counts as worse than any other: in {each.column.label}, {note}.")
    return notes


def _seeds_note(rows: Sequence[TableRow]) -> str:
    if any(len(row.cells) > 1 for row in rows):
        return "± is half the width of the 95 % t interval of the mean over seeds. Rows with one seed have no interval."
    return "One seed per row: there are no intervals, and small differences between rows mean nothing. Use SEEDS=5."
