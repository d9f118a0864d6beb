"""The tables in the READMEs, made from the newest published runs below results/."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import capacity_report, crash
from bench.capacity import LAYOUT
from bench.findings import Findings
from bench.records import (
    DEFAULT_DIRECTORY,
    OF_THE_START,
    doubts,
    is_commit,
    is_mixed,
    read_meta,
    read_summaries,
)
from bench.report import milliseconds
from bench.service import ROOT, VERSIONS
from bench.trial import Summary

BEGIN, END = "<!-- measured: python -m bench tables -->", "<!-- /measured -->"
PUBLISHED, AVERAGE = "publish", "average"
REPEATS_MIN = 3
_SAME_WAY = ("pins", "generators")  # of the options
CHART = "capacity"  # of all runs that are published together
# Which cases a README shows.
READMES = {
    "README.md": VERSIONS,
    "results/README.md": VERSIONS,
    "casev1/README.md": ("v1",),
    "casev2/README.md": ("v2",),
    "casev3/README.md": ("v3",),
}


def newest_runs(results: Path = DEFAULT_DIRECTORY) -> list[Path]:
    """The newest run of each layout, and the newest run at fixed loads of each case."""
    of_layout = {
        conditions["layout"]: run for run, conditions in _runs(results) if "layout" in conditions
    }
    return [*of_layout.values(), *newest(results).values()]


def newest_of(
    layout: str, results: Path = DEFAULT_DIRECTORY, *, whole: bool = False
) -> Path | None:
    """The newest run of a layout; ``whole`` as in ``runs_of``."""
    found = runs_of(layout, results, whole=whole)
    return found[-1] if found else None


def runs_of(layout: str, results: Path = DEFAULT_DIRECTORY, *, whole: bool = False) -> list[Path]:
    """All runs of a layout, oldest first; ``whole`` leaves out what was broken off.

    What has faults stays: left out, a broken promise would not be seen.
    """
    return [
        run
        for run, conditions in _runs(results)
        if conditions.get("layout") == layout and not (whole and conditions["partial"])
    ]


def newest_published(results: Path = DEFAULT_DIRECTORY) -> Path | None:
    """The newest whole capacity run in publish mode, of all three cases on the average day.

    It has ``REPEATS_MIN`` repeats at least: of fewer there is hardly a range.
    """
    published = [run for run, conditions in _runs(results) if _is_published(conditions)]
    return published[-1] if published else None


def published_with(run: Path) -> list[Path]:
    """A run, and if it is published those of the same product and machine before it, oldest first.

    They measured one thing in the same way in different hours. What was not committed, or not all
    at one commit, is like nothing else.
    """
    own = read_meta(run)
    if not _is_published(own) or not is_commit(own["git"]) or is_mixed(own):
        return [run]
    return [
        each
        for each, conditions in _runs(run.parent)
        if each.name <= run.name
        and _is_published(conditions)
        and not is_mixed(conditions)
        and all(conditions.get(name) == own.get(name) for name in OF_THE_START)
        and all(conditions["options"][name] == own["options"][name] for name in _SAME_WAY)
    ]


def _is_published(conditions: dict[str, Any]) -> bool:
    return bool(
        conditions.get("layout") == LAYOUT
        and conditions["mode"]["name"] == PUBLISHED
        and conditions["options"]["trial_s"] is None
        and conditions["options"]["repeats"] >= REPEATS_MIN
        and conditions["options"]["profile"] == AVERAGE
        and set(VERSIONS) <= set(conditions["options"]["cases"])
        and not (conditions["partial"] or conditions["void"])
    )


def _runs(results: Path) -> list[tuple[Path, dict[str, Any]]]:
    """All runs with their conditions, oldest first: their names begin with the time."""
    return [(meta.parent, read_meta(meta.parent)) for meta in sorted(results.glob("*/meta.json"))]


def newest(results: Path = DEFAULT_DIRECTORY, *, spawned: bool = False) -> dict[str, Path]:
    """The newest whole run at fixed loads of each case, by its version.

    ``spawned`` leaves out runs against a service and a database of which the harness knows nothing.
    """
    return {
        conditions["version"]: run
        for run, conditions in _runs(results)
        if "version" in conditions
        and not conditions["partial"]
        and (conditions["spawned"] or not spawned)
    }


def measured(versions: Sequence[str], readme: Path, results: Path = DEFAULT_DIRECTORY) -> str:
    """The section that a README has between its markers: capacities once they are published."""
    published = newest_published(results)
    if published is not None:
        lines = _capacities(published, versions, _way_to_results(readme))
        return "\n".join([BEGIN, "", *lines, "", END])
    runs = newest(results, spawned=True)
    known = [version for version in versions if version in runs]
    if not known:
        return f"{BEGIN}\n\nNo run is published yet.\n\n{END}"
    parts = [BEGIN, ""]
    for version in known:
        parts += _section(runs[version], _way_to_results(readme))
    return "\n".join([*parts, END])


def _way_to_results(readme: Path) -> str:
    """From the directory of a README to that of the results."""
    if readme.parent == DEFAULT_DIRECTORY:
        return ""
    return "results/" if readme.parent == ROOT else "../results/"


def _capacities(run: Path, versions: Sequence[str], way: str) -> list[str]:
    conditions, runs = read_meta(run), published_with(run)
    machine = conditions["machine"]
    every = capacity_report.read_pooled(runs)
    shown = [each for each in every.cases if _version(each.case) in versions]
    findings = msgspec.structs.replace(every, cases=shown)
    return [
        f"`{conditions['command']}` on {machine['cores']} cores of an {machine['cpu']}, Python "
        f"{conditions['python']}; service, generator and database share them. "
        f"{_of_repeats(runs, way)} The latencies at single loads are of one trial each. "
        f"[All figures, conditions and limits]({way}{run.name}/report.md).",
        "",
        f"![Capacity]({way}{CHART}.svg)",
        *capacity_report.lines_of(findings),
        *(_by_run(runs) if not way else []),
        *_limit_of_database(findings, run.parent, way),
        *_losses(every, run.parent, versions, way),
        *(_index(run.parent) if not way else []),
    ]


def _index(results: Path) -> list[str]:
    """Every record that is kept, with the command that made it."""
    rows = [
        (
            f"[{run.name}]({run.name}/{_record_of(run)})",
            f"`{conditions['command'].removeprefix('python ')}`",
            " ".join(filter(None, doubts(conditions))) or "–",
        )
        for run, conditions in _runs(results)
    ]
    headers = ("| run | python | state |", "|---|---|---|")
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return ["", f"All {len(rows)} that are kept, oldest first:", "", *headers, *lines]


def _record_of(run: Path) -> str:
    """What to read of it: its report, or the figures of one that has none."""
    figures = sorted(file.name for file in run.glob("*.json") if file.name != "meta.json")
    names = [capacity_report.REPORT, *figures, "meta.json"]
    return next(name for name in names if (run / name).exists())


def _of_repeats(runs: Sequence[Path], way: str) -> str:
    """Over what the ranges of published runs are, as sentences."""
    options = [read_meta(run)["options"] for run in runs]
    repeats = sum(each["repeats"] for each in options)
    if len(runs) == 1:
        text = f"The range is that of {repeats} repeats."
    else:
        parts = [
            f"[{each['repeats']} in {run.name}]({way}{run.name}/report.md)"
            for run, each in zip(runs, options, strict=True)
        ]
        text = (
            f"Capacities and shares are medians with the range of {repeats} repeats in different "
            f"hours, {', '.join(parts)}, all of one commit; the rest is of the last run."
        )
    if (planned := options[-1].get("repeats_planned")) is not None:
        text += f" {planned} {'was' if planned == 1 else 'were'} planned."
    return text


def _by_run(runs: Sequence[Path]) -> list[str]:
    """Each run by itself, where there are several."""
    if len(runs) == 1:
        return []
    found = {run.name.partition("_")[0]: capacity_report.read(run) for run in runs}
    return ["", "Run by run:", "", *capacity_report.run_table(found)]


def _limit_of_database(found: Findings, results: Path, way: str) -> list[str]:
    """How near casev1 is to what PostgreSQL does alone; nothing where either is not known."""
    from bench import pgbench  # noqa: PLC0415 - it needs the packages of the service

    run = pgbench.newest(results)
    carried = next((each.capacity.median for each in found.cases if each.case == "v1"), None)
    if run is None or carried is None:
        return []
    alone = pgbench.read(run)
    return [
        "",
        f"PostgreSQL alone reaches {alone.percent_of_b3:.0f} % with the same statements "
        f"([pgbench]({way}{run.name}/{pgbench.FILE}), {alone.clients} clients in a closed loop, "
        f"latency no object); casev1 carries {carried / alone.percent_of_b3:.0%} of that.",
    ]


def _losses(every: Findings, results: Path, versions: Sequence[str], way: str) -> list[str]:
    """What a crash costs in each mode, beside its capacity; nothing without a run of crashes."""
    from bench import loss  # noqa: PLC0415 - matplotlib takes a second to import

    killed = loss.of_runs(every.cases, runs_of(crash.LAYOUT, results, whole=True))
    known = [mode for mode in killed if _version(mode.case) in versions]
    if not known:
        return []
    runs = sorted({mode.run for mode in known})
    sources = [f"[{each.name}]({way}{each.name}/report.md)" for each in runs]
    picture = ["", f"![Orders lost against capacity]({way}{loss.CHART}.svg)"]
    return [
        "",
        f"What `kill -9` costs, from the crashes of {' and '.join(sources)}:",
        "",
        *loss.lines_of(known),
        *(picture if len(versions) > 1 else []),
    ]


def _version(case: str) -> str:
    """Of a label such as v3, v1x2 or v3-wal."""
    return case.partition("x")[0].partition("-")[0]


def _section(run: Path, way: str) -> list[str]:
    conditions = read_meta(run)
    machine, place = conditions["machine"], f"{way}{run.name}"
    return [
        f"`{conditions['command']}` on {machine['cores']} cores of an {machine['cpu']}, "
        f"Python {conditions['python']}, PostgreSQL {conditions['postgres']['version']}; "
        f"service, generator and database share them. [All figures, conditions and limits]"
        f"({place}/report.md).",
        "",
        "| load | requests/s | p50 ms | p95 ms | p99 ms | p99.9 ms | errors | "
        "service CPU per request | audit |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        *(_row(summary) for summary in read_summaries(run)),
        "",
        f"![Latency by percentile]({place}/percentiles.svg)",
        "",
    ]


def _row(summary: Summary) -> str:
    everything = summary.kinds[-1]
    latencies = (
        everything.latency_ms_p50,
        everything.latency_ms_p95,
        everything.latency_ms_p99,
        everything.latency_ms_p999,
    )
    cells = (
        f"{summary.scale:g} %",
        f"{summary.offered_per_s:,.0f}",
        *(milliseconds(latency) for latency in latencies),
        f"{everything.errors:,}",
        f"{summary.cpu_us_per_request['service']:.0f} µs",
        "passed" if summary.audit_passed else "FAILED",
    )
    return f"| {' | '.join(cells)} |"


def updated(readme: Path, versions: Sequence[str], results: Path = DEFAULT_DIRECTORY) -> str:
    """The text of a README with its measured section as the results have it."""
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + measured(versions, readme, results) + after


def write_all() -> list[Path]:
    """Renew every README, and the charts that they share; the files."""
    files = [ROOT / name for name in READMES]
    for readme, versions in zip(files, READMES.values(), strict=True):
        readme.write_text(updated(readme, versions))
    published = newest_published()
    return files if published is None else [*files, *_draw(published_with(published))]


def _draw(published: Sequence[Path]) -> list[Path]:
    from bench import capacity_charts, chart_style, loss  # noqa: PLC0415 - as above

    carried = capacity_report.read_pooled(published)
    drawn = {CHART: capacity_charts.capacity(carried)}
    if crashed := runs_of(crash.LAYOUT, whole=True):
        drawn[loss.CHART] = loss.chart(loss.of_runs(carried.cases, crashed))
    files = [chart_style.save(chart, DEFAULT_DIRECTORY / name) for name, chart in drawn.items()]
    return [file for both in files for file in both]
