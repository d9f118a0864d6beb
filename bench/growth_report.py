"""A run of growing histories as tables and a chart: ``python -m bench charts DIR`` draws it."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from bench import records
from bench.chart_style import COLOURS, STYLES, log_milliseconds, save
from bench.growth import FILE, LAYOUT, VERBS, Options, Point
from bench.report import milliseconds, table

CHART = "growth"
# The same time within so much is what "does not slow down" means here.
TOLERANCE = 0.30


def read(directory: Path) -> list[Point]:
    """All points of a run. Raises HarnessError when it is none, or not whole."""
    return records.read_lines(directory, LAYOUT, Options, FILE, Point)


def cases_of(points: Sequence[Point]) -> list[str]:
    """In the order in which they were measured."""
    return list(dict.fromkeys(point.case for point in points))


def curve(points: Sequence[Point], case: str, verb: str) -> list[Point]:
    """Those of one request of one case, by size."""
    own = (point for point in points if (point.case, point.verb) == (case, verb))
    return sorted(own, key=lambda point: point.size)


def lines_of(points: Sequence[Point]) -> list[str]:
    """A table for each case: the median by size, and the largest size against the smallest."""
    lines: list[str] = []
    for case in cases_of(points):
        sizes = sorted({point.size for point in points if point.case == case})
        headers = (f"{case}: p50, ms", *(f"{size:,}" for size in sizes), "last / first")
        rows = [_row(verb, curve(points, case, verb)) for verb in VERBS]
        starts = curve(points, case, VERBS[0])
        rows.append(("start, s", *(f"{point.started_s:.2f}" for point in starts), ""))
        rows.append(("database, MB", *(f"{point.database_mb:,.0f}" for point in starts), ""))
        lines += [*table(headers, rows), ""]
    return lines


def _row(verb: str, points: Sequence[Point]) -> tuple[str, ...]:
    return (verb, *(milliseconds(point.p50_ms) for point in points), f"{growth(points):.2f}")


def growth(points: Sequence[Point]) -> float:
    """How many times as long the last takes as the first."""
    return points[-1].p50_ms / points[0].p50_ms


def slower(points: Sequence[Point]) -> list[str]:
    """What takes longer at the largest size than at the smallest, beyond the tolerance."""
    found = []
    for case in cases_of(points):
        for verb in VERBS:
            own = curve(points, case, verb)
            if len(own) > 1 and growth(own) > 1.0 + TOLERANCE:
                found.append(
                    f"{case}: {verb} takes {growth(own):.2f} times as long with "
                    f"{own[-1].size:,} closed orders as with {own[0].size:,}"
                )
    return found


def write(directory: Path) -> list[str]:
    """Write report.md; the lines of its tables. Raises HarnessError."""
    points = read(directory)
    lines = [*lines_of(points), *(f"- {line}" for line in slower(points))]
    picture = f"![Latency against history]({CHART}.svg)"
    records.write_report(directory, "Growing history", [*lines, "", picture])
    return lines


def draw(directory: Path) -> list[Path]:
    """The chart of a run; the files. Raises HarnessError."""
    points = read(directory)
    return save(against_history(points), directory / CHART) if points else []


def against_history(points: Sequence[Point]) -> Figure:
    """Median latency of each request against the closed orders in the tables; a panel a case."""
    cases = cases_of(points)
    figure = Figure(figsize=(1.5 + 3.6 * len(cases), 4.2), layout="constrained")
    figure.suptitle("One request after the other, as the history grows", weight="bold")
    panels = figure.subplots(1, len(cases), sharey=True, squeeze=False)[0]
    for axes, case in zip(panels, cases, strict=True):
        for number, verb in enumerate(VERBS):
            own = curve(points, case, verb)
            axes.plot(
                [point.size for point in own],
                [point.p50_ms for point in own],
                marker="o",
                markersize=3,
                color=COLOURS[number % len(COLOURS)],
                linestyle=STYLES[number // len(COLOURS)],
                label=verb,
            )
        axes.set_xscale("log")
        axes.set_xlabel("closed orders in the tables")
        axes.set_title(case, fontsize=10)
        log_milliseconds(axes)
        # All of it may lie within one decade.
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panels[0].set_ylabel("p50, ms")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure
