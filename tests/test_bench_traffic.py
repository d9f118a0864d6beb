"""The tape has the statistics that the traffic model names, and the same tape comes again."""

import numpy as np
import pytest

from bench import traffic
from bench.traffic import PROFILES, Kind, Tape

PROFILE = PROFILES["average"]
DURATION_S = 120.0


@pytest.fixture(scope="module")
def tape() -> Tape:
    return traffic.tape(PROFILE, seed=1, scale=100.0, duration_s=DURATION_S)


@pytest.fixture(scope="module")
def base_price(tape: Tape) -> np.ndarray:
    market = traffic.market(PROFILE, 1, 100.0)
    return market.base_price[tape.symbol]


def share(flags: np.ndarray) -> float:
    return float(np.mean(flags))


@pytest.mark.parametrize(
    ("kind", "per_s"),
    [
        (Kind.ORDER, 700.0),
        (Kind.CANCEL, 245.0),
        (Kind.STATUS, 367.5 * 0.35),
        (Kind.PRICE, 367.5 * 0.30),
        (Kind.BOOK, 367.5 * 0.25),
        (Kind.BALANCE, 367.5 * 0.10),
    ],
)
def test_each_kind_has_its_rate(tape: Tape, kind: Kind, per_s: float) -> None:
    mean = per_s * DURATION_S
    assert abs((tape.kind == kind).sum() - mean) < 4 * np.sqrt(mean)


def test_arrivals_are_poisson(tape: Tape) -> None:
    gaps = np.diff(tape.intended_s) * PROFILE.requests_per_s
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(1.0, abs=0.02)
    assert gaps.std() == pytest.approx(1.0, abs=0.02)
    assert share(gaps > 3.0) == pytest.approx(np.exp(-3.0), rel=0.05)


def test_symbols_follow_zipf(tape: Tape) -> None:
    counts = np.bincount(tape.symbol[tape.kind == Kind.ORDER], minlength=450)
    assert counts[0] / counts.sum() == pytest.approx(0.13, abs=0.01)
    assert counts[:10].sum() / counts.sum() == pytest.approx(0.40, abs=0.01)
    assert counts[0] / counts[9] == pytest.approx(10**0.95, rel=0.1)


def test_orders_are_three_quarters_passive_and_a_twentieth_market(
    tape: Tape, base_price: np.ndarray
) -> None:
    orders = tape.kind == Kind.ORDER
    ratio, price, side = tape.price / base_price, tape.price, tape.side
    slack = 0.5 / base_price  # prices are whole cents
    passive_bid = orders & (side == 0) & (price > 0) & (ratio < 0.95 - slack)
    passive_ask = orders & (side == 1) & (ratio > 1.05 + slack)
    near = orders & (price > 0) & ~passive_bid & ~passive_ask
    assert share(price[orders] == 0) == pytest.approx(0.05, abs=0.005)
    assert share((passive_bid | passive_ask)[orders]) == pytest.approx(0.75, abs=0.01)
    assert share(near[orders]) == pytest.approx(0.20, abs=0.01)
    assert (ratio + slack)[passive_bid].min() >= 0.80
    assert (ratio - slack)[passive_ask].max() <= 1.20
    assert (ratio + slack)[near].min() >= 0.95
    assert (ratio - slack)[near].max() <= 1.05
    assert share(side[orders]) == pytest.approx(0.5, abs=0.01)
    assert tape.quantity[passive_bid | passive_ask].min() == 50
    assert tape.quantity[passive_bid | passive_ask].max() == 500
    assert tape.quantity[orders & (price == 0)].max() <= 200


def test_only_limit_orders_have_a_life_and_it_has_three_lengths(tape: Tape) -> None:
    limits = (tape.kind == Kind.ORDER) & (tape.price > 0)
    assert np.isnan(tape.life_s[~limits]).all()
    life_s = tape.life_s[limits]
    assert share((life_s >= 0.5) & (life_s <= 1.0)) == pytest.approx(0.10, abs=0.01)
    assert share((life_s >= 5.0) & (life_s <= 10.0)) == pytest.approx(0.20, abs=0.01)
    assert share(life_s == 86_400.0) == pytest.approx(0.70, abs=0.01)


def test_cancel_delays_are_the_mixture_cut_at_the_start() -> None:
    uniform = np.random.default_rng(1).random(100_000)
    late = traffic.cancel_delays(np.full(100_000, 600.0), uniform)
    assert share(late < 5.0) == pytest.approx(0.40, abs=0.01)
    assert share((late >= 5.0) & (late < 60.0)) == pytest.approx(0.35, abs=0.01)
    assert late.max() <= 600.0
    early = traffic.cancel_delays(np.full(100_000, 10.0), uniform)
    assert early.min() >= 0.5
    assert early.max() <= 10.0
    assert share(early < 5.0) == pytest.approx(0.40 / (0.40 + 0.35 * 5 / 55), abs=0.01)


def test_cancels_and_status_reads_ask_for_earlier_orders_as_their_owner(tape: Tape) -> None:
    for kind, least_s in ((Kind.CANCEL, 0.5), (Kind.STATUS, 0.25)):
        asking = np.flatnonzero((tape.kind == kind) & (tape.intended_s > 1.0))
        target = tape.target[asking]
        assert (tape.kind[target] == Kind.ORDER).all()
        assert (tape.intended_s[asking] - tape.intended_s[target]).min() >= least_s
        assert (tape.broker[asking] == tape.broker[target]).all()
    assert (tape.price[tape.target[tape.kind == Kind.CANCEL]] > 0).all()
    assert (tape.target[(tape.kind != Kind.CANCEL) & (tape.kind != Kind.STATUS)] == -1).all()


def test_the_first_half_second_asks_for_orders_of_the_run_too() -> None:
    tape = traffic.tape(PROFILE, seed=3, scale=100.0, duration_s=0.4)
    target = tape.target[tape.kind == Kind.CANCEL]
    assert (target == 0).all()
    assert tape.kind[0] == Kind.ORDER
    assert tape.price[0] > 0


def test_the_same_seed_gives_the_same_tape(tape: Tape) -> None:
    again = traffic.tape(PROFILE, seed=1, scale=100.0, duration_s=DURATION_S)
    for name, column in vars(tape).items():
        np.testing.assert_array_equal(column, getattr(again, name))
    other = traffic.tape(PROFILE, seed=2, scale=100.0, duration_s=DURATION_S)
    assert not np.array_equal(tape.kind[:100], other.kind[:100])


def test_another_scale_is_the_same_tape_at_another_speed(tape: Tape) -> None:
    triple = traffic.tape(PROFILE, seed=1, scale=300.0, duration_s=DURATION_S)
    n = len(tape)
    np.testing.assert_allclose(triple.intended_s[:n] * 3, tape.intended_s)
    orders = tape.kind == Kind.ORDER
    for name in ("kind", "side", "price", "quantity"):
        np.testing.assert_array_equal(getattr(triple, name)[:n], getattr(tape, name))
    for name in ("symbol", "broker"):
        np.testing.assert_array_equal(
            getattr(triple, name)[:n][orders], getattr(tape, name)[orders]
        )


def test_a_longer_run_begins_with_the_shorter_one(tape: Tape) -> None:
    shorter = traffic.tape(PROFILE, seed=1, scale=100.0, duration_s=5.0)
    for name, column in vars(shorter).items():
        np.testing.assert_array_equal(column, getattr(tape, name)[: len(shorter)])


def test_without_reads_the_same_orders_remain(tape: Tape) -> None:
    writes = traffic.tape(PROFILE, seed=1, scale=100.0, duration_s=DURATION_S, reads=False)
    kept = tape.kind <= Kind.CANCEL
    for name in ("intended_s", "kind", "symbol", "price", "quantity"):
        np.testing.assert_array_equal(getattr(writes, name), getattr(tape, name)[kept])
    assert (writes.kind[writes.target[writes.kind == Kind.CANCEL]] == Kind.ORDER).all()


@pytest.mark.parametrize(
    ("scale", "symbols", "brokers"), [(300, 450, 100), (100, 450, 100), (20, 90, 20), (1, 5, 3)]
)
def test_a_small_scale_has_a_small_market(scale: float, symbols: int, brokers: int) -> None:
    market = traffic.market(PROFILE, 1, scale)
    assert (len(market.symbols), market.brokers) == (symbols, brokers)
    assert len(set(market.symbols)) == symbols
    assert all(name.isalnum() and name.isupper() and len(name) <= 6 for name in market.symbols)
    assert market.base_price.min() >= 500
    assert market.base_price.max() <= 20_000
    assert market.popularity[-1] == pytest.approx(1.0)


def test_every_book_is_seeded_with_twenty_levels_a_side() -> None:
    market = traffic.market(PROFILE, 1, 20.0)
    seeds = traffic.seed_orders(market)
    assert len(seeds) == 90 * 40
    for symbol, base in enumerate(market.base_price):
        for side, nearest, farthest in ((0, 0.99, 0.90), (1, 1.01, 1.10)):
            price = seeds.price[(seeds.symbol == symbol) & (seeds.side == side)]
            assert len(set(price.tolist())) == 20
            assert price[0] == pytest.approx(base * nearest, abs=0.51)
            assert price[-1] == pytest.approx(base * farthest, abs=0.51)
    assert (seeds.quantity == 500).all()
    assert np.ptp(np.bincount(seeds.broker)) <= 1
