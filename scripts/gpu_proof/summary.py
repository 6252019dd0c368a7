"""What became of each step, and the figures that were measured, as Markdown."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_proof import places

SHOWN = (
    "model", "task", "optimizer", "settings", "micro_batch", "precision", "milliseconds", "wall_milliseconds",
    "host_milliseconds", "ratio", "ratio_low", "ratio_high", "of_copy_bandwidth", "launches", "waits", "host_bound",
    "per_second", "unit", "of_peak", "of_published", "peak_gib", "resumed", "error",
)  # fmt: skip
"""Columns of a bench's CSV file."""
CONTENDERS = ("AdamW(fused)", "NovoGrad", "NovoGrad(single launch)", "apex FusedNovoGrad (paper mode)")
BEST = 3
"""Settings of the sweep that are shown of each model and optimizer."""


def summary(
    state: Mapping[str, Any], steps: Sequence[str], left_out: Mapping[str, str], bad: Sequence[str], results: Path
) -> str:
    """Machines, steps, failures, figures: in this order, since what is printed of it may be cut at its end."""
    lines = ["# What was shown on a GPU", ""]
    for number, machine in enumerate(state["machines"]):
        versions = f"torch {machine['packages'].get('torch')}, CUDA {machine['cuda']}, Python {machine['python']}"
        code = machine["code"] + (" with changes" if machine["dirty"] else "")
        lines.append(
            f"Machine {number}: {machine['hardware']}, {versions}, code {code}. {machine['nvidia_smi']}".rstrip()
        )
    lines += ["", "```", f"{'step':24} {'state':8} {'seconds':>7} machine  reason"]
    for name in steps:
        if found := state["steps"].get(name):
            again = f"; again: {left_out[name]}" if name in left_out else ""
            text = f"{found['state']:8} {found['seconds']:7.0f} {found['machine']:7}  {found['reason']}{again}"
        else:
            text = f"{'left out':8} {'':7} {'':7}  {left_out.get(name, 'to do')}"
        lines.append(f"{name:24} {text}".rstrip())
    for name in bad:
        lines += ["", f"{name} {state['steps'][name]['state']}:", failures(places.LOGS / f"{name}.log")]
    return "\n".join([*lines, "```", *figures(results)]) + "\n"


def figures(results: Path) -> list[str]:
    """The CSV files of the benches and the tables' Markdown, each cut to what matters."""
    lines: list[str] = []
    for path in (*sorted(results.glob("bench_*.csv")), *sorted(results.glob("throughput_*.csv"))):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if path.name.startswith("bench_"):
            rows = [row for row in rows if row["optimizer"] in CONTENDERS or row.get("error")]
        lines += ["", f"`{path.name}`", "", "```", *aligned(best(rows)), "```"]
    for path in sorted(results.glob("table*.md")):
        lines += ["", *(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(("#", "|")))]
    return lines


def best(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """All rows, or of a sweep the fastest settings and the first ones, which are the default."""
    taken: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        taken.setdefault((row["model"], row["optimizer"]) if row.get("settings") else ("", ""), []).append(row)
    others = taken.pop(("", ""), [])
    for group in taken.values():
        ranked = sorted(group[1:], key=lambda row: float(row["ratio"] or "inf"))
        others += [group[0], *ranked[:BEST]]
    return others


def aligned(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Rows as text, the columns that are SHOWN and not empty."""
    names = [name for name in SHOWN if any(row.get(name) for row in rows)]
    cells = [names, *([_short(row.get(name) or "") for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _short(text: str) -> str:
    with suppress(ValueError):
        return f"{float(text):.4g}"
    return text[:60]


def failures(log: Path) -> str:
    """pytest's own short list, else the end of the log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    short = [line[:200] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return "\n".join(short[:12]) or places.tail(log, 4)
