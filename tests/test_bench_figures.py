"""Percentiles, and what is the generator's own fault, on arrays whose answer is known."""

import math

import numpy as np
import pytest
from bench_records import HEALTHY
from msgspec.structs import replace

from bench import outcomes
from bench.figures import STARVED_MAX, Samples, generator_health, percentile
from bench.load import Load
from bench.observe import Seen
from bench.spec import SENT_AT_ONCE, WAITED_FOR_CONNECTION, WAITED_FOR_TARGET, Finished, Started
from bench.traffic import Kind
from bench.trial import judgeable

FINISHED = Finished(
    sent=0,
    cpu_s=0.1,
    cpu_share=0.1,
    wall_s=1.0,
    connections=4,
    connections_exhausted=False,
    complete=True,
    steal=0.0,
    queued_s=0.0,
    nice=0,
    realtime=False,
)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([1.0, 2.0, 3.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.5, 3.0),
        ([1.0, 2.0], 0.99, 2.0),
        ([1.0, 2.0], 0.0, 1.0),
        ([1.0, 2.0], 1.0, 2.0),
        ([7.0], 0.5, 7.0),
        ([1.0, math.inf], 0.5, 1.0),
        ([1.0, math.inf], 0.51, None),
        ([], 0.5, None),
    ],
)
def test_a_percentile_is_the_least_value_that_enough_do_not_exceed(
    values: list[float], share: float, expected: float | None
) -> None:
    assert percentile(np.array(values), share) == expected


def test_a_stop_leaves_out_what_was_under_way_and_not_what_was_late() -> None:
    intended_s, answered = np.array([0.0, 1.0, 2.9, 3.0]), np.array([0.1, math.nan, 3.0, math.nan])
    all_alike = np.zeros(4, dtype=np.int64)
    seen = Samples(intended_s, intended_s, answered, all_alike, all_alike + 201, all_alike)
    kept = judgeable(seen, stopped_s=3.0)
    assert kept.intended_s.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("taken", [{"steal": 0.005}, {"queued_share": 0.005}])
def test_what_takes_hardly_any_time_excuses_no_late_generator(taken: dict[str, float]) -> None:
    late = replace(HEALTHY, send_lag_ms_p99=2.5)
    hardly = replace(late, **taken)
    assert not hardly.starved
    assert "send lag" in hardly.limits()[0]
    assert hardly.warnings() == []
    starved = replace(late, queued_share=1.1 * STARVED_MAX)
    assert (starved.starved, starved.limits()) == (True, [])


@pytest.mark.parametrize(
    ("waited", "exhausted", "not_sent"),
    [
        (SENT_AT_ONCE, False, 3),
        (WAITED_FOR_TARGET, True, 0),
        (WAITED_FOR_CONNECTION, False, 0),
        (WAITED_FOR_CONNECTION, True, 3),
    ],
)
def test_what_was_never_sent_is_the_generators_fault_if_it_had_no_connection_left_to_open(
    waited: int, exhausted: bool, not_sent: int
) -> None:
    count, never = 3, np.full(3, math.nan)
    samples = Samples(
        intended_s=np.arange(count, dtype=float),
        sent_s=never,
        done_s=never,
        kind=np.full(count, Kind.BOOK),
        outcome=np.full(count, outcomes.TIMEOUT),
        waited=np.full(count, waited),
    )
    finished = replace(FINISHED, connections_exhausted=exhausted)
    assert generator_health(samples, finished, 1.0).not_sent == not_sent


def test_cpu_is_that_of_what_was_sent_while_it_was_counted() -> None:
    """Ten requests in 2 s of warm-up, a hundred in 4 s of load, as where the load rises."""
    sent_s = np.concatenate([np.linspace(-2.0, -0.1, 10), np.linspace(0.0, 3.9, 100)])
    kind = np.full(110, Kind.BOOK)
    load = Load(
        Samples(sent_s, sent_s, sent_s, kind, np.full(110, 200), np.zeros(110, int)),
        order_ids=[],
        remaining=np.full(110, -1),
        offered=110,
        started=Started(0.0, 0.0),
        finished=replace(FINISHED, sent=110, wall_s=6.0),
        seen=Seen(begin_s=2.0, end_s=6.0),
        cpu_share={"service": 0.5, "generator": 0.11},
        paces={},
    )
    assert load.cpu_us_per_request() == pytest.approx({"service": 20_000.0, "generator": 6_000.0})
