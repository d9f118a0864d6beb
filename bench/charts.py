"""Charts of a run, drawn from its raw data alone: ``python -m bench charts DIR``.

Colours are those of Okabe and Ito, which colour-blind people can tell apart; line styles differ as
well, so the charts can be read in grey.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench import records, report
from bench.figures import KIND_LABELS, Samples, late_latencies, percentile
from bench.traffic import PROFILES, Floats, Kind
from bench.trial import Summary

BIN_S = 0.25
BINS_MAX = 240
_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
_COLOURS = (_BLUE, _RED, _GREEN, _PURPLE, _ORANGE, _SKY)
_STYLES: tuple[str, ...] = ("-", "--", "-.", ":")
_NINES = (0.0, 0.9, 0.99, 0.999, 0.9999, 0.99999)
_LIMIT_MS = 50.0

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


def draw(directory: Path) -> list[Path]:
    """Draw all charts of a run directory; the files. Raises HarnessError without results."""
    summaries = records.read_summaries(directory)
    runs = [(summary, records.read_samples(directory, summary.name)) for summary in summaries]
    files = []
    for summary, samples in runs:
        files += _save(over_time(summary, samples), directory / f"{summary.name}-over-time")
    if runs:
        files += _save(percentile_curves(runs), directory / "percentiles")
    return files


def over_time(summary: Summary, samples: Samples) -> Figure:
    """p50, p99 and maximum of each kind over the run, and below the offered rate."""
    kinds = [kind for kind in KIND_LABELS if (samples.kind == kind).any()]
    rows = -(-len(kinds) // 2)
    figure = Figure(figsize=(11, 2.3 * rows + 2.6), layout="constrained")
    grid = figure.add_gridspec(rows + 1, 2)
    figure.suptitle(f"Latency over time: {report.title(summary)}", fontsize=12, weight="bold")
    first: Axes | None = None
    for position, kind in enumerate(kinds):
        axes = figure.add_subplot(grid[position // 2, position % 2], sharex=first, sharey=first)
        first = first or axes
        _draw_kind(axes, samples, kind, summary.duration_s)
        if position % 2 == 0:
            axes.set_ylabel("latency (ms)")
    assert first is not None
    _log_milliseconds(first)
    axes = figure.add_subplot(grid[rows, :], sharex=first)
    middle_s, bins = _bins(samples.intended_s, summary.duration_s)
    width_s = middle_s[1] - middle_s[0] if len(middle_s) > 1 else BIN_S
    axes.step(middle_s, np.bincount(bins, minlength=len(middle_s)) / width_s, where="mid", c=_BLUE)
    axes.axhline(summary.offered_per_s, color="black", linestyle=":", linewidth=1)
    axes.annotate(
        f"mean of the profile {summary.offered_per_s:,.0f}/s",
        (0.995, 0.04),
        xycoords="axes fraction",
        ha="right",
    )
    axes.axvline(0, color="grey", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("offered\n(requests/s)")
    axes.set_xlabel("intended send time (s), warm-up before 0")
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return figure


def percentile_curves(runs: Sequence[tuple[Summary, Samples]]) -> Figure:
    """Latency against percentile, a panel for each kind, a line for each scale."""
    kinds = [k for k in KIND_LABELS if any((samples.kind == k).any() for _, samples in runs)]
    rows = -(-len(kinds) // 2)
    figure = Figure(figsize=(11, 2.7 * rows + 1.2), layout="constrained")
    newest = runs[0][0]
    figure.suptitle(
        f"Latency by percentile: case {newest.version}, {PROFILES[newest.profile].label}",
        fontsize=12,
        weight="bold",
    )
    first: Axes | None = None
    for position, kind in enumerate(kinds):
        axes = figure.add_subplot(rows, 2, position + 1, sharex=first, sharey=first)
        first = first or axes
        for number, (summary, samples) in enumerate(runs):
            measured = samples.measured
            ordered = late_latencies(measured.only(measured.kind == kind))
            nines = -np.log10(1.0 - np.arange(len(ordered)) / max(len(ordered), 1))
            axes.plot(
                nines,
                np.where(np.isfinite(ordered), ordered, np.nan),
                color=_COLOURS[number % len(_COLOURS)],
                linestyle=_STYLES[number % len(_STYLES)],
                label=f"{summary.scale:g} % of B3 ({summary.offered_per_s:,.0f} requests/s)",
            )
        _limit_line(axes)
        axes.set_title(KIND_LABELS[kind], loc="left", fontsize=10)
        if position % 2 == 0:
            axes.set_ylabel("latency (ms)")
        if position >= len(kinds) - 2:
            axes.set_xlabel("percentile of requests")
    assert first is not None
    first.set_xticks([-np.log10(1.0 - share) for share in _NINES])
    first.set_xticklabels([f"{100 * share:g}" for share in _NINES])
    most = max(len(samples.kind) for _, samples in runs)
    first.set_xlim(0, min(np.log10(most), -np.log10(1.0 - _NINES[-1])))
    _log_milliseconds(first)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_kind(axes: Axes, samples: Samples, kind: Kind, duration_s: float) -> None:
    chosen = samples.only(samples.kind == kind)
    middle_s, bins = _bins(chosen.intended_s, duration_s)
    latency_ms = np.where(chosen.failed, np.nan, chosen.latency_ms)
    p50, p99, most = (np.full(len(middle_s), np.nan) for _ in range(3))
    for number in np.unique(bins).tolist():
        inside = latency_ms[bins == number]
        ordered = np.sort(inside[~np.isnan(inside)])
        p50[number], p99[number], most[number] = (
            np.nan if (value := percentile(ordered, share)) is None else value
            for share in (0.5, 0.99, 1.0)
        )
    axes.plot(middle_s, most, ".", color=_PURPLE, markersize=4, label="max")
    axes.plot(middle_s, p99, "--", color=_RED, linewidth=1.1, label="p99")
    axes.plot(middle_s, p50, "-", color=_BLUE, linewidth=1.4, label="p50")
    failed_s = chosen.intended_s[chosen.failed]
    if len(failed_s):
        # At the top edge, because a failed request is infinitely late.
        top = np.ones(len(failed_s))
        edge = axes.get_xaxis_transform()
        axes.plot(failed_s, top, "kx", markersize=4, transform=edge, clip_on=False)
    _limit_line(axes)
    axes.axvline(0, color="grey", linewidth=1)
    failures = f", {len(failed_s):,} failed (×)" if len(failed_s) else ""
    axes.set_title(f"{KIND_LABELS[kind]}{failures}", loc="left", fontsize=10)


def _bins(intended_s: Floats, duration_s: float) -> tuple[Floats, np.ndarray]:
    """The middle of each bin, and the bin of each request; 0.25 s unless the run is long."""
    width_s = max(BIN_S, duration_s / BINS_MAX)
    begin = int(np.floor(intended_s.min() / width_s))
    bins = np.floor(intended_s / width_s).astype(np.int64) - begin
    return (begin + np.arange(bins.max() + 1) + 0.5) * width_s, bins


def _limit_line(axes: Axes) -> None:
    axes.axhline(_LIMIT_MS, color="black", linestyle=":", linewidth=1, label="limit 50 ms (p99)")


def _log_milliseconds(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _save(figure: Figure, stem: Path) -> list[Path]:
    files = [stem.with_name(stem.name + suffix) for suffix in (".svg", ".png")]
    for file in files:
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files
