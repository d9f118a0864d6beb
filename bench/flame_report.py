"""A run of flame graphs as a report: a table of origins, the dearest lines, the pictures."""

from collections.abc import Sequence
from pathlib import Path

from bench import records
from bench.flame import FILE, LAYOUT, Flame, Options, shares_table
from bench.report import table
from bench.verdict import OVER_SHARE_MAX


def read(directory: Path) -> list[Flame]:
    """All cases of a run. Raises HarnessError when it is none, or not whole."""
    return records.read_lines(directory, LAYOUT, Options, FILE, Flame)


def lines_of(flames: Sequence[Flame]) -> list[str]:
    """The table of origins."""
    return table(*shares_table(flames))


def write(directory: Path) -> list[str]:
    """Write report.md; the lines of its table. Raises HarnessError."""
    flames = read(directory)
    lines = lines_of(flames)
    details: list[str] = []
    for flame in flames:
        details += ["", f"## {flame.case} at {flame.rate:g} % of B3, {flame.looks:,} looks", ""]
        if flame.late is not None and flame.late > OVER_SHARE_MAX:
            details += [
                f"**It did not carry this load: {flame.late:.1%} were late or failed.**",
                "",
            ]
        rows = [(line, f"{share:.1%}") for line, share in flame.lines.items()]
        details += table(("line", "share"), rows)
        details += ["", f"![Flame graph of {flame.case}]({flame.case}.svg)"]
    records.write_report(directory, "Where the time goes", [*lines, *details])
    return lines


def draw(directory: Path) -> list[Path]:
    """The pictures that there are: py-spy draws them as it looks, and they cannot be redrawn."""
    return [directory / f"{flame.case}.svg" for flame in read(directory)]
