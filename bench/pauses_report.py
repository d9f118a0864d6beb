"""A run of pauses as a table and histograms: ``python -m bench charts DIR`` draws them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench import records
from bench.chart_style import BLUE, ORANGE, RED, save
from bench.pauses import COLLECTORS, FILE, LAYOUT, Options, Pauses, all_ms, row
from bench.report import milliseconds, table
from bench.verdict import OVER_SHARE_MAX

CHART = "pauses"
GENERATIONS = {0: ("young", BLUE, ""), 1: ("middle", ORANGE, "///"), 2: ("old", RED, "xxx")}
BINS_A_DECADE = 10


def read(directory: Path) -> list[Pauses]:
    """All cases of a run. Raises HarnessError when it is none, or not whole."""
    return records.read_lines(directory, LAYOUT, Options, FILE, Pauses)


def lines_of(found: Sequence[Pauses]) -> list[str]:
    """A row for each case and collector."""
    headers = (
        "case",
        "collector",
        "collections",
        "median ms",
        "p99 ms",
        "longest ms",
        "of the time",
        "answered within 50 ms",
    )
    rows = []
    for one in found:
        own = row(one)
        took = (milliseconds(value) for value in (own.p50, own.p99, own.max))
        words = COLLECTORS[one.collector]
        rows.append(
            (one.case, words, f"{own.count:,}", *took, f"{own.share:.2%}", f"{one.in_time:.2%}")
        )
    return [*table(headers, rows), *_warnings(found)]


def _warnings(found: Sequence[Pauses]) -> list[str]:
    """Which cases were offered more than they carry, if any."""
    over = list(dict.fromkeys(one.case for one in found if one.in_time < 1.0 - OVER_SHARE_MAX))
    if not over:
        return []
    return [
        "",
        f"**{', '.join(over)} did not carry this load: more than {OVER_SHARE_MAX:.0%} were late. "
        "So these pauses are those of an overload. Give a smaller --scale.**",
    ]


def write(directory: Path) -> list[str]:
    """Write report.md; the lines of its table. Raises HarnessError."""
    lines = lines_of(read(directory))
    picture = f"![Pauses of the garbage collector]({CHART}.svg)"
    records.write_report(directory, "Pauses of the garbage collector", [*lines, "", picture])
    return lines


def draw(directory: Path) -> list[Path]:
    """The chart of a run; the files. Raises HarnessError."""
    found = read(directory)
    return save(histograms(found), directory / CHART) if found else []


def histograms(found: Sequence[Pauses]) -> Figure:
    """How many pauses were how long; a column for each case, a row for each collector."""
    cases = list(dict.fromkeys(one.case for one in found))
    figure = Figure(figsize=(1.5 + 4.8 * len(cases), 6.4), layout="constrained")
    panels = figure.subplots(len(COLLECTORS), len(cases), sharex=True, squeeze=False)
    every_ms = [took for one in found for took in all_ms(one)] or [1.0]
    edges = bins(min(every_ms), max(every_ms))
    for one in found:
        axes = panels[list(COLLECTORS).index(one.collector)][cases.index(one.case)]
        _histogram(axes, one, edges)
    for case, axes in zip(cases, panels[-1], strict=True):
        axes.set_xlabel(f"{case}: CPU time of a pause, ms")
    scale, seconds = found[0].scale, found[0].seconds
    figure.suptitle(
        f"Pauses of the garbage collector in {seconds:g} s at {scale:g} % of B3", weight="bold"
    )
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        title="objects that were looked at",
        loc="outside lower center",
        ncols=len(GENERATIONS),
        frameon=False,
    )
    return figure


def bins(least_ms: float, most_ms: float) -> list[float]:
    """Edges of equal ratio around these."""
    first = np.floor(np.log10(least_ms) * BINS_A_DECADE)
    last = np.floor(np.log10(most_ms) * BINS_A_DECADE) + 1
    edges: list[float] = (10.0 ** (np.arange(first, last + 1) / BINS_A_DECADE)).tolist()
    return edges


def _histogram(axes: Axes, one: Pauses, edges: Sequence[float]) -> None:
    names, colours, hatches = zip(*GENERATIONS.values(), strict=True)
    own = [one.pauses_ms.get(generation, []) for generation in GENERATIONS]
    axes.hist(
        own, bins=edges, stacked=True, color=colours, hatch=hatches, label=names, edgecolor="white"
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("pauses")
    of, took = row(one), all_ms(one)
    longest = f", the longest {took[-1]:.2f} ms" if took else ""
    axes.set_title(f"{COLLECTORS[one.collector]}: {of.count:,}{longest}", fontsize=9)
