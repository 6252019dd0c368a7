"""Figures as SVG. Rows differ in marker and line style as well as in color, so that they survive a grey print."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator, ScalarFormatter

from novobench import places
from novobench.errors import ConfigError
from novobench.suite.checked_files import write_changed
from novobench.suite.curves import Curves, Point
from novobench.suite.experiment import Experiment, Panel
from novobench.suite.markdown_text import one_line
from novobench.suite.statistics import Estimate, estimate
from novobench.suite.table_rows import TableRow, setting

_CHARACTERS_PER_PANEL = 66
"""Of a title that fit above a panel."""
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
    rows = rows_of_panels(experiment, [entry for entry in entries if not entry.row.diagnostic])
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
        heading = textwrap.fill(f"{one_line(title)} ({scale} scale)", _CHARACTERS_PER_PANEL * columns)
        figure.suptitle(heading, fontsize=10, parse_math=False)
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


def rows_of_panels(experiment: Experiment, entries: Sequence[TableRow]) -> list[tuple[str, list[Curves]]]:
    """What the experiment's panels show of these rows: label, and the curves of each cell."""
    keys = [panel.x for panel in experiment.figure if panel.over_key]
    rows = []
    for entry in entries:
        settings = {key: _number(experiment, entry, key) for key in keys}
        rows.append((_label(experiment, entry), [_curves(entry, cell, settings) for cell in entry.cells]))
    return rows


def _number(experiment: Experiment, entry: TableRow, key: str) -> float:
    text = setting(entry.config, key)
    try:
        return float(text or math.nan)
    except ValueError:
        where = f"{experiment.place} row '{entry.row.id}'"
        raise ConfigError(f"{where}: a panel's x is '{key}', which is {text} and no number.") from None


def _curves(entry: TableRow, cell: str, settings: Mapping[str, float]) -> Curves:
    """The curves of a cell. For panels over config keys, also curves of one point: the `settings` and all metrics."""
    curves = entry.results.curves(cell)
    if settings:
        end = entry.results.updates(cell)
        metrics = {f"{split}/{name}": value for (split, name), value in entry.results.values(cell).items()}
        curves = {name: [Point(end, math.nan, None, value)] for name, value in {**metrics, **settings}.items()} | curves
    return curves


def draw(axes: Axes, panel: Panel, rows: Sequence[tuple[str, list[Curves]]]) -> None:
    """Draw a panel. rows: label, and the curves of each cell."""
    above_zero = _draw_means(axes, panel, rows) if panel.over_key else _draw_curves(axes, panel, rows)
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


def _draw_means(axes: Axes, panel: Panel, rows: Sequence[tuple[str, list[Curves]]]) -> bool:
    """Draw a line per label and series: means over seeds with their 95 % intervals, over the values of a config key.

    Returns whether some mean is above 0.
    """
    values: dict[tuple[str, str], dict[float, list[float]]] = {}
    """Label and series -> x -> the values of its cells."""
    for label, cells in rows:
        for curves, series in itertools.product(cells, panel.y):
            for x, y in _line(panel, curves, series)[-1:]:
                if math.isfinite(y):
                    values.setdefault((label, series), {}).setdefault(x, []).append(y)
    colors = {label: number for number, label in enumerate(dict.fromkeys(label for label, _ in rows))}
    estimates: list[Estimate] = []
    for (label, series), by_x in values.items():
        points = {x: estimate(by_x[x]) for x in sorted(by_x)}
        estimates += points.values()
        number = colors[label]
        axes.errorbar(
            list(points),
            [point.mean for point in points.values()],
            [0.0 if point.high is None else point.high - point.mean for point in points.values()],
            linestyle=_STYLES[panel.y.index(series) % len(_STYLES)],
            color=_COLORS[number % len(_COLORS)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=3.5,
            linewidth=1.2,
            capsize=2,
            label=_NO_BREAK + (f"{label}, {series.partition('/')[0]}" if len(panel.y) > 1 else label),
        )
    if panel.logarithmic_x and (ticks := sorted({x for by_x in values.values() for x in by_x})):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    return any(point.mean > 0 for point in estimates)


def _draw_curves(axes: Axes, panel: Panel, rows: Sequence[tuple[str, list[Curves]]]) -> bool:
    """Draw a line per row, seed and series; it has a gap at values that are not finite.

    Returns whether some value is above 0.
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
    return above_zero


def _spans_less_than_a_decade(axes: Axes) -> bool:
    low, high = axes.get_ylim()
    return high < 10 * low


def _line(panel: Panel, curves: Curves, series: str) -> list[tuple[float, float]]:
    """x and y of the points to draw: those where all series of the panel have a value."""
    x_values = {point.update: point.value for point in curves.get(panel.x, [])}
    subtracted = {point.update: point.value for point in curves.get(panel.difference_to, [])}
    points = []
    for point in curves.get(series, []):
        x = x_values.get(point.update) if panel.x not in ("update", "epoch", "seconds") else getattr(point, panel.x)
        difference = subtracted.get(point.update) if panel.difference_to else 0.0
        if x is not None and difference is not None:
            points.append((x, point.value - difference))
    return points
