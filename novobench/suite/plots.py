"""Figures as SVG. Rows differ in marker and line style as well as in color, so that they survive a grey print."""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from novobench import places
from novobench.suite.checked_files import write_changed
from novobench.suite.curves import Curves
from novobench.suite.experiment import Experiment, Panel
from novobench.suite.markdown_text import one_line
from novobench.suite.table_rows import TableRow, setting

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of Okabe and Ito: safe for color-blind readers."""
_MARKERS = "osD^vP"
_NO_BREAK = "\N{WORD JOINER}"
"""Put before each label: matplotlib hides labels that begin with an underscore."""
_STYLES = ("-", "--", ":", "-.")
"""One per series of a panel; rows differ in color and marker."""


def write_figure(experiment: Experiment, scale: str, entries: Sequence[TableRow]) -> Path:
    """Write `results/<scale>/figures/<name>.svg`; returns its path. The same results give the same bytes.

    Diagnostic rows are left out.
    """
    shown = [entry for entry in entries if not entry.row.diagnostic]
    rows = [(_label(experiment, entry), list(map(entry.results.curves, entry.cells))) for entry in shown]
    return write_panels(experiment.name, experiment.title, scale, experiment.figure, rows)


def write_panels(
    name: str,
    title: str,
    scale: str,
    panels: Sequence[Panel],
    rows: Sequence[tuple[str, list[Curves]]],
    folder: Path | None = None,
) -> Path:
    """Write `<name>.svg` with these panels, two in a row; returns its path.

    rows: label, and the curves of each cell. folder: `results/<scale>/figures` by default.
    """
    columns = min(2, len(panels))
    height = -(-len(panels) // columns)
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.6 * columns, 3.5 * height), layout="constrained")
        grid = figure.subplots(height, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes, panel in zip(grid.flat, panels, strict=False):
            draw(axes, panel, rows)
        figure.suptitle(f"{one_line(title)} ({scale} scale)", fontsize=10, parse_math=False)
        buffer = io.StringIO()
        with warnings.catch_warnings():
            # Text stays text in the file: the viewer's fonts draw it.
            warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from")
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "novobench"})
    path = (folder or places.workspace().results(scale) / "figures") / f"{name}.svg"
    write_changed(path, buffer.getvalue().encode())
    return path


def _label(experiment: Experiment, entry: TableRow) -> str:
    key, label = experiment.legend, one_line(entry.row.label)
    if entry.has_mixed_data:
        label += ", seeds on different data"
    return one_line(f"{label} ({experiment.settings.get(key, key)} {setting(entry.config, key)})") if key else label


def draw(axes: Axes, panel: Panel, rows: Sequence[tuple[str, list[Curves]]]) -> None:
    """Draw a line per row, seed and series; it has a gap at values that are not finite.

    rows: label, and the curves of each cell.
    """
    above_zero = False
    for number, (label, cells) in enumerate(rows):
        in_legend: set[str] = set()
        for curves in cells:
            for style, series in zip(itertools.cycle(_STYLES), panel.y, strict=False):
                points = _line(panel, curves, series)
                if not any(math.isfinite(x) and math.isfinite(y) for x, y in points):
                    continue
                above_zero = above_zero or any(y > 0 for _, y in points)
                line_label = f"{label}, {series.partition('/')[0]}" if len(panel.y) > 1 else label
                axes.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    style,
                    color=_COLORS[number % len(_COLORS)],
                    marker=_MARKERS[number % len(_MARKERS)],
                    markersize=3.5,
                    linewidth=1.2,
                    label=None if series in in_legend else _NO_BREAK + line_label,
                )
                in_legend.add(series)
    if panel.diagonal:
        frame = {"xlim": axes.get_xlim(), "ylim": axes.get_ylim()}  # set by the curves, without (0, 0)
        axes.axline((0, 0), slope=1, color="0.6", linewidth=0.8, zorder=0)
        axes.set(**frame)
    if panel.logarithmic and above_zero:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter() if _spans_less_than_a_decade(axes) else NullFormatter())
    axes.set_xlabel(one_line(panel.x_label), parse_math=False)
    axes.set_ylabel(one_line(panel.y_label), parse_math=False)
    axes.grid(color="0.9")
    if axes.get_legend_handles_labels()[0]:
        for text in axes.legend(fontsize=8).get_texts():
            text.set_text(text.get_text().removeprefix(_NO_BREAK))
            text.set_parse_math(False)


def _spans_less_than_a_decade(axes: Axes) -> bool:
    low, high = axes.get_ylim()
    return high < 10 * low


def _line(panel: Panel, curves: Curves, series: str) -> list[tuple[float, float]]:
    """x and y of the points to draw: those where all series of the panel have a value."""
    x_values = {point.update: point.value for point in curves.get(panel.x, [])}
    subtracted = {point.update: point.value for point in curves.get(panel.difference_to, [])}
    points = []
    for point in curves.get(series, []):
        x = x_values.get(point.update) if "/" in panel.x else getattr(point, panel.x)
        difference = subtracted.get(point.update) if panel.difference_to else 0.0
        if x is not None and difference is not None:
            points.append((x, point.value - difference))
    return points
