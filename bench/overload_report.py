"""A run of overloads as a table and a chart: ``python -m bench charts DIR`` draws it again."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import records
from bench.chart_style import BLUE, GREEN, ORANGE, PURPLE, RED, log_milliseconds, save
from bench.overload import BEFORE, DURING, FILE, LAYOUT, Flood, Latency, Options, Part
from bench.report import counts, milliseconds, table
from bench.verdict import LIMIT_MS

CHART = "overload"
_HEADERS = (
    "case",
    "capacity",
    "offered",
    "requests/s",
    "served/s",
    "of capacity",
    "refused/s",
    "served in p50 / p99 / max ms",
    "refused in p50 / p99 / max ms",
    "failed otherwise",
    "memory before / most, MB",
    "normal again after",
)


def read(directory: Path) -> list[Flood]:
    """All cases of a run. Raises HarnessError when it is none, or not whole."""
    return records.read_lines(directory, LAYOUT, Options, FILE, Flood)


def lines_of(floods: Sequence[Flood]) -> list[str]:
    """The table."""
    return table(_HEADERS, [_row(flood) for flood in floods])


def _row(flood: Flood) -> tuple[str, ...]:
    before, during = flood.parts[BEFORE], flood.parts[DURING]
    # Before the overload the case was offered half of its capacity.
    capacity_per_s = during.offered_per_s / flood.factor
    return (
        flood.case,
        f"{flood.capacity:g} %",
        f"× {flood.factor:.2g}",
        f"{during.offered_per_s:,.0f}",
        f"{during.served_per_s:,.0f}",
        f"{during.served_per_s / capacity_per_s:.0%}",
        f"{during.refused_per_s:,.0f}",
        _times(during.served_ms),
        _times(during.refused_ms),
        counts(during.failed),
        f"{_megabytes(before)} / {_megabytes(*flood.parts.values())}",
        "not seen" if flood.normal_after_s is None else f"{flood.normal_after_s:g} s",
    )


def _times(latency: Latency) -> str:
    if latency.p50 is None:
        return "–"
    return " / ".join(milliseconds(each) for each in (latency.p50, latency.p99, latency.max))


def _megabytes(*parts: Part) -> str:
    seen = [part.resident_mb for part in parts if part.resident_mb is not None]
    return f"{max(seen):,.0f}" if seen else "–"


def write(directory: Path) -> list[str]:
    """Write report.md; the lines of its table. Raises HarnessError."""
    lines = lines_of(read(directory))
    picture = f"![Requests, latency and memory over time]({CHART}.svg)"
    records.write_report(directory, "More than can be answered", [*lines, "", picture])
    return lines


def draw(directory: Path) -> list[Path]:
    """The chart of a run; the files. Raises HarnessError."""
    floods = read(directory)
    return save(over_time(floods), directory / CHART) if floods else []


def over_time(floods: Sequence[Flood]) -> Figure:
    """A row for each case: requests, latency and memory, second by second."""
    figure = Figure(figsize=(11, 1.0 + 2.4 * len(floods)), layout="constrained")
    figure.suptitle("Offered far more than can be answered, and back", weight="bold")
    every = figure.subplots(len(floods), 3, sharex=True, squeeze=False)
    for row, flood in zip(every, floods, strict=True):
        _draw(row, flood)
    for axes, title in zip(every[0], ("requests/s", "latency, ms", "memory, MB"), strict=True):
        axes.set_title(title, fontsize=9)
    for axes in every[-1]:
        axes.set_xlabel("s")
    handles = {
        label: handle
        for axes in every[0]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False
    )
    return figure


def _draw(row: Sequence[Axes], flood: Flood) -> None:
    seconds, during = flood.seconds, flood.parts[DURING]
    at = [second.begin_s for second in seconds]
    requests, latency, memory = row
    requests.plot(at, [second.offered_per_s for second in seconds], "k:", label="offered")
    requests.plot(at, [second.served_per_s for second in seconds], color=GREEN, label="served")
    requests.plot(at, [s.refused_per_s for s in seconds], "--", color=RED, label="refused (503)")
    # Who asks for an order that was refused does not ask.
    unsent = [second.unsent_per_s for second in seconds]
    requests.plot(at, unsent, "-.", color=PURPLE, label="not sent: their order was refused")
    requests.set_ylim(bottom=0)
    requests.set_ylabel(f"{flood.case}, × {flood.factor:.2g}", weight="bold")
    curves = (
        ("served, p50", GREEN, "-", [second.served_ms.p50 for second in seconds]),
        ("served, p99", BLUE, "-", [second.served_ms.p99 for second in seconds]),
        ("refused, p99", RED, "--", [second.refused_ms.p99 for second in seconds]),
    )
    for label, colour, style, values in curves:
        shown = [float("nan") if value is None else value for value in values]
        latency.plot(at, shown, style, color=colour, label=label)
    limit = f"{LIMIT_MS:g} ms"
    latency.axhline(LIMIT_MS, color="black", linestyle=":", linewidth=1, label=limit)
    log_milliseconds(latency)
    resident = [second.resident_mb or float("nan") for second in seconds]
    memory.plot(at, resident, color=ORANGE, label="resident memory")
    # At least 1, where nobody could tell.
    memory.set_ylim(0, 1.1 * max(1.0, *(second.resident_mb or 0.0 for second in seconds)))
    for axes in row:
        axes.axvspan(during.begin_s, during.end_s, color="#f2f2f2", zorder=0, label="the overload")
