"""Charts of a ``perf_realistic.py`` run, drawn from its raw data alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import records, report
from bench.chart_style import (
    BLUE,
    PURPLE,
    RED,
    limit_line,
    log_milliseconds,
    percentile_axis,
    percentile_line,
    save,
)
from bench.figures import KIND_LABELS, Samples, late_latencies, percentile
from bench.traffic import PROFILES, Floats, Kind
from bench.trial import Summary

BIN_S = 0.25
BINS_MAX = 240


def draw(directory: Path) -> list[Path]:
    """Draw all charts of a run directory; the files. Raises HarnessError without results."""
    summaries = records.read_summaries(directory)
    runs = [(summary, records.read_samples(directory, summary.name)) for summary in summaries]
    files = []
    for summary, samples in runs:
        files += save(over_time(summary, samples), directory / f"{summary.name}-over-time")
    if runs:
        files += save(percentile_curves(runs), directory / "percentiles")
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
    log_milliseconds(first)
    axes = figure.add_subplot(grid[rows, :], sharex=first)
    middle_s, bins = _bins(samples.intended_s, summary.duration_s)
    width_s = middle_s[1] - middle_s[0] if len(middle_s) > 1 else BIN_S
    axes.step(middle_s, np.bincount(bins, minlength=len(middle_s)) / width_s, where="mid", c=BLUE)
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
            label = f"{summary.scale:g} % of B3 ({summary.offered_per_s:,.0f} requests/s)"
            percentile_line(axes, ordered, number, label)
        limit_line(axes)
        axes.set_title(KIND_LABELS[kind], loc="left", fontsize=10)
        if position % 2 == 0:
            axes.set_ylabel("latency (ms)")
        if position >= len(kinds) - 2:
            axes.set_xlabel("percentile of requests")
    assert first is not None
    percentile_axis(first, max(len(samples.kind) for _, samples in runs))
    log_milliseconds(first)
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
    axes.plot(middle_s, most, ".", color=PURPLE, markersize=4, label="max")
    axes.plot(middle_s, p99, "--", color=RED, linewidth=1.1, label="p99")
    axes.plot(middle_s, p50, "-", color=BLUE, linewidth=1.4, label="p50")
    failed_s = chosen.intended_s[chosen.failed]
    if len(failed_s):
        # At the top edge, because a failed request is infinitely late.
        top = np.ones(len(failed_s))
        edge = axes.get_xaxis_transform()
        axes.plot(failed_s, top, "kx", markersize=4, transform=edge, clip_on=False)
    limit_line(axes)
    axes.axvline(0, color="grey", linewidth=1)
    failures = f", {len(failed_s):,} failed (×)" if len(failed_s) else ""
    axes.set_title(f"{KIND_LABELS[kind]}{failures}", loc="left", fontsize=10)


def _bins(intended_s: Floats, duration_s: float) -> tuple[Floats, np.ndarray]:
    """The middle of each bin, and the bin of each request; 0.25 s unless the run is long."""
    width_s = max(BIN_S, duration_s / BINS_MAX)
    begin = int(np.floor(intended_s.min() / width_s))
    bins = np.floor(intended_s / width_s).astype(np.int64) - begin
    return (begin + np.arange(bins.max() + 1) + 0.5) * width_s, bins
