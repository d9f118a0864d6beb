"""A compressed day as a table and a chart: ``python -m bench charts DIR`` draws it again."""

from pathlib import Path

from matplotlib.figure import Figure

from bench import records
from bench.chart_style import BLUE, GREEN, ORANGE, RED, log_milliseconds, save
from bench.day import FILE, LAYOUT, TENTHS, Day, Options, Tenth
from bench.report import milliseconds, table

CHART = "day"
# By how much the last tenth may differ from the first.
TOLERANCE = 0.20
_HEADERS = (
    "tenth",
    "requests",
    "failed",
    "p50 ms",
    "p99 ms",
    "service µs",
    "PostgreSQL µs",
    "memory MB",
    "open orders",
    "in memory",
)


def read(directory: Path) -> Day:
    """The run. Raises HarnessError when it is none, or not whole."""
    records.read_options(directory, LAYOUT, Options)
    return records.read_json(directory / FILE, Day)


def lines_of(day: Day) -> list[str]:
    """The table of tenths, and what followed."""
    rows = [_row(number, tenth) for number, tenth in enumerate(day.tenths, 1)]
    return [
        *table(_HEADERS, rows),
        "",
        f"- {day.orders:,} orders at {day.rate:g} % of B3; {day.resting:,} rest at the end, the "
        f"database has {day.database_mb:,.0f} MB",
        f"- a new start on it takes {day.restart_s:.2f} s and {day.restarted_mb:,.0f} MB",
        *(f"- {line}" for line in changes(day)),
    ]


def _row(number: int, tenth: Tenth) -> tuple[str, ...]:
    return (
        f"{number} of {TENTHS}",
        f"{tenth.requests:,}",
        f"{tenth.failed:,}",
        milliseconds(tenth.latency_ms.p50),
        milliseconds(tenth.latency_ms.p99),
        _number(tenth.service_us, ".1f"),
        _number(tenth.postgres_us, ".1f"),
        _number(tenth.resident_mb, ",.0f"),
        _number(tenth.resting, ",d"),
        _number(tenth.held, ",d"),
    )


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def changes(day: Day) -> list[str]:
    """The last tenth against the first, figure by figure."""
    first, last = day.tenths[0], day.tenths[-1]
    pairs = {
        "p50": (first.latency_ms.p50, last.latency_ms.p50),
        "p99": (first.latency_ms.p99, last.latency_ms.p99),
        "service CPU per request": (first.service_us, last.service_us),
        "PostgreSQL CPU per request": (first.postgres_us, last.postgres_us),
    }
    said = []
    for name, (before, after) in pairs.items():
        if before and after:
            ratio = after / before
            kept = "the same" if ratio <= 1.0 + TOLERANCE else "NOT the same"
            said.append(f"{name}: the last tenth has {ratio:.2f} of the first, {kept}")
    if first.resident_mb and last.resident_mb and first.held and last.held:
        grown = (last.resident_mb - first.resident_mb) / (last.held - first.held or 1)
        said.append(f"memory grows by {1e3 * grown:.2f} KB for each order more in memory")
    return said


def write(directory: Path) -> list[str]:
    """Write report.md; its lines. Raises HarnessError."""
    lines = lines_of(read(directory))
    picture = f"![Tenth by tenth]({CHART}.svg)"
    records.write_report(directory, "A compressed day", [*lines, "", picture])
    return lines


def draw(directory: Path) -> list[Path]:
    """The chart of a run; the files. Raises HarnessError."""
    return save(by_tenth(read(directory)), directory / CHART)


def by_tenth(day: Day) -> Figure:
    """Latency, CPU and memory, tenth by tenth."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    figure.suptitle(
        f"{day.case}: {day.orders:,} orders at {day.rate:g} % of B3, tenth by tenth", weight="bold"
    )
    latency, costs, memory = figure.subplots(1, 3)
    at = range(1, len(day.tenths) + 1)
    curves = (
        (latency, "p50, ms", BLUE, [tenth.latency_ms.p50 for tenth in day.tenths]),
        (latency, "p99, ms", RED, [tenth.latency_ms.p99 for tenth in day.tenths]),
        (costs, "service, µs of CPU a request", BLUE, [tenth.service_us for tenth in day.tenths]),
        (costs, "PostgreSQL", ORANGE, [tenth.postgres_us for tenth in day.tenths]),
        (memory, "memory, MB", GREEN, [tenth.resident_mb for tenth in day.tenths]),
        (memory, "open orders, thousands", ORANGE, [_thousands(tenth) for tenth in day.tenths]),
    )
    for number, (axes, label, colour, values) in enumerate(curves):
        shown = [float("nan") if value is None else value for value in values]
        style = ("o-", "s--")[number % 2]
        axes.plot(at, shown, style, color=colour, markersize=4, label=label)
    log_milliseconds(latency)
    for axes in (costs, memory):
        axes.set_ylim(bottom=0)
    for axes in (latency, costs, memory):
        axes.set_xlabel("tenth")
        axes.legend(frameon=False)
    return figure


def _thousands(tenth: Tenth) -> float | None:
    return None if tenth.resting is None else tenth.resting / 1e3
