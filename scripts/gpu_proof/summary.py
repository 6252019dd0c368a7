"""The outcome of each step and the measurements, as Markdown."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_proof import places

COLUMNS = (
    "model", "task", "optimizer", "settings", "micro_batch", "precision", "milliseconds", "wall_milliseconds",
    "host_milliseconds", "ratio", "ratio_low", "ratio_high", "of_copy_bandwidth", "launches", "waits", "host_bound",
    "per_second", "unit", "of_peak", "of_published", "peak_gib", "resumed", "error",
)  # fmt: skip
"""Columns of a bench's CSV file that the summary shows."""
CONTENDERS = ("AdamW(fused)", "NovoGrad", "NovoGrad(single launch)", "apex FusedNovoGrad (paper mode)")
BEST = 3
"""Settings of a sweep shown per model and optimizer."""


def summary(
    state: Mapping[str, Any], steps: Sequence[str], skipped: Mapping[str, str], failed: Sequence[str], results: Path
) -> str:
    """Machines, steps, failures, measurements, in this order, because the printed text may be cut at its end."""
    lines = ["# GPU results", ""]
    for number, machine in enumerate(state["machines"]):
        versions = f"torch {machine['packages'].get('torch')}, CUDA {machine['cuda']}, Python {machine['python']}"
        code = machine["code"] + (" with uncommitted changes" if machine["dirty"] else "")
        lines.append(
            f"Machine {number}: {machine['hardware']}, {versions}, code {code}. {machine['nvidia_smi']}".rstrip()
        )
    lines += ["", "```", f"{'step':24} {'state':8} {'seconds':>7} machine  reason"]
    for name in steps:
        if outcome := state["steps"].get(name):
            again = f"; not repeated: {skipped[name]}" if name in skipped else ""
            text = f"{outcome['state']:8} {outcome['seconds']:7.0f} {outcome['machine']:7}  {outcome['reason']}{again}"
        else:
            text = f"{'not run':8} {'':7} {'':7}  {skipped.get(name, '')}"
        lines.append(f"{name:24} {text}".rstrip())
    for name in failed:
        lines += ["", f"{name} {state['steps'][name]['state']}:", failure_lines(places.LOGS / f"{name}.log")]
    return "\n".join([*lines, "```", *measurements(results)]) + "\n"


def measurements(results: Path) -> list[str]:
    """The benches' CSV files and the tables' Markdown, reduced to the main columns and rows."""
    lines: list[str] = []
    for path in (*sorted(results.glob("bench_*.csv")), *sorted(results.glob("throughput_*.csv"))):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if path.name.startswith("bench_"):
            rows = [row for row in rows if row["optimizer"] in CONTENDERS or row.get("error")]
        lines += ["", f"`{path.name}`", "", "```", *aligned(fastest(rows)), "```"]
    for path in sorted(results.glob("table*.md")):
        lines += ["", *(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(("#", "|")))]
    return lines


def fastest(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """All rows; of a sweep, the default settings (its first row) and the fastest ones."""
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["optimizer"]) if row.get("settings") else ("", ""), []).append(row)
    others = groups.pop(("", ""), [])
    for group in groups.values():
        ranked = sorted(group[1:], key=lambda row: float(row["ratio"] or "inf"))
        others += [group[0], *ranked[:BEST]]
    return others


def aligned(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Rows as aligned text, without empty columns."""
    names = [name for name in COLUMNS if any(row.get(name) for row in rows)]
    cells = [names, *([_short(row.get(name) or "") for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _short(text: str) -> str:
    with suppress(ValueError):
        return f"{float(text):.4g}"
    return text[:60]


def failure_lines(log: Path) -> str:
    """pytest's short list of failures, else the end of the log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    short = [line[:200] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return "\n".join(short[:12]) or places.tail(log, 4)
