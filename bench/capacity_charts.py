"""Charts of a capacity run, drawn from its raw data alone: ``python -m bench charts DIR``."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench import records, trials
from bench.agenda import counted
from bench.capacity_cli import read_options
from bench.capacity_report import capacity_text
from bench.chart_style import (
    BLUE,
    COLOURS,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    STYLES,
    limit_line,
    log_loads,
    log_milliseconds,
    percentile_axis,
    percentile_line,
    save,
)
from bench.figures import late_latencies
from bench.findings import Finding, Findings, found
from bench.observe import BOOK, ORDER, PRICE
from bench.trials import Record
from bench.verdict import NEVER_MS, TIGHT_LIMIT_MS, Verdict

ABSOLUTE_LOAD = 100.0
RELATIVE_LOAD = 0.9
BACKLOG_LOADS = (0.9, 1.0, 1.1)
NEAR = 0.06  # how far a trial may be from the load that a chart is about
HEADROOM = 1.15
LEGEND_COLUMN_IN = 2.6
_READS = ((BOOK, BLUE), (PRICE, RED), (ORDER, GREEN))
_CPU_PARTS = (("service", BLUE, ""), ("postgres", ORANGE, "//"), ("generator", SKY, ".."))


def draw(directory: Path) -> list[Path]:
    """Draw all charts of a run; the files. Raises HarnessError for what is no such run."""
    drawn = figures(directory).items()
    return [file for name, one in drawn for file in save(one, directory / name)]


def figures(directory: Path) -> dict[str, Figure]:
    """All charts of a run by their names; none without a trial of a case. Raises HarnessError."""
    options, every = read_options(directory), trials.read(directory)
    findings, done = found(options, every), counted(options, every)
    if not findings.cases:
        return {}
    return {
        "capacity": capacity(findings),
        "latency-by-load": latency_by_load(findings, done),
        "percentiles": percentiles(findings, done, directory),
        "backlog": backlog(findings, done),
        "cpu": cpu(findings),
        "staleness": staleness(findings, done),
    }


def capacity(findings: Findings) -> Figure:
    """Each case's largest stable load with its range, 100 % of B3, and the null server."""
    every = findings.every
    figure = Figure(figsize=(8, 1.5 + 0.55 * len(every)), layout="constrained")
    axes = figure.add_subplot()
    figure.suptitle("Max capacity: largest load that stays stable, p99 ≤ 50 ms", weight="bold")
    for row, each in enumerate(every):
        if each.capacity.median is None:
            axes.text(0, row, " none found", va="center")
            continue
        least, most = each.capacity.least or 0.0, each.capacity.most or 0.0
        null = each is findings.null
        axes.barh(
            row,
            each.capacity.median,
            color="#cccccc" if null else BLUE,
            hatch="//" if null else "",
            edgecolor="white",
            height=0.6,
        )
        axes.plot([least, most], [row, row], color="black", linewidth=2)
        axes.text(most, row, f"  {capacity_text(each)}", va="center")
        if each.tight.median is not None:
            axes.plot([each.tight.median] * 2, [row - 0.3, row + 0.3], color=ORANGE, linewidth=2.5)
        elif each.tight_unstable_from.median is not None:
            axes.plot(each.tight_unstable_from.median, row, "<", color=ORANGE, markersize=9)
    axes.axvline(100.0, color="black", linestyle=":", linewidth=1)
    axes.text(100.0, -0.62, " 100 % of B3", va="center")
    axes.plot([], [], color=ORANGE, linewidth=2.5, label="p99 ≤ 10 ms")
    axes.plot([], [], "<", color=ORANGE, markersize=9, label="p99 ≤ 10 ms: somewhere below")
    axes.plot([], [], color="black", linewidth=2, label="range over repeats")
    axes.set_yticks(range(len(every)), [each.case for each in every])
    axes.set_ylim(len(every) - 0.4, -0.9)
    # The 100 % line is in sight also where no case reaches it.
    axes.set_xlim(0, HEADROOM * 1.3 * max(100.0, *(each.capacity.most or 0.0 for each in every)))
    axes.set_xlabel("load (% of B3's average rates)")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def latency_by_load(findings: Findings, done: Sequence[Record]) -> Figure:
    """p50, p99 and p99.9 of the valid trials up to the capacity, and the verdict of all of them;
    crosses failed, at the top where p99 is infinite."""
    figure, panels = _panels(findings.cases, "Latency against load")
    for each, axes in zip(findings.cases, panels, strict=True):
        own = sorted(_valid(done, each.case), key=lambda one: one.rate)
        calm = _up_to_capacity(each, axes, own)
        for name, label, colour, style in (
            ("latency_ms_p50", "p50", BLUE, "-"),
            ("latency_ms_p99", "p99", RED, "--"),
            ("latency_ms_p999", "p99.9", PURPLE, ":"),
        ):
            _median_line(axes, calm, _figure_of(name), color=colour, linestyle=style, label=label)
        for verdict, mark in ((Verdict.PASS, "o"), (Verdict.FAIL, "X")):
            at = [one for one in own if one.verdict is verdict]
            p99_ms = [one.everything.latency_ms_p99 for one in at]
            axes.plot(
                [one.rate for one in at],
                [NEVER_MS if value is None else value for value in p99_ms],
                mark,
                color=GREEN if verdict is Verdict.PASS else "black",
                markersize=6,
                label=f"trial: {verdict}",
            )
        limit_line(axes)
        axes.axhline(TIGHT_LIMIT_MS, color="grey", linestyle=":", linewidth=1, label="10 ms")
        log_loads(axes, [one.rate for one in own])
        log_milliseconds(axes)
        axes.set_title(f"{each.case}: {capacity_text(each)}", loc="left", fontsize=10)
        axes.set_xlabel("load (% of B3)")
    shown = [one for each in findings.cases for one in _valid(done, each.case)]
    if any(one.everything.latency_ms_p99 is None for one in shown):
        panels[0].yaxis.set_major_formatter(FuncFormatter(_or_never))  # all share it
    panels[0].set_ylabel("latency (ms)")
    _legend_below(figure, panels)
    return figure


def _or_never(value: float, _: int) -> str:
    return "∞" if value >= NEVER_MS else f"{value:g}"


def percentiles(findings: Findings, done: Sequence[Record], directory: Path) -> Figure:
    """All latencies of one trial a case: at about the same load, and share of its capacity.

    A load of B3 near which nothing was measured has no panel.
    """
    same = [ABSOLUTE_LOAD for _ in findings.cases]
    own = [
        None if each.capacity.median is None else RELATIVE_LOAD * each.capacity.median
        for each in findings.cases
    ]
    absolute, relative = (
        [
            _nearest(done, each.case, load, 0.5, directory)
            for each, load in zip(findings.cases, loads, strict=True)
        ]
        for loads in (same, own)
    )
    drawn = {f"near {100 * RELATIVE_LOAD:g} % of each capacity": relative}
    if any(absolute):
        drawn = {f"near {ABSOLUTE_LOAD:g} % of B3": absolute} | drawn
    figure = Figure(figsize=(5.5 * len(drawn), 4.4), layout="constrained")
    figure.suptitle("Latency by percentile", weight="bold")
    panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    most = 100
    for axes, (title, chosen) in zip(panels, drawn.items(), strict=True):
        axes.set_title(title, loc="left", fontsize=10)
        for number, (each, one) in enumerate(zip(findings.cases, chosen, strict=True)):
            if one is None:
                continue
            ordered = late_latencies(records.read_samples(directory, one.name).measured)
            most = max(most, len(ordered))
            label = _load_text(each, one, shares=chosen is relative)
            percentile_line(axes, ordered, number, label)
    for axes in panels:
        limit_line(axes)
        percentile_axis(axes, most)
        axes.set_xlabel("percentile of requests")
        axes.legend(frameon=False, loc="lower right")
    log_milliseconds(panels[0])
    panels[0].set_ylabel("latency (ms)")
    return figure


def _load_text(each: Finding, one: Record, *, shares: bool) -> str:
    share = (
        f" ({one.rate / each.capacity.median:.2f} of it)" if shares and each.capacity.median else ""
    )
    return f"{each.case} at {one.rate:g} %{share}"


def backlog(findings: Findings, done: Sequence[Record]) -> Figure:
    """Requests in flight over a trial, around each capacity."""
    figure, panels = _panels(findings.cases, "Requests in flight over time")
    for each, axes in zip(findings.cases, panels, strict=True):
        shown = set()
        for number, share in enumerate(BACKLOG_LOADS):
            load = None if each.capacity.median is None else share * each.capacity.median
            one = _nearest(done, each.case, load, NEAR)
            if share <= 1.0:
                # Rather one that has passed: at the capacity some have failed.
                passed = [one for one in done if one.verdict is Verdict.PASS]
                one = _nearest(passed, each.case, load, NEAR) or one
            if one is None or one.number in shown:
                continue
            shown.add(one.number)
            points = len(one.backlog)
            axes.plot(
                (np.arange(points) + 0.5) * one.duration_s / points,
                np.maximum(one.backlog, 0.5),
                color=COLOURS[number],
                linestyle=STYLES[number],
                linewidth=1.2,
                label=f"{one.rate / (each.capacity.median or 1):.2f} of capacity ({one.verdict})",
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_title(f"{each.case}: {capacity_text(each)}", loc="left", fontsize=10)
        axes.set_xlabel("measured time (s)")
        if shown:
            axes.legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("requests in flight")
    return figure


def cpu(findings: Findings) -> Figure:
    """CPU per request at the capacity, by process."""
    every = findings.every
    figure = Figure(figsize=(8, 1.4 + 0.55 * len(every)), layout="constrained")
    axes = figure.add_subplot()
    figure.suptitle("CPU per request at capacity", weight="bold")
    for row, each in enumerate(every):
        begin = 0.0
        for part, colour, hatch in _CPU_PARTS:
            width = sum(us for name, us in each.cpu_us_per_request.items() if name.startswith(part))
            if not width:
                continue
            axes.barh(
                row, width, left=begin, color=colour, hatch=hatch, edgecolor="white", height=0.6
            )
            axes.text(begin + width / 2, row, f"{width:.0f}", ha="center", va="center")
            begin += width
    for part, colour, hatch in _CPU_PARTS:
        label = "PostgreSQL" if part == "postgres" else part
        axes.barh(0, 0, color=colour, hatch=hatch, edgecolor="white", label=label)
    axes.set_yticks(range(len(every)), [each.case for each in every])
    axes.invert_yaxis()
    axes.set_xlabel("CPU (µs per request)")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def staleness(findings: Findings, done: Sequence[Record]) -> Figure:
    """Acknowledged to visible by kind of read, and change to database, over the load."""
    figure, panels = _panels(findings.cases, "Age of what is read, and of what is not yet stored")
    for each, axes in zip(findings.cases, panels, strict=True):
        own = sorted(_valid(done, each.case), key=lambda one: one.rate)
        calm = _up_to_capacity(each, axes, own)
        for kind, colour in _READS:
            for name, what, style in (("p50", "median", "-"), ("max", "maximum", "--")):
                value, label = _staleness_of(kind, name), f"{kind} read, {what}"
                _median_line(axes, calm, value, color=colour, linestyle=style, label=label)
        _median_line(
            axes,
            calm,
            lambda one: one.flush_age_ms_max or None,
            color=PURPLE,
            linestyle=":",
            label="oldest change not in the database",
        )
        log_loads(axes, [one.rate for one in own])
        log_milliseconds(axes)
        axes.set_title(each.case, loc="left", fontsize=10)
        axes.set_xlabel("load (% of B3)")
    panels[0].set_ylabel("age (ms)")
    _legend_below(figure, panels)
    return figure


def _panels(cases: Sequence[Finding], title: str) -> tuple[Figure, list[Axes]]:
    """One panel a case, side by side."""
    figure = Figure(figsize=(max(6.0, 3.9 * len(cases)), 3.9), layout="constrained")
    figure.suptitle(title, weight="bold")
    made = figure.subplots(1, len(cases), sharey=True, squeeze=False)
    return figure, list(made[0])


def _up_to_capacity(each: Finding, axes: Axes, own: Sequence[Record]) -> list[Record]:
    """The trials through which lines are drawn: beyond the capacity neighbouring loads pass and
    fail in turn. The panel shows where it lies."""
    least, most = each.capacity.least, each.capacity.most
    if least is None or most is None:
        return list(own)
    axes.axvspan(least, most, color="#eeeeee", label="capacity: range; the lines end there")
    return [one for one in own if one.rate <= least]


def _figure_of(name: str) -> Callable[[Record], float | None]:
    return lambda one: getattr(one.everything, name)


def _staleness_of(kind: str, name: str) -> Callable[[Record], float | None]:
    return lambda one: getattr(one.staleness_ms.get(kind), name, None)


def _median_line(
    axes: Axes,
    own: Sequence[Record],
    value: Callable[[Record], float | None],
    **style: str,
) -> None:
    """A line through the medians of the trials at each load; an infinite one has no point."""
    loads = sorted({one.rate for one in own})
    medians = [
        np.median([np.inf if (v := value(one)) is None else v for one in own if one.rate == load])
        for load in loads
    ]
    axes.plot(loads, medians, linewidth=1.4, marker=".", **style)  # type: ignore[arg-type]


def _legend_below(figure: Figure, panels: Sequence[Axes]) -> None:
    handles, labels = panels[0].get_legend_handles_labels()
    columns = min(4, int(figure.get_figwidth() / LEGEND_COLUMN_IN))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _valid(done: Sequence[Record], case: str) -> list[Record]:
    return [one for one in done if one.case == case and one.verdict is not Verdict.INVALID]


def _nearest(
    done: Sequence[Record],
    case: str,
    load: float | None,
    tolerance: float,
    with_samples_in: Path | None = None,
) -> Record | None:
    """The valid trial next to a load, if one is near enough; the last of several."""
    if load is None:
        return None
    near = [
        one
        for one in _valid(done, case)
        if abs(np.log(one.rate / load)) <= tolerance
        and (with_samples_in is None or records.has_samples(with_samples_in, one.name))
    ]
    return min(reversed(near), key=lambda one: abs(np.log(one.rate / load)), default=None)
