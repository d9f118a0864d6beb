"""Capacity against loss: what each case carries in each mode, and what a crash costs there.

The capacities are the published ones, the losses those of the newest run of crashes in which a
mode was killed at that many orders per second.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from bench import crash_report
from bench.capacity_report import capacity_text
from bench.chart_style import COLOURS
from bench.crash import Crash
from bench.crash_report import by_case, promise
from bench.findings import Finding
from bench.report import table

CHART = "loss"
_HEADERS = (
    "mode",
    "acknowledged when",
    "capacity",
    "crashes",
    "killed at orders/s",
    "acknowledged orders lost by a crash: median (most)",
)


class Mode(NamedTuple):
    """A case with its promise, killed in one run. Without a capacity half of it is not known.

    ``faults`` are what the case must not do and has done there.
    """

    case: str
    carried: Finding | None
    crashes: Sequence[Crash]
    run: Path
    faults: Sequence[str] = ()

    @property
    def orders_per_s(self) -> int:
        """What it was offered."""
        return round(self.crashes[0].offered_per_s)

    @property
    def lost(self) -> list[int]:
        """Acknowledged orders, by crash."""
        return [each.lost for each in self.crashes]

    @property
    def verdict(self) -> str:
        """What stands behind its figures: nothing where it is as it must be."""
        return ", FAILED" if self.faults else ""


def modes(carried: Sequence[Finding], crashed: Mapping[Path, Sequence[Crash]]) -> list[Mode]:
    """All that was killed, by case and then by rate, with the capacity where it is known.

    Of several runs, oldest first, in which a mode was killed at one rate the last one counts.
    """
    of_case = {each.case: each for each in carried}
    every = [
        Mode(case, of_case.get(case), own, run)
        for run, crashes in crashed.items()
        for case, own in by_case(crashes).items()
    ]
    found = {(mode.case, mode.orders_per_s): mode for mode in every}
    return [found[key] for key in sorted(found)]


def _of_one_rate(known: Sequence[Mode]) -> list[Mode]:
    """Those at the rate at which most modes were killed, of several such the lowest."""
    killed = Counter(mode.orders_per_s for mode in known)
    rate = min(killed, key=lambda each: (-killed[each], each), default=0)
    return [mode for mode in known if mode.orders_per_s == rate]


def of_runs(carried: Sequence[Finding], crashed: Sequence[Path]) -> list[Mode]:
    """Those of a published search and of runs of crashes, oldest first. Raises HarnessError."""
    crashes = {run: crash_report.read(run) for run in crashed}
    known = modes(carried, crashes)
    return [mode._replace(faults=_faults(mode)) for mode in known]


def _faults(mode: Mode) -> list[str]:
    return [fault for fault in crash_report.faults(mode.run) if fault.startswith(f"{mode.case}: ")]


def lines_of(known: Sequence[Mode]) -> list[str]:
    """The table, and what must not be."""
    faults = [f"- FAILED: {fault}" for mode in known for fault in mode.faults]
    return [*table(_HEADERS, [_row(mode) for mode in known]), *(["", *faults] if faults else [])]


def _row(mode: Mode) -> tuple[str, ...]:
    return (
        mode.case,
        promise(mode.case),
        "–" if mode.carried is None else capacity_text(mode.carried),
        f"{len(mode.crashes)}",
        f"{mode.orders_per_s:,}",
        f"{statistics.median(mode.lost):g} ({max(mode.lost)}){mode.verdict}",
    )


def chart(known: Sequence[Mode]) -> Figure:
    """A mark for each mode whose capacity is known, all killed at one rate: the range of the
    capacity, the losses of all crashes and their median."""
    known = _of_one_rate(known)
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    figure.suptitle("What a crash costs, against what is carried", weight="bold")
    most = max((max(mode.lost) for mode in known), default=0)
    # Neighbours carry and lose about as much, so their words stand on different sides.
    sides = cycle((9, -9))
    unknown = []
    for number, mode in enumerate(known):
        found = mode.carried
        if found is None or found.capacity.median is None:
            unknown.append(mode.case)
            continue
        colour, at = COLOURS[number % len(COLOURS)], found.capacity.median
        span = [each for each in (found.capacity.least, found.capacity.most) if each is not None]
        middle = statistics.median(mode.lost)
        axes.plot([at] * len(mode.lost), mode.lost, "_", color=colour, alpha=0.5)
        axes.plot(span, [middle] * len(span), color=colour)
        axes.plot(at, middle, "osD^vP"[number % 6], color=colour, markersize=8)
        aside = next(sides)
        # Above the line of the range, or below where the dashes of others would lie behind them.
        above = middle > 0
        axes.annotate(
            f"{mode.case}: {at:.0f} %, {middle:g} lost{mode.verdict}\n{promise(mode.case)}",
            (at, middle),
            xytext=(aside, 4 if above else -4),
            textcoords="offset points",
            ha="right" if aside < 0 else "left",
            va="bottom" if above else "top",
            fontsize=8,
            bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 0.5},
        )
    axes.set_xlim(0, 1.25 * axes.get_xlim()[1])  # room for the words of the last
    axes.set_ylim(-0.2 * (most + 1), 1.25 * (most + 1))
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= axes.get_ylim()[1]])
    axes.set_xlabel("capacity at p99 ≤ 50 ms, percent of B3")
    at_rate = f" at {known[0].orders_per_s:,} orders/s" if known else ""
    axes.set_ylabel(f"acknowledged orders lost by kill -9{at_rate}")
    left_out = f"; without a published capacity: {', '.join(unknown)}" if unknown else ""
    words = f"mark: median; dashes: every crash; line: range of the capacity{left_out}"
    figure.supxlabel(words, fontsize=8)
    return figure
