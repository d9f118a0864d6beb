"""How all charts look.

Colours are those of Okabe and Ito, which colour-blind people can tell apart; line styles, markers
and hatches differ as well, so the charts can be read in grey.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.traffic import Floats
from bench.verdict import LIMIT_MS

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
STYLES: tuple[str, ...] = ("-", "--", "-.", ":")
NINES = (0.0, 0.9, 0.99, 0.999, 0.9999, 0.99999)

mpl.use("Agg")
mpl.rcParams.update(
    {
        "font.size": 9,
        "axes.grid": True,
        "grid.color": "#dddddd",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "svg.hashsalt": "mini-stock-exchange",  # the same data gives the same file
        "figure.dpi": 110,
    }
)


def limit_line(axes: Axes) -> None:
    """Where the 99th percentile may not be above."""
    label = f"limit {LIMIT_MS:g} ms (p99)"
    axes.axhline(LIMIT_MS, color="black", linestyle=":", linewidth=1, label=label)


def log_loads(axes: Axes, loads: Sequence[float]) -> None:
    """A logarithmic axis of loads with plain numbers as far as ``loads`` reach."""
    if not loads:
        return  # an axis without data cannot be logarithmic
    axes.set_xscale("log")
    ticks = (10, 25, 50, 100, 200, 300, 500, 1000, 2000)
    shown = [load for load in ticks if 0.7 * min(loads) <= load <= 1.4 * max(loads)]
    axes.set_xticks(shown, [str(load) for load in shown])
    axes.xaxis.set_minor_formatter(NullFormatter())


def log_milliseconds(axes: Axes) -> None:
    """A logarithmic axis with plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def percentile_axis(axes: Axes, most: int) -> None:
    """An axis of nines, as far as ``most`` requests reach."""
    axes.set_xticks([-np.log10(1.0 - share) for share in NINES])
    axes.set_xticklabels([f"{100 * share:g}" for share in NINES])
    axes.set_xlim(0, min(np.log10(most), -np.log10(1.0 - NINES[-1])))


def percentile_line(axes: Axes, ordered: Floats, number: int, label: str) -> None:
    """Latencies in order on such an axis, up to the failed requests, which are infinite."""
    axes.plot(
        -np.log10(1.0 - np.arange(len(ordered)) / max(len(ordered), 1)),
        np.where(np.isfinite(ordered), ordered, np.nan),
        color=COLOURS[number % len(COLOURS)],
        linestyle=STYLES[number % len(STYLES)],
        label=label,
    )


def save(figure: Figure, stem: Path) -> list[Path]:
    """As SVG and PNG; the same data gives the same file."""
    files = [stem.with_name(stem.name + suffix) for suffix in (".svg", ".png")]
    for file in files:
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files
