"""Step times as a picture: a panel a model, a bar an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from novobench.bench.optimizer_step import Row


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write an SVG with bars of the ratios to the baseline, the fastest on top, whiskers from first to third quartile.

    NovoGrad stands out by its hatching, so the picture reads in grey too.
    """
    models = list(dict.fromkeys(row.model for row in rows))
    most = max(sum(row.model == model for row in rows) for model in models)
    figure = Figure(figsize=(9, 1.2 + 0.28 * most * len(models)), layout="constrained")
    panels = figure.subplots(len(models), 1, squeeze=False)[:, 0]
    for panel, model in zip(panels, models, strict=True):
        bars = sorted((row for row in rows if row.model == model), key=lambda row: -row.ratio)
        whiskers = [
            [row.ratio - row.ratio_low for row in bars],
            [row.ratio_high - row.ratio for row in bars],
        ]
        drawn = panel.barh([row.optimizer for row in bars], [row.ratio for row in bars], xerr=whiskers, color="0.75")
        for bar, row in zip(drawn, bars, strict=True):
            if row.optimizer == "NovoGrad":
                bar.set(hatch="//", edgecolor="black")
            panel.annotate(
                f"{row.ratio:.2f}", (row.ratio_high, bar.get_y() + bar.get_height() / 2), (4, 0),
                textcoords="offset points", va="center", fontsize=8,
            )  # fmt: skip
        panel.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
        panel.set_xscale("log")
        panel.set_title(f"{model}, {rows[0].device}, {rows[0].threads} CPU threads", fontsize=9)
        panel.margins(x=0.12)
    panels[-1].set_xlabel("time of a step / AdamW(fused)")
    figure.savefig(path, metadata={"Date": None})
