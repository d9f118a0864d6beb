"""A sensitivity run as text and files, made from the records of its capacity runs."""

from pathlib import Path
from typing import Any

from bench import findings, records, trials
from bench.agenda import MODES
from bench.capacity_report import REPORT, SUMMARY
from bench.report import table
from bench.sensitivity import LAYOUT, MODE, Bounds, Options, Order, Sensitivity, found

CHART = "sensitivity"
# What a reader must know before believing the table.
READING = (
    "A capacity is in percent of the mean rate: 100 % of `peak` is a peak of 650 %, and the "
    "capacity is the mean whose own highest rate the case survives.",
    "Highest rate: in the measured part of a trial, all symbols together, as a multiple of the "
    "mean. The rhythm covers the warm-up too, so a short trial of `day` measures the close but not "
    "the opening.",
    "Below 100 % the market shrinks with the load, so under `peak` the cases are compared on fewer "
    "symbols and brokers the less they carry.",
    "Bounds: stable at the first rate, unstable from the second. Where bounds overlap, or are not "
    "confirmed, the order is undecided.",
    "Where the rate is not constant, a trial is not judged by the growth of its backlog and the "
    "drift of its latency, only by its percentile, what is in flight at the end, and write-behind.",
    "One search each; run-to-run variation is not shown.",
)


def from_records(directory: Path) -> Sensitivity:
    """What the capacity runs below a directory say. Raises HarnessError."""
    options = records.read_options(directory, LAYOUT, Options)
    runs = [
        findings.found(options.of_profile(profile), trials.read(directory / profile))
        for profile in options.profiles
        if (directory / profile / trials.FILE).exists()
    ]
    return found(options, runs)


def write(directory: Path) -> Sensitivity:
    """summary.json and report.md. Raises HarnessError."""
    sensitivity = from_records(directory)
    meta = records.read_meta(directory)
    records.write_json(directory / SUMMARY, sensitivity)
    (directory / REPORT).write_text(markdown(meta, sensitivity))
    return sensitivity


def read(directory: Path) -> Sensitivity:
    """The summary of a run. Raises HarnessError."""
    return records.read_json(directory / SUMMARY, Sensitivity)


def lines_of(sensitivity: Sensitivity) -> list[str]:
    """One sentence and the table, as Markdown that reads well in a terminal too."""
    return [sentence(sensitivity), "", *order_table(sensitivity)]


def sentence(sensitivity: Sensitivity) -> str:
    """Such as ``v1 < v2 < v3 is kept in 5 of 6 profiles, broken in 0, undecided in 1.``"""
    profiles = sensitivity.profiles
    if not profiles:
        return "No profile is measured yet."
    kept, broken, undecided = (sensitivity.count(order) for order in Order)
    return (
        f"{' < '.join(each.case for each in profiles[0].cases)} is kept in {kept} of "
        f"{len(profiles)} profiles, broken in {broken}, undecided in {undecided}."
    )


def order_table(sensitivity: Sensitivity) -> list[str]:
    """The bounds of each case under each profile, and what they say of the order."""
    if not sensitivity.profiles:
        return []
    cases = [each.case for each in sensitivity.profiles[0].cases]
    rows = [
        (
            each.profile,
            f"× {each.highest_rate:.2f}",
            *(bounds_text(one) for one in each.cases),
            each.order,
        )
        for each in sensitivity.profiles
    ]
    return table(("profile", "highest rate", *cases, " < ".join(cases)), rows)


def bounds_text(given: Bounds) -> str:
    """What is known of a capacity, with its doubts."""
    return capacity_text(given) + ("" if given.confirmed else ", not confirmed")


def capacity_text(given: Bounds) -> str:
    """``506–550 %``, ``≥ 506 %``, ``< 2 %`` or ``none found``."""
    if given.stable is None:
        return "none found" if given.unstable_from is None else f"< {given.unstable_from:.0f} %"
    if given.unstable_from is None:
        return f"≥ {given.stable:.0f} %"
    return f"{given.stable:.0f}–{given.unstable_from:.0f} %"


def markdown(meta: dict[str, Any], sensitivity: Sensitivity) -> str:
    """report.md: conditions and how to read it before claims."""
    machine, mode = meta["machine"], MODES[MODE]
    lines = ["# Sensitivity to the traffic", "", "```", meta["command"], "```", ""]
    lines += [
        f"{machine['cores']} cores of {machine['cpu']}, Python {meta['python']}, mode {MODE}: "
        f"trials of {mode.duration_s:g} s, bounds within {mode.width:.1%}.",
        "",
        "Limits:",
        "",
        *(f"- {limit}" for limit in meta["limits"]),
        *records.resume_lines(meta),
        "",
        "How to read it:",
        "",
        *(f"- {hint}" for hint in READING),
        *records.doubts(meta),
        "",
        *lines_of(sensitivity),
    ]
    lines += ["", f"![Capacity under each profile]({CHART}.svg)", "", "Each search:", ""]
    lines += [f"- [{each.profile}]({each.profile}/{REPORT})" for each in sensitivity.profiles]
    return "\n".join([*lines, ""])
