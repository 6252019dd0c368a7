"""Figures as SVG, from `results/<scale>/` alone. Rows differ by line style and marker too, so print them in grey."""

from __future__ import annotations

import io
import itertools
import math
import warnings
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from novobench import places
from novobench.suite.checked_files import write_changed
from novobench.suite.curves import Curves, Point, curves_of
from novobench.suite.experiment import Experiment, Panel
from novobench.suite.table_rows import TableRow, table_rows
from novobench.suite.tables import one_line, setting

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's, for any eye
_MARKERS = "osD^vP"
_NO_BREAK = "\N{WORD JOINER}"
"""Before each label: matplotlib takes one that begins with an underscore for none."""
_STYLES = ("-", "--", ":", "-.")
"""Of the series of a panel; rows have the colours and markers."""


def write_figure(experiment: Experiment, scale: str, entries: list[TableRow] | None = None) -> Path:
    """Write `results/<scale>/figures/<name>.svg`: the same bytes for the same results. Returns its path. `entries`: the
    table's rows, if they are there already."""
    entries = table_rows(experiment, scale) if entries is None else entries
    rows = [(_label(experiment, entry), list(map(curves_of, entry.cells.values()))) for entry in entries]
    columns = min(2, len(experiment.figure))
    height = -(-len(experiment.figure) // columns)
    with rc_context({"svg.hashsalt": experiment.name, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.6 * columns, 3.5 * height), layout="constrained")
        grid = figure.subplots(height, columns, squeeze=False)
        for axes in grid.flat[len(experiment.figure) :]:
            axes.remove()
        for axes, panel in zip(grid.flat, experiment.figure, strict=False):
            draw(axes, panel, rows)
        figure.suptitle(f"{one_line(experiment.title)} ({scale} scale)", fontsize=10, parse_math=False)
        buffer = io.StringIO()
        with warnings.catch_warnings():
            # Text stays text in the file, and is drawn with the fonts of whoever opens it.
            warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from")
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "novobench"})
    path = places.workspace().results(scale) / "figures" / f"{experiment.name}.svg"
    write_changed(path, buffer.getvalue().encode())
    return path


def _label(experiment: Experiment, entry: TableRow) -> str:
    key, label = experiment.legend, one_line(entry.row.label)
    if entry.mixed:
        label += ", seeds on different data"
    return one_line(f"{label} ({experiment.settings.get(key, key)} {setting(entry.config, key)})") if key else label


def draw(axes: Axes, panel: Panel, rows: list[tuple[str, list[Curves]]]) -> None:
    """A line for each row, seed and series; a value that is not finite breaks it."""
    above_zero = False
    for number, (label, cells) in enumerate(rows):
        in_legend = set()
        for curves in cells:
            for style, series in zip(itertools.cycle(_STYLES), panel.y, strict=False):
                points = _line(panel, curves, series)
                if not any(math.isfinite(x) and math.isfinite(y) for x, y in points):
                    continue
                above_zero = above_zero or any(y > 0 for _, y in points)
                named = f"{label}, {series.partition('/')[0]}" if len(panel.y) > 1 else label
                axes.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    style,
                    color=_COLOURS[number % len(_COLOURS)],
                    marker=_MARKERS[number % len(_MARKERS)],
                    markersize=3.5,
                    linewidth=1.2,
                    label=None if series in in_legend else _NO_BREAK + named,
                )
                in_legend.add(series)
    if panel.diagonal:
        frame = {"xlim": axes.get_xlim(), "ylim": axes.get_ylim()}  # of the curves: the line would bring in (0, 0)
        axes.axline((0, 0), slope=1, color="0.6", linewidth=0.8, zorder=0)
        axes.set(**frame)
    if panel.logarithmic and above_zero:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter() if _narrow(axes) else NullFormatter())
    axes.set_xlabel(one_line(panel.x_label), parse_math=False)
    axes.set_ylabel(one_line(panel.y_label), parse_math=False)
    axes.grid(color="0.9")
    if axes.get_legend_handles_labels()[0]:
        for text in axes.legend(fontsize=8).get_texts():
            text.set_text(text.get_text().removeprefix(_NO_BREAK))
            text.set_parse_math(False)


def _narrow(axes: Axes) -> bool:
    low, high = axes.get_ylim()
    return high < 10 * low


def _line(panel: Panel, curves: Curves, series: str) -> list[tuple[float, float]]:
    """The points to draw: where x, y and what is taken away were all recorded."""
    taken = {point.update: point.value for point in curves.get(panel.difference_to, [])}
    across = {point.update: point.value for point in curves.get(panel.x, [])}
    points = []
    for point in curves.get(series, []):
        x = across.get(point.update) if "/" in panel.x else _place(panel.x, point)
        less = taken.get(point.update) if panel.difference_to else 0.0
        if x is not None and less is not None:
            points.append((x, point.value - less))
    return points


def _place(x: str, point: Point) -> float | None:
    return {"update": point.update, "epoch": point.epoch, "seconds": point.seconds}[x]
