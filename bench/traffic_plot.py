"""A picture of what a profile offers, in the style of the charts of a run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.chart_style import BLUE, ORANGE, RED
from bench.charts import BIN_S, BINS_MAX
from bench.profiles import Bursts
from bench.traffic import PROFILES, SHORT_LIFE_MAX_S, Floats, Kind
from bench.traffic_statistics import BUSY_SYMBOLS, Offer, Statistic

_DELAYS_S = (0.5, 1.0, 5.0, 10.0, 60.0, 600.0)


def draw(
    offer: Offer, figures: Sequence[Statistic], kinds: Sequence[Statistic], file: Path
) -> None:
    """Draw into a .png or .svg file. Raises OSError."""
    figure = Figure(figsize=(11, 9.5), layout="constrained")
    grid = figure.add_gridspec(3, 3, height_ratios=(1.1, 1.1, 1.0))
    figure.suptitle(offer.title, fontsize=12, weight="bold")
    _rate(figure.add_subplot(grid[0, :]), offer)
    _popularity(figure.add_subplot(grid[1, 0]), offer)
    _seconds(figure.add_subplot(grid[1, 1]), offer)
    _delays(figure.add_subplot(grid[1, 2]), offer)
    below = grid[2, :].subgridspec(1, 2, width_ratios=(1.25, 1.0))
    _table(figure.add_subplot(below[0]), "statistic", figures)
    _table(figure.add_subplot(below[1]), "requests/s by kind", kinds)
    # Without the date the same traffic gives the same file.
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _rate(axes: Axes, offer: Offer) -> None:
    """All requests, and the new orders of the busiest symbol."""
    bins = int(np.ceil(offer.duration_s / max(BIN_S, offer.duration_s / BINS_MAX)))
    edges_s = np.linspace(0.0, offer.duration_s, bins + 1)
    first = offer.is_kind(Kind.ORDER) & (offer.tape.symbol == 0)
    for label, colour, times_s in (
        ("all requests", BLUE, offer.tape.intended_s),
        ("new orders of the busiest symbol", RED, offer.tape.intended_s[first]),
    ):
        counts = np.histogram(times_s, edges_s)[0]
        axes.stairs(counts / np.diff(edges_s), edges_s, baseline=None, color=colour, label=label)
    if not isinstance(offer.profile.rhythm, Bursts):
        stated = offer.flow.rate * offer.profile.requests_per_s * offer.speed
        axes.stairs(
            stated, offer.flow.edges_s, baseline=None, color="black", linestyle=":", label="stated"
        )
    axes.set_xlim(0, offer.duration_s)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_xlabel("intended send time (s)")
    axes.set_ylabel("offered (requests/s)")
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0))


def _popularity(axes: Axes, offer: Offer) -> None:
    """Share of the new orders by rank; the average profile beside it."""
    realised = 100.0 * offer.order_shares()
    rank = np.arange(1, len(realised) + 1)
    seen = np.where(realised > 0, realised, np.nan)
    axes.plot(rank, seen, ".", color=BLUE, markersize=3, label="realised")
    axes.plot(rank, 100.0 * offer.symbol_shares, ":", color="black", label="stated")
    average = np.diff(PROFILES["average"].popularity(len(rank)), prepend=0.0)
    if not np.allclose(average, offer.symbol_shares):
        axes.plot(rank, 100.0 * average, "--", color=ORANGE, linewidth=1, label="average")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("rank of the symbol")
    axes.set_title("Share of new orders (%)", loc="left", fontsize=10)
    axes.legend(frameon=False)


def _seconds(axes: Axes, offer: Offer) -> None:
    """How far the seconds of busy symbols go above the mean."""
    ordered = np.sort(offer.busy_seconds(), axis=None)
    at_least = 100.0 * (1.0 - np.arange(len(ordered)) / len(ordered))
    axes.plot(ordered, at_least, color=BLUE, drawstyle="steps-pre")
    axes.axhline(1.0, color="black", linestyle=":", linewidth=1)
    axes.annotate("p99", (0.99, 1.1), xycoords=("axes fraction", "data"), ha="right")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(left=0)
    axes.set_xlabel(f"new orders of a symbol (first {BUSY_SYMBOLS}) / its mean")
    axes.set_title("Seconds at or above (%)", loc="left", fontsize=10)


def _delays(axes: Axes, offer: Offer) -> None:
    """When limit orders end by themselves and when they are cancelled."""
    tape = offer.tape
    cancels = offer.is_kind(Kind.CANCEL)
    delay_s = (tape.intended_s - tape.intended_s[tape.target])[cancels]
    life_s = tape.life_s[~np.isnan(tape.life_s)]
    short = np.mean(life_s <= SHORT_LIFE_MAX_S)
    _cumulative(axes, delay_s, RED, "-", "cancel after its order")
    _cumulative(axes, life_s, BLUE, "--", f"life ({100.0 * (1.0 - short):.0f} % one day)")
    axes.set_xscale("log")
    axes.set_xlim(_DELAYS_S[0], _DELAYS_S[-1])
    axes.set_xticks(_DELAYS_S)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 100)
    axes.set_xlabel("seconds")
    axes.set_title("Limit orders: at most so long (%)", loc="left", fontsize=10)
    axes.legend(frameon=False)


def _cumulative(axes: Axes, values: Floats, colour: str, style: str, label: str) -> None:
    share = 100.0 * np.arange(1, len(values) + 1) / len(values)
    axes.plot(np.sort(values), share, style, color=colour, label=label)


def _table(axes: Axes, header: str, rows: Sequence[Statistic]) -> None:
    axes.set_axis_off()
    drawn = axes.table(
        cellText=[row.cells() for row in rows],
        colLabels=[header, "stated", "realised"],
        colWidths=[0.6, 0.2, 0.2],
        cellLoc="right",
        loc="upper left",
        edges="horizontal",
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9)
    for (_, column), cell in drawn.get_celld().items():
        cell.set_edgecolor("#dddddd")
        cell.set_text_props(ha="left" if column == 0 else "right")
