"""The files of a comparison: `results/<scale>/compare/<name>/`.

`compare.yaml` holds what was declared, `compare.md` the report, `optimizers.csv`, `differences.csv`, `rates.csv`,
`tuning.csv` and `search.csv` its numbers, `figures/` a figure per task. The records of the compared cells lie next to
them, in the four files of `results/<scale>/`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from novobench.config_loading import read_yaml
from novobench.files import write_text
from novobench.suite.aggregates import interquartile_mean
from novobench.suite.checked_files import SCHEMA, csv_bytes, write_changed
from novobench.suite.compare_outcome import Compared, Contest, Declaration
from novobench.suite.compare_report import markdown
from novobench.suite.curves import Curves, Point
from novobench.suite.experiment import Panel
from novobench.suite.search_file import SearchLine
from novobench.suite.tuning_curves import MedianBest, median_best

_HEADER = "# What a comparison declared, written by `novobench compare`.\n"


def declare(folder: Path, command: str, targets: Mapping[str, float], margins: Mapping[str, float]) -> Declaration:
    """Write `compare.yaml` before anything is trained; returns the declaration.

    The time of an earlier declaration with the same margins is kept. Raises NovobenchError if the file is damaged.
    """
    path = folder / "compare.yaml"
    declared = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if path.exists():
        earlier = read_yaml(path)
        if earlier.get("margins") == dict(margins):
            declared = str(earlier.get("declared", declared))
    declaration = Declaration(command, declared, dict(targets), dict(margins))
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": SCHEMA, **dataclasses.asdict(declaration)}
    write_text(path, _HEADER + yaml.safe_dump(content, sort_keys=False))
    return declaration


def write_report(folder: Path, compared: Compared, searches: Sequence[SearchLine]) -> None:
    """Write all files but the declaration and the records."""
    figures = {contest.task: _write_figure(folder, contest) for contest in compared.contests}
    text = markdown(compared, {task: str(path.relative_to(folder)) for task, path in figures.items()})
    write_changed(folder / "optimizers.csv", _csv(_optimizers(compared)))
    write_changed(folder / "differences.csv", _csv(_differences(compared)))
    write_changed(folder / "rates.csv", _csv(_rates(compared)))
    write_changed(folder / "tuning.csv", _csv(_tuning(compared)))
    write_changed(folder / "search.csv", csv_bytes(SearchLine._fields, searches))
    write_changed(folder / "compare.md", text.encode())


def _csv(lines: Iterator[dict[str, Any]]) -> bytes:
    """Lines with the same keys; numbers with six digits, nothing for None."""
    listed = [{"schema": SCHEMA, **line} for line in lines]
    fields = list(dict.fromkeys(key for line in listed for key in line))
    return csv_bytes(fields, ([_text(line.get(key)) for key in fields] for line in listed))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _optimizers(compared: Compared) -> Iterator[dict[str, Any]]:
    for contest in compared.contests:
        for row in contest.rows:
            config, reached, state = contest.config(row), contest.reached(row), contest.state[row.row.id]
            line: dict[str, Any] = {"task": contest.task, "optimizer": config.optimizer.name, "label": row.row.label}
            line |= {"lr": config.optimizer.lr, "weight_decay": config.optimizer.weight_decay}
            line |= {"updates": config.total_updates, "seeds": len(row.cells)}
            for column in contest.experiment.columns:
                estimate = row.estimates.get(column.key)
                prefix = f"{column.split}_{column.metric}"
                values = row.values[column.key].values()
                line |= {prefix: estimate.mean if estimate else None, f"{prefix}_sd": estimate.sd if estimate else None}
                line[f"{prefix}_iqm"] = interquartile_mean(values, column.better) if values else None
            line |= {"target": contest.target, "seeds_at_target": reached.count}
            line |= {"median_updates_to_target": _finite(reached.median_updates)}
            line |= {"median_seconds_to_target": _finite(reached.median_seconds)}
            known = state if isinstance(state, tuple) else (None, None)
            line |= {"state_bytes": known[0], "parameters": known[1], "ms_per_update": contest.milliseconds(row)}
            yield line


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _differences(compared: Compared) -> Iterator[dict[str, Any]]:
    for contest, ours, theirs, verdict in compared.decisions:
        yield {
            "task": contest.task, "ours": ours.row.label, "theirs": theirs.row.label, "split": contest.column.split,
            "metric": contest.column.metric, "better": contest.column.better, "pairs": verdict.n,
            "difference": verdict.estimate.mean, "sd": verdict.estimate.sd, "low": verdict.low, "high": verdict.high,
            "level": verdict.level, "p": verdict.p, "p_adjusted": verdict.p_adjusted,
            "bca_low": verdict.bca_low, "bca_high": verdict.bca_high, "margin": verdict.pairs.margin,
            "p_not_worse": verdict.p_not_worse,
            "verdict": verdict.kind, "more_seeds": verdict.more_seeds, "left_out": verdict.left_out,
        }  # fmt: skip


def _rates(compared: Compared) -> Iterator[dict[str, Any]]:
    for contest in compared.contests:
        for row in contest.rows:
            for factor, loss in contest.losses(row).items():
                lr = contest.config(row).optimizer.lr * factor
                yield {"task": contest.task, "label": row.row.label, "factor": factor, "lr": lr, "loss": loss}


def _tuning(compared: Compared) -> Iterator[dict[str, Any]]:
    for contest in compared.contests:
        for row in contest.rows:
            for point in _median_best(contest, row.row.id):
                yield {"task": contest.task, "label": row.row.label, **point._asdict()}


def _median_best(contest: Contest, row_id: str) -> Sequence[MedianBest]:
    """The tuning curve of the first round, which has the declared ranges."""
    searched = contest.searched.get(row_id)
    if searched is None:
        return []
    return median_best([trial.mean for trial in searched.trials if trial.round == 0], contest.column.better)


# ---------------------------------------------------------------------------------------------- figure


def _write_figure(folder: Path, contest: Contest) -> Path:
    """Curves over updates and seconds, loss against the rate, and the best of n trials."""
    from novobench.suite.plots import write_panels

    series, column = f"{contest.search_split}/{contest.column.metric}", contest.column
    label, split = f"{contest.search_split} {column.metric}", contest.search_split
    rows: list[tuple[str, list[Curves]]] = []
    for row in contest.rows:
        losses = [Point(round(math.log2(f)), 0.0, None, v) for f, v in contest.losses(row).items() if v is not None]
        trials: Curves = {"median/best": [], "low/best": [], "high/best": []}
        for point in _median_best(contest, row.row.id):
            for name in ("median", "low", "high"):
                trials[f"{name}/best"].append(Point(point.trials, 0.0, None, getattr(point, name)))
        others: Curves = {"rates/loss": losses, **trials}
        rows.append((row.row.label, [*map(contest.results.curves, row.cells), others]))
    logarithmic = column.better == "smaller"
    panels = [
        Panel("update", [series], "update", label, logarithmic=logarithmic),
        Panel("seconds", [series], "seconds of training", label, logarithmic=logarithmic),
        Panel("update", ["rates/loss"], "log₂ of the factor on the best rate", f"{split} loss"),
        Panel("update", ["median/best", "low/best", "high/best"], "trials", f"median best {label}, 95 % band"),
    ]
    return write_panels(contest.task, contest.experiment.title, contest.results.scale, panels, rows, folder / "figures")
