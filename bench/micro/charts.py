"""Charts of the micro-benchmarks, drawn from raw times alone: ``python -m bench charts DIR``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.chart_style import COLOURS, STYLES, save
from bench.micro.report import CHARTS, Curve, Line, by_curve, growth_text, read

MARKERS = ("o", "s", "^", "D")
# An axis that shows less than this would make a mountain of every hill.
SPAN_MIN = 10.0


def draw(directory: Path) -> list[Path]:
    """Draw all charts of a run; the files. Raises HarnessError for what is no such run."""
    lines = read(directory)
    files = []
    for name, (title, curves) in CHARTS.items():
        chosen = [line for line in lines if line.curve in curves]
        if chosen:
            files += save(picture(title, chosen), directory / name)
    return files


def picture(title: str, lines: Sequence[Line]) -> Figure:
    """A panel for each curve, two in a row."""
    panels = list(by_curve(lines))
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.5 + 4.5 * columns, 0.7 + 3.3 * rows), layout="constrained")
    figure.suptitle(title, weight="bold")
    for position, (curve, group) in enumerate(panels):
        _draw(figure.add_subplot(rows, columns, position + 1), curve, group)
    return figure


def _draw(axes: Axes, curve: Curve, lines: Sequence[Line]) -> None:
    """Medians with quartiles, and the fitted power law through them."""
    for row, line in enumerate(lines):
        sizes = np.array([point.size for point in line.points])
        median = np.array([point.median for point in line.points])
        low, high = (np.array([getattr(p, end) for p in line.points]) for end in ("low", "high"))
        colour, marker, style = COLOURS[row], MARKERS[row], STYLES[row]
        axes.errorbar(
            sizes,
            median,
            yerr=(median - low, high - median),
            color=colour,
            marker=marker,
            markersize=4.5,
            linestyle="none",
            capsize=2,
        )
        if line.growth is not None:
            law = [line.growth.at(size) for size in sizes]
            axes.plot(sizes, law, color=colour, linestyle=style, linewidth=1.2)
        label = ": ".join(part for part in (line.series, growth_text(line)) if part)
        # For the legend alone: what is one thing there are two here.
        axes.plot([], [], color=colour, marker=marker, markersize=4.5, linestyle=style, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _widen(axes)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_title(curve.title, loc="left", fontsize=10)
    axes.set_xlabel(curve.size)
    axes.set_ylabel(curve.unit)
    axes.legend(frameon=False, fontsize=8)


def _widen(axes: Axes) -> None:
    """Show a decade at least, with the curve in its middle."""
    least, most = axes.get_ylim()
    factor = max(1.0, SPAN_MIN / (most / least)) ** 0.5
    axes.set_ylim(least / factor, most * factor)
