"""A run of the micro-benchmarks as curves, fits and tables, all made from its raw times."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from bench import records
from bench.exchange_client import HarnessError
from bench.micro.growth import Growth, fitted
from bench.report import table

LAYOUT = "micro-1"
# The raw times of each turn; the first is always there.
RAW_OF_TURN, RAW = "turn-{}.json", "turn-1.json"
SUMMARY, REPORT = "summary.json", "report.md"

LIMITS = (
    "One process does one thing again and again: what it needs is in the caches more than in a "
    "service under load.",
    "The exponent describes the sizes measured. It is no law beyond them: fixed costs flatten a "
    "curve at its small end, and caches that overflow bend it upwards.",
    "Each point is from the fastest turn. What takes more than two seconds has one turn only, so a "
    "slow second of the machine shows in it: the largest sizes.",
    "The standard error is that of the fit through the medians of one run; run-to-run variation is "
    "not in it.",
    "Books have evenly spread prices; all orders have one quantity and live a day.",
    "The start-up loads orders that have not traded, from a database that is in memory already.",
    "Memory is what Python has allocated (tracemalloc), not what the system has given to Python.",
)


class Curve(NamedTuple):
    """What is measured against what. A rate is operations per second, not time per operation."""

    title: str
    size: str
    unit: str
    per_second: float = 1e6
    is_rate: bool = False


CURVES = {
    "insert": Curve("Insert: an order that rests", "resting orders in the book", "µs per order"),
    "cancel": Curve("Cancel a random order", "resting orders in the book", "µs per order"),
    "cross": Curve("Cross: an order with one fill", "resting orders in the book", "µs per order"),
    "depth": Curve("Read ten levels", "resting orders in the book", "µs per read"),
    "fills": Curve("An order with many fills", "fills of the order", "µs per order"),
    "flush": Curve("Flush on the average mix", "new orders in the flush", "µs per order"),
    "startup": Curve("Load the open orders", "open orders", "seconds", per_second=1.0),
    "memory": Curve("Memory of a resting order", "resting orders in the book", "bytes per order"),
    "engine": Curve(
        "The engine on the average mix", "resting orders per symbol", "commands/s", is_rate=True
    ),
}
# What stands in one picture, side by side.
CHARTS = {
    "book": ("Operations on a book", ("insert", "cancel", "cross", "depth")),
    "fills": ("Fills per order", ("fills",)),
    "engine": ("The engine alone, changes for the flush included", ("engine",)),
    "flush": ("Cost of a flush per order", ("flush",)),
    "startup": ("Start-up time", ("startup",)),
    "memory": ("Memory per resting order", ("memory",)),
}


class Point(msgspec.Struct, frozen=True):
    """One size, in the unit of the curve: quartiles and median of the rounds of a turn."""

    size: int
    low: float
    median: float
    high: float
    rounds: int


class Line(msgspec.Struct, frozen=True):
    """One series of a curve, by size, and how it grows."""

    curve: str
    series: str
    points: list[Point]
    growth: Growth | None


class _Extra(msgspec.Struct, frozen=True):
    """What ``bench/micro/measuring.py`` says of a benchmark."""

    curve: str
    series: str
    size: int
    operations: int
    bytes_per_order: float | None = None


class _Stats(msgspec.Struct, frozen=True):
    """Seconds of each round."""

    data: list[float]


class _Benchmark(msgspec.Struct, frozen=True):
    fullname: str
    extra_info: _Extra
    stats: _Stats


class _Raw(msgspec.Struct, frozen=True):
    benchmarks: list[_Benchmark]


def read(directory: Path) -> list[Line]:
    """The lines of a run, from the times of pytest-benchmark. Raises HarnessError."""
    try:
        files = sorted(directory.glob(RAW_OF_TURN.format("*"))) or [directory / RAW]
        turns = [msgspec.json.decode(file.read_bytes(), type=_Raw) for file in files]
    except (OSError, msgspec.MsgspecError) as error:
        raise HarnessError(f"{directory} holds no micro-benchmarks: {error}") from error
    # What was wrong in one turn is believed in none.
    wrong = set(records.read_meta(directory).get("failed", []))
    every = (each for turn in turns for each in turn.benchmarks)
    benchmarks = [each for each in every if each.fullname not in wrong]
    unknown = {each.extra_info.curve for each in benchmarks} - CURVES.keys()
    if unknown:
        raise HarnessError(f"{directory} holds unknown curves: {', '.join(sorted(unknown))}")
    return lines_of(benchmarks)


def lines_of(benchmarks: Sequence[_Benchmark]) -> list[Line]:
    """In the order of CURVES, each with its points by size and its fit."""
    order = list(CURVES)

    def line(one: _Benchmark) -> tuple[int, str]:
        return order.index(one.extra_info.curve), one.extra_info.series

    def size(one: _Benchmark) -> int:
        return one.extra_info.size

    lines = []
    for (curve, series), group in groupby(sorted(benchmarks, key=line), key=line):
        by_size = groupby(sorted(group, key=size), key=size)
        points = [point_of(list(turns)) for _, turns in by_size]
        growth = fitted([each.size for each in points], [each.median for each in points])
        lines.append(Line(order[curve], series, points, growth))
    return lines


def point_of(turns: Sequence[_Benchmark]) -> Point:
    """One size in the unit of its curve: from the fastest turn, for what disturbs only adds."""
    fastest = min(turns, key=lambda turn: float(np.median(turn.stats.data)))
    values = values_of(fastest, CURVES[fastest.extra_info.curve])
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return Point(fastest.extra_info.size, low, median, high, len(values))


def values_of(one: _Benchmark, curve: Curve) -> list[float]:
    """The value of each round."""
    said = one.extra_info
    if said.bytes_per_order is not None:
        return [said.bytes_per_order]
    if curve.is_rate:
        return [said.operations / seconds for seconds in one.stats.data]
    return [seconds / said.operations * curve.per_second for seconds in one.stats.data]


def write(directory: Path) -> list[Line]:
    """summary.json and report.md from the raw times of a run. Raises HarnessError."""
    lines = read(directory)
    meta = records.read_meta(directory)
    records.write_json(directory / SUMMARY, lines)
    (directory / REPORT).write_text(markdown(meta, lines))
    return lines


def markdown(meta: dict[str, Any], lines: Sequence[Line]) -> str:
    """report.md: conditions and limits before the figures."""
    machine = meta["machine"]
    text = ["# Micro-benchmarks", "", "```", meta["command"], "```", ""]
    text += [
        f"{machine['cores']} cores of {machine['cpu']}, Python {meta['python']}, "
        f"PostgreSQL {meta['postgres']['version']}.",
        "",
        "Limits:",
        "",
        *(f"- {limit}" for limit in meta["limits"]),
    ]
    if meta["partial"]:
        text += ["", "**Not complete.**"]
    if meta["failed"]:
        text += [
            "",
            "**Wrong answers, whose times are left out:**",
            "",
            *(f"- `{one}`" for one in meta["failed"]),
        ]
    for name, (title, curves) in CHARTS.items():
        if any(line.curve in curves for line in lines):
            text += ["", f"## {title}", "", f"![{title}]({name}.svg)"]
            text += tables([line for line in lines if line.curve in curves])
    return "\n".join([*text, ""])


def tables(lines: Sequence[Line]) -> list[str]:
    """For each curve its medians, the quartiles in brackets, and the growth below."""
    text = []
    for curve, group in by_curve(lines):
        headers = (curve.size, *(_heading(curve, line.series) for line in group))
        sizes = sorted({point.size for line in group for point in line.points})
        rows = [(f"{size:,}", *(_cell(line, size) for line in group)) for size in sizes]
        rows.append(("growth", *(growth_text(line) for line in group)))
        text += ["", f"{curve.title}:", "", *table(headers, rows)]
    return text


def by_curve(lines: Sequence[Line]) -> Iterator[tuple[Curve, list[Line]]]:
    """The lines of each curve together."""
    for name, group in groupby(lines, key=lambda line: line.curve):
        yield CURVES[name], list(group)


def growth_text(line: Line) -> str:
    """Such as ``n^0.03 ± 0.01``."""
    return "–" if line.growth is None else str(line.growth)


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def _heading(curve: Curve, series: str) -> str:
    return f"{series}, {curve.unit}" if series else curve.unit


def _cell(line: Line, size: int) -> str:
    """``–`` where a benchmark is missing."""
    for point in line.points:
        if point.size == size:
            low, median, high = map(number, (point.low, point.median, point.high))
            return median if low == high else f"{median} ({low}–{high})"
    return "–"
