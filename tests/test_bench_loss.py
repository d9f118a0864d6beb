"""Capacity and loss side by side: what is known of each mode, and what is not."""

from pathlib import Path

from bench_records import a_trial
from msgspec.structs import replace

from bench import loss
from bench.agenda import Options
from bench.chart_style import save
from bench.crash import Crash
from bench.findings import Finding, found


def carried(case: str, rate: float) -> Finding:
    options = Options([case], "quick", "average", 1, {}, 1)
    [finding] = found(options, [a_trial(case=case, rate=rate)]).cases
    return finding


def crash(case: str, number: int, lost: int) -> Crash:
    return Crash(case, number, 1.5, 1000, 700.0, lost, 0, 0, 20.0 if lost else None, 0.5)


RUN, LATER = Path("20260101T000000Z_a"), Path("20260102T000000Z_b")
CRASHES = {
    RUN: [crash("v3", 1, 4), crash("v3", 2, 10), crash("v3", 3, 5), crash("v3-wal", 1, 0)],
}


def test_each_mode_has_its_capacity_and_its_losses() -> None:
    rows = loss.lines_of(loss.modes([carried("v3", 800.0)], CRASHES))[2:]
    assert len(rows) == 2
    for said in ("v3 ", "matched in memory", "800 %", " 3 |", " 700 |", "5 (10)"):
        assert said in rows[0]
    for said in ("v3-wal", "in the log on disk", "–", " 1 |", " 700 |", "0 (0)"):
        assert said in rows[1]


def test_the_newest_run_in_which_a_mode_was_killed_counts() -> None:
    later = [crash("v3-wal", 1, 0), crash("v3-wal", 2, 0)]
    known = loss.modes([], {**CRASHES, LATER: later})
    assert [(mode.case, mode.run, len(mode.crashes)) for mode in known] == [
        ("v3", RUN, 3),
        ("v3-wal", LATER, 2),
    ]


def test_a_mode_has_a_row_for_each_rate_at_which_it_was_killed_and_the_chart_has_one_rate() -> None:
    faster = [replace(crash("v3", 1, 40), offered_per_s=2100.0)]
    known = loss.modes([carried("v3", 800.0), carried("v3-wal", 700.0)], {LATER: faster, **CRASHES})
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in loss.lines_of(known)[2:]]
    assert [(row[0], *row[3:]) for row in rows] == [
        ("v3", "3", "700", "5 (10)"),
        ("v3", "1", "2,100", "40 (40)"),
        ("v3-wal", "1", "700", "0 (0)"),
    ]
    [axes] = loss.chart(known).axes
    assert [text.get_text().splitlines()[0] for text in axes.texts] == [
        "v3: 800 %, 5 lost",
        "v3-wal: 700 %, 0 lost",
    ]
    assert "at 700 orders/s" in axes.get_ylabel()


def test_a_mode_that_broke_its_promise_is_marked_and_says_how() -> None:
    kept, broke = loss.modes([carried("v3-wal", 700.0)], CRASHES)
    broke = broke._replace(faults=["v3-wal: lost 0 orders and 2 cancels"])
    _, _, first, second, _, said = loss.lines_of([kept, broke])
    assert ["FAILED" in row for row in (first, second)] == [False, True]
    assert said == "- FAILED: v3-wal: lost 0 orders and 2 cancels"
    [axes] = loss.chart([kept, broke]).axes
    assert [text.get_text().splitlines()[0] for text in axes.texts] == [
        "v3-wal: 700 %, 0 lost, FAILED"
    ]


def test_a_mode_of_unknown_capacity_is_left_out_of_the_chart(tmp_path: Path) -> None:
    figure = loss.chart(loss.modes([carried("v3", 800.0)], CRASHES))
    [axes] = figure.axes
    said = [text.get_text() for text in axes.texts]
    assert [text.partition(":")[0] for text in said] == ["v3"]
    assert "5 lost" in said[0]
    assert "at 700 orders/s" in axes.get_ylabel()
    assert all(file.exists() for file in save(figure, tmp_path / loss.CHART))
