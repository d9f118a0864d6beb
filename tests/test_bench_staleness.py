"""Staleness of reads: how it is probed, what is made of it, and what /health says of it."""

import time
from pathlib import Path

import uvloop
from bench_records import a_trial, begun
from client import Service, eventually
from conftest import StartService

from bench import capacity_report, checking, trials
from bench.audit import Sent
from bench.exchange_client import Broker, Target
from bench.http_client import Address
from bench.observe import PROBE_SYMBOL, Seen, watching
from bench.search import VOTES_NEEDED
from bench.service import Place
from bench.trials import Staleness
from bench.verdict import Verdict

FLUSH_MS = 200
ROUNDS = 2


def place_of(service: Service) -> Place:
    address = Address("127.0.0.1", service.client.port)
    return Place(Target(address, "localhost", service.admin_key), service.database_url, {}, None)


def probed(service: Service) -> tuple[Seen, Broker]:
    """What some rounds of the probe have seen, each of which found all that it looked for."""
    registered = service.register("prober")
    prober = Broker(registered.name, registered.id, registered.key)
    with watching(place_of(service), prober, 0) as seen:
        seen.begin_s = time.monotonic()
        eventually(lambda: len(seen.staleness_ms["order"]) >= ROUNDS)
        seen.end_s = time.monotonic()
    return seen, prober


def test_the_probe_sees_book_price_and_order_and_its_orders_stand_the_audit(
    service: Service,
) -> None:
    seen, prober = probed(service)
    assert {kind: len(seen.staleness_ms[kind]) for kind in ("book", "price")} == {
        kind: len(seen.staleness_ms["order"]) for kind in ("book", "price")
    }
    orders = seen.probed
    assert len(orders.acknowledged) == 2 * len(seen.staleness_ms["order"])
    assert orders.uncertain == []
    asked = Sent(orders.acknowledged, orders.uncertain, frozenset(), frozenset(), {})
    found = uvloop.run(
        checking.through_api(place_of(service), [PROBE_SYMBOL], [prober], asked, 0.0)
    )
    assert found.faults() == []
    assert found.trades == len(seen.staleness_ms["order"])


def test_reads_are_stale_where_they_wait_for_a_flush_and_nowhere_else(
    start_service: StartService, case: str
) -> None:
    service = start_service(EXCHANGE_FLUSH_MS=str(FLUSH_MS))
    seen, _ = probed(service)
    least_ms = {kind: min(ms for _, ms in values) for kind, values in seen.staleness_ms.items()}
    figures = service.health()
    if service.client.reads_behind:
        # The trade follows the flush that has shown the book at once, so it waits for a whole one.
        assert min(least_ms["price"], least_ms["order"]) > FLUSH_MS / 2
        assert figures["staleness_ms_max"] > FLUSH_MS / 2
        assert 0.0 < figures["staleness_ms_p50"] <= figures["staleness_ms_max"]
    else:
        # The first read shows it, and it is sent at once.
        assert least_ms["book"] < 1.0
        assert least_ms["price"] < 1.0
        assert not [name for name in figures if name.startswith("staleness")]


def test_nothing_is_stale_before_the_first_flush(start_service: StartService) -> None:
    figures = start_service().health()
    assert {figures.get(f"staleness_ms_{name}", 0.0) for name in ("p50", "max")} == {0.0}


def test_a_trial_says_how_stale_each_kind_of_read_was_while_it_was_measured() -> None:
    seen = Seen(begin_s=10.0, end_s=20.0)
    seen.staleness_ms["book"] += [
        (9.0, 900.0),
        (11.0, 3.0),
        (12.0, 1.0),
        (13.0, 2.0),
        (21.0, 800.0),
    ]
    seen.staleness_ms["price"] += [(9.0, 900.0)]
    assert trials.staleness_ms(seen) == {"book": Staleness(2.0, 3.0)}


def test_the_report_gives_the_staleness_at_the_capacity_by_kind_of_read(tmp_path: Path) -> None:
    begun(tmp_path, {"v2": []})
    stale = [
        {"book": Staleness(p50, most), "order": Staleness(1.0, 2.0)}
        for p50, most in ((10.0, 44.0), (12.0, 31.0), (30.0, 33.0))
    ]
    for number, each in enumerate(stale[:VOTES_NEEDED], 1):
        trials.append(tmp_path, a_trial(number=number, case="v2", staleness_ms=each))
    failed = a_trial(
        number=9,
        case="v2",
        rate=104.0,
        verdict=Verdict.FAIL,
        staleness_ms={"book": Staleness(500.0, 900.0)},
    )
    trials.append(tmp_path, failed)
    findings = capacity_report.write(tmp_path)
    (case,) = findings.cases
    assert case.staleness_ms == {"book": Staleness(12.0, 44.0), "order": Staleness(1.0, 2.0)}
    header, _, row = capacity_report.cost_table(findings.cases)
    assert "staleness p50 / max ms: book |" in header
    assert "12.0 / 44.0 |" in row
    assert row.index("12.0 / 44.0") < row.index("–") < row.index("1.00 / 2.00")
