"""A capacity run as text and files: its findings, tables and charts, all made from its records."""

import statistics
from collections.abc import Mapping, Sequence
from math import fsum
from pathlib import Path

import msgspec

from bench import evenness, pace, records, trials
from bench.agenda import slowed, usual_paces
from bench.capacity_cli import read_options
from bench.findings import Finding, Findings, Range, found, pooled
from bench.observe import BOOK, ORDER, PRICE
from bench.report import milliseconds, table
from bench.trials import Record

SUMMARY, REPORT = "summary.json", "report.md"


def write(directory: Path) -> Findings:
    """summary.json and report.md from the trials of a run. Raises HarnessError."""
    options, done = read_options(directory), trials.read(directory)
    findings = found(options, done)
    records.write_json(directory / SUMMARY, findings)
    slow = slowed(options, done)
    (directory / REPORT).write_text(markdown(directory, findings, done, slow))
    return findings


def read(directory: Path) -> Findings:
    """The findings of a run. Raises HarnessError."""
    return records.read_json(directory / SUMMARY, Findings)


def read_pooled(runs: Sequence[Path]) -> Findings:
    """What several runs say together, those of the last with the ranges of all. Raises
    HarnessError."""
    return pooled([(read_options(run), trials.read(run)) for run in runs])


def lines_of(findings: Findings) -> list[str]:
    """The tables, as Markdown that reads well in a terminal too."""
    every = findings.every
    return [
        "",
        *capacity_table(every),
        "",
        *point_table(findings.cases),
        "",
        *cost_table(every),
        "",
        *limit_lines(findings.cases),
        *log_lines(findings.cases),
    ]


def log_lines(cases: Sequence[Finding]) -> list[str]:
    """How the write-ahead log writes at the capacity, of the cases that have one, and its cost."""
    lines = []
    for each in cases:
        if each.log:
            lines.append(
                f"- {each.case} writes its log {each.log.writes_per_s:,.0f} times/s at its "
                f"capacity, {each.log.records_per_write:.1f} records at a time, in "
                f"{each.log.ms_p50:.2f} ms (p50)."
            )
        if each.of_flush.median is not None:
            share = _percent_text(each.of_flush)
            lines.append(f"- {each.case} has {share} of the capacity without a log, by repeat.")
    return lines


def limit_lines(cases: Sequence[Finding]) -> list[str]:
    """What limits each case, with the figures that say so."""
    return [f"- {each.limit.sentence}" for each in cases if each.limit]


def capacity_table(cases: Sequence[Finding]) -> list[str]:
    """Capacity at both limits, with its range, and as a share of the null server's."""
    headers = (
        "case",
        "capacity at p99 ≤ 50 ms",
        "late there",
        "unstable from",
        "at p99 ≤ 10 ms",
        "requests/s",
        "of the null server",
        "limited by",
    )
    rows = [
        (
            each.case,
            capacity_text(each),
            "–" if each.late is None else f"{each.late:.1%}",
            # Where the service was not the limit, no rate is known at which it is unstable.
            "–" if each.at_least else _range_text(each.unstable_from),
            tight_text(each),
            "–" if each.requests_per_s is None else f"{each.requests_per_s:,.0f}",
            _share_text(each),
            each.limit.resource if each.limit and each.limit.exhausted else "–",
        )
        for each in cases
    ]
    return table(headers, rows)


def run_table(runs: Mapping[str, Findings]) -> list[str]:
    """Each run by itself, by its name: medians and ranges of the capacities and of their shares of
    the null server's, and by how much the highest median is above the lowest."""
    labels = {each.case: None for findings in runs.values() for each in findings.every}
    own = {label: [_of_case(findings, label) for findings in runs.values()] for label in labels}
    headers = (
        *("case", *runs, "medians differ by"),
        *(f"{name}: of the null server" for name in runs),
        "medians differ by",
    )
    rows = [
        (
            label,
            *("–" if one is None else _range_text(one.capacity) for one in found_),
            _spread([one.capacity for one in found_ if one]),
            *("–" if one is None else _share_text(one) for one in found_),
            _spread([one.of_null_range for one in found_ if one]),
        )
        for label, found_ in own.items()
    ]
    return table(headers, rows)


def _of_case(findings: Findings, label: str) -> Finding | None:
    return next((each for each in findings.every if each.case == label), None)


def _spread(ranges: Sequence[Range]) -> str:
    medians = [each.median for each in ranges if each.median is not None]
    return f"{max(medians) / min(medians) * 100 - 100:.0f} %" if len(medians) > 1 else "–"


def point_table(cases: Sequence[Finding]) -> list[str]:
    """Latencies at fixed loads."""
    rows = [
        (
            each.case,
            f"{point.rate:g} %" if point.stable else f"{point.rate:g} %, not stable",
            milliseconds(point.figures.latency_ms_p50),
            milliseconds(point.figures.latency_ms_p99),
            milliseconds(point.figures.latency_ms_p999),
        )
        for each in cases
        for point in each.points
    ]
    return table(("case", "load", "p50 ms", "p99 ms", "p99.9 ms"), rows) if rows else []


def cost_table(cases: Sequence[Finding]) -> list[str]:
    """What a request costs at the capacity, and how old what is read and stored may be."""
    rows = [
        (
            each.case,
            _number(each.cpu_us_per_request.get("service"), "µs"),
            _number(_postgres(each.cpu_us_per_request), "µs"),
            _number(each.cpu_us_per_request.get("generator"), "µs"),
            *(_staleness(each, kind) for kind in (BOOK, PRICE, ORDER)),
            _number(each.flush_age_ms_max),
            _number(each.changes_per_flush),
        )
        for each in cases
    ]
    headers = (
        "case",
        "CPU per request: service",
        "PostgreSQL",
        "generator",
        "staleness p50 / max ms: book",
        "price",
        "order",
        "oldest unflushed change ms",
        "changes per flush",
    )
    return table(headers, rows)


def capacity_text(one: Finding) -> str:
    """``412 % (405–420)``, with ≥ where the service was not the limit."""
    if one.capacity.median is None:
        return "none found"
    sign = "≥ " if one.at_least else ""
    return f"{sign}{_range_text(one.capacity)}{_doubt(one)}"


def _doubt(one: Finding) -> str:
    if one.confirmed:
        return ""
    if not one.repeats_confirmed:
        return ", not confirmed"
    return f", {one.repeats_confirmed} of {one.repeats} confirmed"


def tight_text(one: Finding) -> str:
    """The capacity at 10 ms as far as the trials of the search say it."""
    above = one.tight_unstable_from
    if one.tight.most is None:
        return "–" if above.median is None else f"< {_range_text(above)}"
    ending = "" if above.median is None else f", unstable from {above.median:.0f} %"
    if one.tight.median is None:  # half of the repeats or more have none
        return f"none–{one.tight.most:.0f} %{ending}"
    return _range_text(one.tight) + ending


def markdown(
    directory: Path, findings: Findings, done: Sequence[Record], slow: Mapping[int, str]
) -> str:
    """report.md: conditions before claims, then tables, sentences and every trial.

    ``slow`` as in ``agenda.slowed``.
    """
    meta = records.read_meta(directory)
    machine = meta["machine"]
    cases = ", ".join(each.case for each in findings.cases or findings.every)
    title = f"# Capacity: {cases or 'nothing yet'}"
    lines = [title, "", "```", meta["command"], "```", ""]
    lines += [
        f"{machine['cores']} cores of {machine['cpu']}, Python {meta['python']}, "
        f"{meta['profile_label']}, mode {findings.mode}: trials of "
        f"{meta['mode']['duration_s']:g} s, bounds within {meta['mode']['width']:.1%}.",
        "",
        "Limits:",
        "",
        *(f"- {limit}" for limit in meta["limits"]),
        *records.resume_lines(meta),
    ]
    seen = evenness.read(directory)
    lines += [f"- {evenness.sentence(seen)}"] if seen else []
    if any(one.paces for one in done):
        lines += [f"- {pace_sentence(done, slow)}"]
    lines += records.doubts(meta)
    lines += lines_of(findings)
    for name, text in CHARTS.items() if findings.cases else ():  # without a case there are none
        lines += ["", f"![{text}]({name}.svg)"]
    lines += ["", "## Trials", "", *trial_table(done, slow), ""]
    return "\n".join(lines)


CHARTS = {
    "capacity": "Capacity",
    "latency-by-load": "Latency against load",
    "percentiles": "Latency by percentile",
    "backlog": "Requests in flight",
    "cpu": "CPU per request",
    "staleness": "Read staleness",
}


def pace_sentence(done: Sequence[Record], slow: Mapping[int, str]) -> str:
    """How fast the cores were while the trials ran, as a condition of a run."""
    slower = _slower_cores(done).values()
    turns = ", ".join(
        f"core {name} {each.mean:.0f} of {each.best:.0f}"
        for name, each in pace.usual([one.paces for one in done]).items()
    )
    return (
        f"While {len(slower)} trials ran, the cores did so many turns of an empty loop/µs as a "
        f"rule, of so many at their best: {turns}. The slower one had "
        f"{statistics.median(slower):.0%} of its usual pace in the median trial and "
        f"{min(slower):.0%} at least"
        + (f"; {len(slow)} of them were too slow to count." if slow else ".")
    )


def trial_table(done: Sequence[Record], slow: Mapping[int, str]) -> list[str]:
    """Every trial with its verdict; and, where it is known, how fast the slower core was."""
    slower = _slower_cores(done)
    rows = [
        (
            str(one.number),
            one.case,
            str(one.repeat),
            one.purpose,
            f"{one.rate:g} %",
            milliseconds(one.everything.latency_ms_p50),
            milliseconds(one.everything.latency_ms_p99),
            f"{one.over / max(one.total, 1):.2%}",
            *([_percent(slower.get(one.number))] if slower else []),
            "; ".join([*_verdict(one, slow), *one.reasons, *one.faults]),
        )
        for one in done
    ]
    before = ("trial", "case", "repeat", "for", "load", "p50 ms", "p99 ms", "> 50 ms")
    return table((*before, *(["machine"] if slower else []), "verdict"), rows)


def _slower_cores(done: Sequence[Record]) -> dict[int, float]:
    """By the number of a trial the slower core's share of its usual pace, where it was watched."""
    usual = usual_paces(done)
    return {
        one.number: min(pace.shares(one.paces, usual[one.repeat]).values())
        for one in done
        if one.paces
    }


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _verdict(one: Record, slow: Mapping[int, str]) -> list[str]:
    said = [str(one.verdict)]
    return [*said, f"does not count ({slow[one.number]})"] if one.number in slow else said


def _postgres(cpu_us: dict[str, float]) -> float | None:
    own = [each for name, each in cpu_us.items() if name.startswith("postgres ")]
    return fsum(own) if own else None


def _staleness(one: Finding, kind: str) -> str:
    seen = one.staleness_ms.get(kind)
    return "–" if seen is None else f"{milliseconds(seen.p50)} / {milliseconds(seen.max)}"


def _range_text(given: Range) -> str:
    if given.median is None:
        return "–"
    if given.least == given.most:
        return f"{given.median:.0f} %"
    ends = ["none" if end is None else f"{end:.0f}" for end in (given.least, given.most)]
    return f"{given.median:.0f} % ({'–'.join(ends)})"


def _share_text(one: Finding) -> str:
    if one.of_null_range.median is None:
        return "–" if one.of_null is None else f"{one.of_null * 100:.0f} %"
    return _percent_text(one.of_null_range)


def _percent_text(share: Range) -> str:
    percents = [None if part is None else part * 100 for part in msgspec.structs.astuple(share)]
    return _range_text(Range(*percents))


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "–"
    return f"{milliseconds(value)} {unit}".rstrip()
