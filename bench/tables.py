"""The tables in the READMEs, made from the newest run of each case below results/."""

import json
from collections.abc import Sequence
from pathlib import Path

from bench.records import DEFAULT_DIRECTORY, read_summaries
from bench.report import milliseconds
from bench.service import ROOT
from bench.trial import Summary

BEGIN, END = "<!-- measured: python -m bench tables -->", "<!-- /measured -->"
# Which cases a README shows.
READMES = {
    "README.md": ("v1", "v2", "v3"),
    "casev1/README.md": ("v1",),
    "casev2/README.md": ("v2",),
    "casev3/README.md": ("v3",),
}


def newest(results: Path = DEFAULT_DIRECTORY) -> dict[str, Path]:
    """The newest whole run of each case by its version; their names begin with the time."""
    runs = {}
    for meta in sorted(results.glob("*/meta.json")):
        conditions = json.loads(meta.read_text())
        if not conditions["partial"]:
            runs[conditions["version"]] = meta.parent
    return runs


def measured(versions: Sequence[str], readme: Path, results: Path = DEFAULT_DIRECTORY) -> str:
    """The section that a README has between its markers."""
    runs = newest(results)
    known = [version for version in versions if version in runs]
    if not known:
        return f"{BEGIN}\n\nNo run is published yet.\n\n{END}"
    parts = [BEGIN, ""]
    for version in known:
        parts += _section(runs[version], "../" if readme.parent != ROOT else "")
    return "\n".join([*parts, END])


def _section(run: Path, up: str) -> list[str]:
    conditions = json.loads((run / "meta.json").read_text())
    machine, place = conditions["machine"], f"{up}results/{run.name}"
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
    """Renew every README; those that there are."""
    files = [ROOT / name for name in READMES]
    for readme, versions in zip(files, READMES.values(), strict=True):
        readme.write_text(updated(readme, versions))
    return files
