"""What ``notebooks/capacity.ipynb`` shows: tables and charts of the records, as a notebook shows.

It decides what is there to be shown, so that the notebook itself only says in which order.
"""

import io
from collections.abc import Sequence
from pathlib import Path

from IPython.display import Image, Markdown
from matplotlib.figure import Figure

from bench import crash, crash_report, sensitivity, sensitivity_charts, sensitivity_report
from bench.capacity import LAYOUT
from bench.exchange_client import HarnessError
from bench.micro import charts as micro_charts
from bench.micro import report as micro_report
from bench.profiles import B3
from bench.records import doubts, read_meta, read_options
from bench.tables import newest_of, newest_published, published_with, runs_of

NOT_PUBLISHED = (
    "**No run is published yet.** This is the newest capacity run instead: the fewer and shorter "
    "its trials, the wider its bounds."
)


def run_to_show(results: Path) -> Path:
    """The published capacity run, else the newest one. Raises HarnessError without any."""
    run = newest_published(results) or newest_of(LAYOUT, results)
    if run is None:
        raise HarnessError(f"{results}: no capacity run; make one with: make bench-quick")
    return run


def conditions(run: Path) -> Markdown:
    """Which run is shown, how it was made, and how far it can be believed."""
    meta = read_meta(run)
    machine, mode = meta["machine"], meta["mode"]
    lines = [
        f"`{meta['command']}`",
        "",
        f"{run.name}: {machine['cores']} cores of {machine['cpu']}, Python {meta['python']}, "
        f"{meta['profile_label']}, mode {mode['name']} (trials of {mode['duration_s']:g} s, "
        f"bounds within {mode['width']:.1%}).",
        "",
        *(f"- {limit}" for limit in meta["limits"]),
    ]
    together = published_with(run)
    if len(together) > 1:
        lines += [
            "",
            f"Capacities are over the repeats of {' and '.join(r.name for r in together)}.",
        ]
    if run != newest_published(run.parent):
        lines += ["", NOT_PUBLISHED]
    return markdown([*lines, *doubts(meta)])


def markdown(lines: Sequence[str]) -> Markdown:
    """Lines of a report."""
    return Markdown("\n".join(lines or ["Not measured in this run."]))


def picture(figure: Figure) -> Image:
    """A chart, small enough to be kept in the notebook."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image(file.getvalue())


def sensitivity_of(results: Path) -> list[Markdown | Image]:
    """Table, chart and reading of the newest sensitivity run, or that there is none.

    A run under markets that are not B3's is another story.
    """
    runs = [run for run in runs_of(sensitivity.LAYOUT, results) if _is_of_b3(run)]
    run = runs[-1] if runs else None
    found = sensitivity_report.from_records(run) if run else sensitivity.Sensitivity([])
    if run is None or not found.profiles:
        return [Markdown("No run is there yet; make one with `make bench-sensitivity`.")]
    said = [f"{run.name}:", *doubts(read_meta(run)), "", *sensitivity_report.lines_of(found)]
    hints = [f"- {hint}" for hint in sensitivity_report.READING]
    return [markdown(said), picture(sensitivity_charts.orders(found)), markdown(hints)]


def crashes_of(results: Path) -> list[Markdown | Image]:
    """Table and chart of the newest run of crashes that is whole, or that there is none."""
    run = newest_of(crash.LAYOUT, results, whole=True)
    crashes = crash_report.read(run) if run else []
    if run is None or not crashes:
        return [Markdown("No run is there yet; make one with `make bench-crash`.")]
    said = [f"{run.name}:", *doubts(read_meta(run)), "", *crash_report.lines_of(crashes)]
    return [markdown(said), picture(crash_report.lost(crashes))]


def micro_of(results: Path) -> list[Markdown | Image]:
    """Charts and tables of the newest micro-benchmarks, or that there are none."""
    run = newest_of(micro_report.LAYOUT, results)
    lines = micro_report.read(run) if run else []
    if run is None or not lines:
        return [Markdown("No run is there yet; make one with `make bench-micro`.")]
    shown: list[Markdown | Image] = [markdown([f"{run.name}:", *doubts(read_meta(run))])]
    for title, curves in micro_report.CHARTS.values():
        own = [line for line in lines if line.curve in curves]
        if own:
            shown += [picture(micro_charts.picture(title, own)), markdown(micro_report.tables(own))]
    return shown


def _is_of_b3(run: Path) -> bool:
    options = read_options(run, sensitivity.LAYOUT, sensitivity.Options)
    return set(options.profiles) <= B3.keys()
