"""A run of crashes as tables and a chart: ``python -m bench charts DIR`` draws it again."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench import records
from bench.chart_style import COLOURS, save
from bench.crash import FILE, LAYOUT, Crash, Options, predicted_lost, promises_all
from bench.report import table

CHART = "lost"
_HEADERS = (
    "case",
    "acknowledged when",
    "crashes",
    "orders acknowledged",
    "lost a crash, median (most)",
    "by arithmetic at most",
    "crashes that lost any",
    "trades lost at least, median (most)",
    "by arithmetic at most",
    "cancels lost",
    "oldest lost, ms",
    "sent again: known",
    "new",
    "doubled",
    "back in, s",
)


def read(directory: Path) -> list[Crash]:
    """All cycles of a run. Raises HarnessError when it is none, or not whole."""
    return records.read_lines(directory, LAYOUT, Options, FILE, Crash)


def faults(directory: Path) -> list[str]:
    """What must not be in a run, each behind its case. Raises HarnessError."""
    return [str(fault) for fault in records.read_meta(directory).get("faults", [])]


def by_case(crashes: Sequence[Crash]) -> dict[str, list[Crash]]:
    """In the order in which they were measured."""
    found: dict[str, list[Crash]] = {}
    for crash in crashes:
        found.setdefault(crash.case, []).append(crash)
    return found


def promise(case: str) -> str:
    """When a case acknowledges an order."""
    if case.startswith("v1"):
        return "committed"
    return "in the log on disk" if promises_all(case) else "matched in memory"


def lines_of(crashes: Sequence[Crash]) -> list[str]:
    """The table."""
    return table(_HEADERS, [_row(case, own) for case, own in by_case(crashes).items()])


def _row(case: str, own: Sequence[Crash]) -> tuple[str, ...]:
    lost, trades = [each.lost for each in own], [each.lost_traded for each in own]
    most = predicted_lost(case, own[0].offered_per_s)
    share = _traded_share(own)
    oldest = [each.oldest_lost_ms for each in own if each.oldest_lost_ms is not None]
    back = [each.recovery_s for each in own]
    return (
        case,
        promise(case),
        f"{len(own)}",
        f"{sum(each.acknowledged for each in own):,}",
        f"{statistics.median(lost):g} ({max(lost)})",
        f"{most:.0f}",
        f"{sum(count > 0 for count in lost)}",
        f"{statistics.median(trades):g} ({max(trades)})",
        "–" if share is None else f"{share * most:.1f}",
        f"{sum(each.cancels_lost for each in own)}",
        f"{max(oldest):.0f}" if oldest else "–",
        f"{sum(each.replayed for each in own):,}",
        f"{sum(each.placed for each in own):,}",
        f"{sum(each.doubled for each in own)}",
        f"{statistics.median(back):.2f} ({max(back):.2f})",
    )


def _traded_share(own: Sequence[Crash]) -> float | None:
    """How many of the acknowledged orders traded at once; None in records that do not say it."""
    counts = [each.acknowledged_traded for each in own]
    acknowledged = sum(each.acknowledged for each in own)
    if None in counts or not acknowledged:
        return None
    return sum(count for count in counts if count is not None) / acknowledged


def write(directory: Path) -> list[str]:
    """Write report.md; the lines of its table. Raises HarnessError."""
    lines = lines_of(read(directory))
    picture = f"![Orders lost by each crash]({CHART}.svg)"
    records.write_report(directory, "kill -9 under load", [*lines, "", picture])
    return lines


def draw(directory: Path) -> list[Path]:
    """The chart of a run; the files. Raises HarnessError."""
    crashes = read(directory)
    return save(lost(crashes), directory / CHART) if crashes else []


def lost(crashes: Sequence[Crash]) -> Figure:
    """A dot for each crash: how many acknowledged orders it lost, and how soon it was back."""
    cases = by_case(crashes)
    figure = Figure(figsize=(9, 1.9 + 0.7 * len(cases)), layout="constrained")
    figure.suptitle(
        f"kill -9 at {crashes[0].offered_per_s:,.0f} orders/s: what was acknowledged and is gone",
        weight="bold",
    )
    losses, times = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    chance = np.random.default_rng(1)
    for row, (case, own) in enumerate(cases.items()):
        colour = COLOURS[row % len(COLOURS)]
        heights = row + chance.uniform(-0.25, 0.25, len(own))
        counts = [each.lost for each in own]
        losses.plot(counts, heights, "o", color=colour, markersize=4, alpha=0.7)
        times.plot([each.recovery_s for each in own], heights, "o", color=colour, markersize=4,
                   alpha=0.7)  # fmt: skip
        losses.plot([statistics.median(counts)] * 2, [row - 0.35, row + 0.35], color="black")
        most = predicted_lost(case, own[0].offered_per_s)
        if most:
            losses.plot([most] * 2, [row - 0.4, row + 0.4], color="black", linestyle=":")
    losses.plot([], [], "o", color="grey", label="one crash")
    losses.plot([], [], color="black", label="median")
    losses.plot([], [], color="black", linestyle=":", label="30 ms of orders")
    losses.set_yticks(range(len(cases)), [f"{case}\n{promise(case)}" for case in cases])
    losses.set_ylim(len(cases) - 0.5, -0.5)
    # Where nothing was lost an axis of its own choice would end at 0 and show orders below that.
    losses.set_xlim(-0.5, max(1.0, losses.get_xlim()[1]))
    losses.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.set_xlabel("acknowledged orders lost")
    times.set_xlabel("serves again after, s")
    times.set_xlim(left=0)
    for axes in (losses, times):
        axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure
