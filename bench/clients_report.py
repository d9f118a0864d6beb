"""A run beside bad clients as a table and a chart: ``python -m bench charts DIR`` redraws it."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench import records
from bench.chart_style import BLUE, ORANGE, log_milliseconds, save
from bench.clients import FILE, LAYOUT, Beside, Options
from bench.report import counts, milliseconds, table

CHART = "clients"
_HEADERS = (
    "case",
    "load",
    "beside",
    "clients",
    "at the end",
    "closed",
    "p50 ms",
    "p99 ms",
    "max ms",
    "errors",
)


def read(directory: Path) -> list[Beside]:
    """All measurements of a run. Raises HarnessError when it is none, or not whole."""
    return records.read_lines(directory, LAYOUT, Options, FILE, Beside)


def lines_of(measured: Sequence[Beside]) -> list[str]:
    """The table."""
    return table(_HEADERS, [_row(one) for one in measured])


def _row(one: Beside) -> tuple[str, ...]:
    seen = one.seen
    times = (seen.latency_ms_p50, seen.latency_ms_p99, seen.latency_ms_max)
    return (
        one.case,
        f"{one.rate:g} %",
        one.kind,
        f"{one.clients:,}",
        f"{one.present:,}",
        f"{one.closed:,}",
        *(milliseconds(value) for value in times),
        counts(one.errors),
    )


def write(directory: Path) -> list[str]:
    """Write report.md; the lines of its table. Raises HarnessError."""
    measured = read(directory)
    doubts = [f"{one.case} beside {one.kind}: {doubt}" for one in measured for doubt in one.doubts]
    lines = [*lines_of(measured), *doubts]
    picture = f"![Latency beside bad clients]({CHART}.svg)"
    records.write_report(directory, "Beside clients that keep it waiting", [*lines, "", picture])
    return lines


def draw(directory: Path) -> list[Path]:
    """The chart of a run; the files. Raises HarnessError."""
    measured = read(directory)
    return save(latencies(measured), directory / CHART) if measured else []


def latencies(measured: Sequence[Beside]) -> Figure:
    """A panel for each case: p50 and p99 of the good requests by who is beside them."""
    cases = list(dict.fromkeys(one.case for one in measured))
    figure = Figure(figsize=(3.6 * len(cases) + 2.0, 4.0), layout="constrained")
    figure.suptitle("The others, beside clients that keep the service waiting", weight="bold")
    panels = figure.subplots(1, len(cases), sharey=True, squeeze=False)[0]
    for axes, case in zip(panels, cases, strict=True):
        of_case = [one for one in measured if one.case == case]
        at = list(range(len(of_case)))
        for name, marker, colour, values in (
            ("p50", "o", BLUE, [one.seen.latency_ms_p50 for one in of_case]),
            ("p99", "s", ORANGE, [one.seen.latency_ms_p99 for one in of_case]),
        ):
            shown = [float("nan") if value is None else value for value in values]
            axes.plot(at, shown, marker, color=colour, label=name)
            for x, value in zip(at, shown, strict=True):
                axes.annotate(
                    f"{value:.2g}", (x, value), (0, 6), textcoords="offset points", ha="center",
                    fontsize=7,
                )  # fmt: skip
        named = [f"{one.clients:,} × {one.kind}" if one.clients else one.kind for one in of_case]
        axes.set_xticks(at, named, rotation=30, ha="right", fontsize=8)
        axes.set_title(f"{case} at {of_case[0].rate:g} % of B3", fontsize=9)
        axes.margins(x=0.1, y=0.2)
    log_milliseconds(panels[0])
    panels[0].set_ylabel("latency, ms")
    panels[0].legend(frameon=False)
    return figure
