"""Figures as text: tables for the terminal and for report.md, the progress line, colours."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from bench.load import WARMUP_S
from bench.spec import Progress
from bench.traffic import PROFILES
from bench.trial import Plan, Summary

PLAIN_EVERY_S = 3.0
_STARTING_S = 0.3  # before that a rate is mostly chance
_FINDINGS_SHOWN = 3
_COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1"}
_HEADERS = ("request", "count", "p50", "p95", "p99", "p99.9", "max", "errors")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of an aligned table that is Markdown too; the first column left, others right."""
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return [line(headers), line(rule), *(line(row) for row in rows)]


def counts(counted: Mapping[str, int]) -> str:
    """``3 × timeout, 1 × 503``; ``0`` when there is nothing."""
    return ", ".join(f"{count:,} × {name}" for name, count in counted.items()) or "0"


def milliseconds(value: float | None) -> str:
    """Three significant digits; ``∞`` when the percentile fell on a failed request."""
    if value is None:
        return "∞"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def title(summary: Summary) -> str:
    """Such as ``case v3 at 100 % of B3 average day (estimate), 60 s``."""
    reads = "" if summary.reads else ", no reads"
    partial = ", PARTIAL" if summary.partial else ""
    return (
        f"case {summary.version} at {summary.scale:g} % of {PROFILES[summary.profile].label}, "
        f"{summary.duration_s:.3g} s{reads}{partial}"
    )


class Printer:
    """Lines to a stream; colour and a live line only where it is a terminal (NO_COLOR counts)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._terminal = self._stream.isatty()
        self._colour = self._terminal and "NO_COLOR" not in os.environ
        self._live = False
        self._next_plain_s = 0.0

    def say(self, line: str, colour: str | None = None) -> None:
        """One lasting line."""
        if self._live:
            self._stream.write("\r\033[K")
            self._live = False
        text = f"\033[{_COLOURS[colour]}m{line}\033[0m" if colour and self._colour else line
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def live(self, line: str) -> None:
        """One line that the next one replaces; only on a terminal."""
        if self._terminal:
            self._stream.write(f"\r\033[K{line}")
            self._stream.flush()
            self._live = True

    def show(self, plan: Plan, progress: Progress) -> None:
        """How far a trial is: in place on a terminal, else a plain line every 3 s."""
        if self._terminal:
            self.live(progress_line(plan, progress))
        elif progress.elapsed_s < _STARTING_S:
            self._next_plain_s = _STARTING_S
        elif progress.elapsed_s >= self._next_plain_s:
            self._next_plain_s += PLAIN_EVERY_S
            self.say(progress_line(plan, progress))

    def result(self, summary: Summary) -> None:
        """The tables of a trial, what failed in red."""
        self.say("")
        self.say(title(summary), "bold")
        for line in figure_lines(summary):
            self.say(line)
        for line in audit_lines(summary):
            self.say(line, "green" if summary.audit_passed else "red")
        for line in summary.warnings:
            self.say(f"warning: {line}", "yellow")
        for line in summary.generator_limits:
            self.say(f"THE GENERATOR WAS THE LIMIT: {line}", "red")


def progress_line(plan: Plan, progress: Progress) -> str:
    """Time, rate, latency, in flight."""
    elapsed_s = progress.elapsed_s
    if elapsed_s < _STARTING_S:
        return f"{plan.scale:g} %  starting"
    phase = "warm-up"
    if elapsed_s >= WARMUP_S:
        phase = f"{elapsed_s - WARMUP_S:.0f} s of {plan.duration_s:g} s"
    rate = progress.sent / min(elapsed_s, plan.length_s)
    latency = "–"
    if progress.latency_ms_p50 is not None:
        latency = (
            f"p50 {milliseconds(progress.latency_ms_p50)} ms, "
            f"p99 {milliseconds(progress.latency_ms_p99)} ms"
        )
    return (
        f"{plan.scale:g} %  {phase}  {rate:,.0f} requests/s  "
        f"{latency}  {progress.sent - progress.done} in flight  {progress.failed} errors"
    )


def figure_lines(summary: Summary) -> list[str]:
    """The latency table and what stands beside it."""
    rows = [
        (
            kind.label,
            f"{kind.count:,}",
            milliseconds(kind.latency_ms_p50),
            milliseconds(kind.latency_ms_p95),
            milliseconds(kind.latency_ms_p99),
            milliseconds(kind.latency_ms_p999),
            milliseconds(kind.latency_ms_max),
            f"{kind.errors:,}",
        )
        for kind in summary.kinds
    ]
    lines = ["", *table(_HEADERS, rows), "", "Latencies in ms from the intended send time.", ""]
    facts = [("offered", f"{summary.offered_per_s:,.0f} requests/s")]
    health = summary.generator
    facts.append(("sent", f"{health.requests_per_s:,.0f} requests/s"))
    if summary.trades is not None:
        facts.append(("trades (warm-up included)", f"{summary.trades:,}"))
    facts += [(f"errors: {name}", f"{count:,}") for name, count in summary.errors.items()]
    facts.append(
        (
            "send lag p50 / p99 / max",
            f"{milliseconds(health.send_lag_ms_p50)} / {milliseconds(health.send_lag_ms_p99)} / "
            f"{milliseconds(health.send_lag_ms_max)} ms",
        )
    )
    facts.append(
        (
            "waited for order id / connection",
            f"{health.waited_for_target:,} / {health.waited_for_connection:,}",
        )
    )
    facts.append(("generator CPU", f"{health.cpu_share:.0%} of a core"))
    if health.queued_share is not None:
        facts.append(("generator waited for its core", f"{health.queued_share:.1%}"))
    if health.steal is not None:
        facts.append(("steal", f"{health.steal:.1%}"))
    for process, microseconds in summary.cpu_us_per_request.items():
        facts.append((f"CPU per request, {process}", f"{microseconds:.0f} µs"))
    if summary.flush_age_ms_max is not None:
        facts.append(
            (
                "oldest unflushed change / most pending",
                f"{milliseconds(summary.flush_age_ms_max)} ms / {summary.flush_pending_max:,}",
            )
        )
    return [*lines, *table(("figure", "value"), facts), ""]


def audit_lines(summary: Summary) -> list[str]:
    """One line when all is well, else every check that failed with its first findings."""
    if summary.audit_passed:
        return [f"audit passed: {'; '.join(summary.audit_findings)}"]
    lines = []
    if summary.audit_not_done:
        lines.append(f"AUDIT NOT DONE: {summary.audit_not_done}")
    for check, findings in summary.audit_findings.items():
        if findings:
            lines.append(f"AUDIT FAILED: {check}: {len(findings)} findings")
            lines += [f"  {finding}" for finding in findings[:_FINDINGS_SHOWN]]
    return lines


def markdown(command: str, summaries: Sequence[Summary], limits: Sequence[str]) -> str:
    """report.md: conditions and limits before the figures."""
    lines = ["# Run report", "", "```", command, "```", "", "Limits:", ""]
    lines += [f"- {limit}" for limit in limits]
    for summary in summaries:
        lines += ["", f"## {title(summary)}", *figure_lines(summary), *audit_lines(summary)]
        lines += [f"- warning: {line}" for line in summary.warnings]
        lines += [f"- the generator was the limit: {line}" for line in summary.generator_limits]
        lines += ["", f"![Latency over time]({summary.name}-over-time.svg)"]
    if summaries:
        lines += ["", "## All scales", "", "![Latency by percentile](percentiles.svg)"]
    return "\n".join([*lines, ""])
