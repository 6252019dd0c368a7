"""Step times as a picture: a panel per model, a bar per optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from novobench.bench.step_time import StepTime


def draw(rows: Sequence[StepTime], path: Path) -> None:
    """Write an SVG: bars show the ratios to the baseline, the fastest on top; whiskers span first to third quartile.

    NovoGrad is hatched, so it stands out in gray, too. Rows without a ratio are left out; if none has a ratio, nothing
    is written.
    """
    drawable = [row for row in rows if row.ratio is not None]
    if not drawable:
        return
    models = list(dict.fromkeys(row.model for row in drawable))
    most = max(sum(row.model == model for row in drawable) for model in models)
    figure = Figure(figsize=(9, 1.2 + 0.28 * most * len(models)), layout="constrained")
    panels = figure.subplots(len(models), 1, squeeze=False)[:, 0]
    for panel, model in zip(panels, models, strict=True):
        bars = sorted(
            (-(row.ratio or 0), row.ratio_low or 0, row.ratio_high or 0, row.optimizer)
            for row in drawable
            if row.model == model
        )
        ratios, names = [-minus for minus, *_ in bars], [name for *_, name in bars]
        whiskers = [  # cut at the ratio, which is one of medians and may lie outside
            [max(0.0, ratio - low) for ratio, (_, low, _, _) in zip(ratios, bars, strict=True)],
            [max(0.0, high - ratio) for ratio, (_, _, high, _) in zip(ratios, bars, strict=True)],
        ]
        patches = panel.barh(names, ratios, xerr=whiskers, color="0.75")
        for bar, name, ratio, end in zip(patches, names, ratios, whiskers[1], strict=True):
            if name == "NovoGrad":
                bar.set(hatch="//", edgecolor="black")
            panel.annotate(
                f"{ratio:.2f}", (ratio + end, bar.get_y() + bar.get_height() / 2), (4, 0),
                textcoords="offset points", va="center", fontsize=8,
            )  # fmt: skip
        panel.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
        panel.set_xscale("log")
        panel.set_title(f"{model}, {rows[0].device}, {rows[0].threads} CPU threads", fontsize=9)
        panel.margins(x=0.12)
    panels[-1].set_xlabel("time of a step / AdamW(fused)")
    figure.savefig(path, metadata={"Date": None})
