"""The traffic of a run as a tape of arrays, and the market it happens in: pure, no I/O, no clock.

A tape follows from (profile, seed, scale, duration) alone, so every case and every repeat gets the
same requests. Each column has its own random stream and is drawn by inverse transform, one uniform
number per request: request k has the same kind, side, price and quantity at every scale and every
duration, only its time is scaled. With bursts its symbol follows from its time, and so does its
price; the rest stays. Times are seconds, prices integer cents, quantities shares.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.profiles import B3, PROFILES, Bursts, Flags, Floats, Integers, Profile

__all__ = [
    "B3",
    "ONE_DAY_S",
    "PROFILES",
    "READS",
    "SHORT_LIFE_MAX_S",
    "SIDES",
    "Flags",
    "Floats",
    "Flow",
    "Integers",
    "Kind",
    "Market",
    "Profile",
    "SeedOrders",
    "Tape",
    "cancel_delays",
    "flow",
    "market",
    "seed_orders",
    "tape",
]

ONE_DAY_S = 86_400.0
SHORT_LIFE_MAX_S = 10.0
CANCEL_DELAY_MIN_S = 0.5
STATUS_DELAY_MIN_S = 0.25

SEED_LEVELS = 20  # a side, as long as that makes no more orders than
SEED_ORDERS_MAX = 200_000
SEED_QUANTITY = 500
SEED_NEAREST, SEED_FARTHEST = 0.01, 0.10

SYMBOLS_MIN, BROKERS_MIN = 5, 3  # of a small scale; a profile may have fewer symbols


class Kind(IntEnum):
    """What a request asks for."""

    ORDER = 0
    CANCEL = 1
    STATUS = 2
    PRICE = 3
    BOOK = 4
    BALANCE = 5


READS = (Kind.STATUS, Kind.PRICE, Kind.BOOK, Kind.BALANCE)
SIDES = ("bid", "ask")


@dataclass(frozen=True)
class Market:
    """Who trades what. ``popularity`` is the cumulative share of symbols, most popular first."""

    symbols: tuple[str, ...]
    base_price: Integers
    popularity: Floats
    brokers: int


@dataclass(frozen=True)
class Flow:
    """How the requests of a run come, piece by piece.

    ``edges_s`` has the shape (m + 1,); ``rate``, shape (m,), is a multiple of the mean rate;
    ``popularity``, shape (m, symbols), is the cumulative share of symbols in each piece.
    """

    edges_s: Floats
    rate: Floats
    popularity: Floats

    def highest_rate(self, from_s: float) -> float:
        """The highest rate of all symbols together from an instant on."""
        return float(self.rate[self.edges_s[1:] > from_s].max())


@dataclass(frozen=True)
class Tape:
    """Requests in the order of their intended times; all arrays have shape (n,).

    ``side`` indexes SIDES; ``price`` is 0 for a market order. ``life_s`` is the time from the
    request to its valid_until, NaN where there is none. ``target`` is the position of the order
    that a cancel or a status read asks for, -1 for other kinds. What a kind does not use is 0.
    """

    intended_s: Floats
    kind: Integers
    symbol: Integers
    broker: Integers
    side: Integers
    price: Integers
    quantity: Integers
    life_s: Floats
    target: Integers

    def __len__(self) -> int:
        return len(self.intended_s)


@dataclass(frozen=True)
class SeedOrders:
    """The orders that fill the books before the run, level by level: up to 40 a symbol."""

    symbol: Integers
    broker: Integers
    side: Integers
    price: Integers
    quantity: Integers

    def __len__(self) -> int:
        return len(self.symbol)


def market(profile: Profile, seed: int, scale: float) -> Market:
    """The market at ``scale`` percent: below 100 it has fewer symbols and brokers as well."""
    share = min(scale / 100.0, 1.0)
    symbols = max(min(SYMBOLS_MIN, profile.symbols), round(profile.symbols * share))
    brokers = max(BROKERS_MIN, round(profile.brokers * share))
    return Market(
        symbols=_symbol_names(seed, symbols),
        base_price=500 + np.floor(_uniform(seed, "base price", symbols) * 19_501).astype(np.int64),
        popularity=profile.popularity(symbols),
        brokers=brokers,
    )


def seed_orders(place: Market) -> SeedOrders:
    """20 levels a side from 1 to 10 % off the base price; the brokers take turns.

    A market of very many symbols has fewer levels, the nearest ones, but one at least.
    """
    symbols = len(place.symbols)
    levels = max(1, min(SEED_LEVELS, SEED_ORDERS_MAX // (symbols * len(SIDES))))
    distance = np.linspace(SEED_NEAREST, SEED_FARTHEST, SEED_LEVELS)[:levels]
    # Axes: level, symbol, side; so that the first orders already give every book both sides.
    shape = (levels, symbols, len(SIDES))
    level, symbol, side = (axis.ravel() for axis in np.indices(shape))
    factor = 1.0 + np.where(side == 0, -1.0, 1.0) * distance[level]
    return SeedOrders(
        symbol=symbol,
        broker=np.arange(symbol.size) % place.brokers,
        side=side,
        price=np.rint(place.base_price[symbol] * factor).astype(np.int64),
        quantity=np.full(symbol.size, SEED_QUANTITY),
    )


def flow(profile: Profile, place: Market, seed: int, duration_s: float) -> Flow:
    """The profile's rhythm in a run of ``duration_s`` seconds; the mean rate of the run is 1."""
    rhythm, symbols = profile.rhythm, len(place.symbols)
    if not isinstance(rhythm, Bursts):
        edges_s, rate = rhythm.course(duration_s)
        return Flow(edges_s, rate, np.broadcast_to(place.popularity, (len(rate), symbols)))
    edges_s = rhythm.edges_s(duration_s)
    cells = rhythm.cells_of_burst + len(edges_s) - 1
    uniform = _uniform(seed, "burst", cells * symbols).reshape(cells, symbols)
    by_symbol = rhythm.rates(uniform) * np.diff(place.popularity, prepend=0.0)
    rate = by_symbol.sum(axis=1)
    return Flow(
        edges_s,
        # How many bursts a short run has is chance; how many requests it offers shall not be.
        rate / np.average(rate, weights=np.diff(edges_s)),
        np.cumsum(by_symbol, axis=1) / rate[:, np.newaxis],
    )


def tape(profile: Profile, seed: int, scale: float, duration_s: float, reads: bool = True) -> Tape:
    """The requests of ``duration_s`` seconds at ``scale`` percent of the profile's rates.

    Without ``reads`` the tape is the same one with the reads taken out. The first request is always
    a limit order, so that every cancel and status read has an order to ask for.
    """
    place = market(profile, seed, scale)
    course = flow(profile, place, seed, duration_s)
    intended_s = _arrivals(course, seed, profile.requests_per_s * scale / 100.0, duration_s)
    n = len(intended_s)
    piece = np.searchsorted(course.edges_s, intended_s, side="right") - 1
    kind = _pick(np.cumsum(profile.kind_shares()), _uniform(seed, "kind", n))
    style = _pick(
        np.cumsum([profile.passive_of_orders, profile.near_of_orders, 1.0]),
        _uniform(seed, "style", n),
    )
    kind[:1], style[:1] = Kind.ORDER, 0
    columns: dict[str, NDArray[Any]] = {
        "intended_s": intended_s,
        "kind": kind,
        "symbol": _pick_by_row(course.popularity, piece, _uniform(seed, "symbol", n)),
        "broker": np.floor(_uniform(seed, "broker", n) * place.brokers).astype(np.int64),
        "side": np.floor(_uniform(seed, "side", n) * 2).astype(np.int64),
        "choice": _uniform(seed, "choice", n),
    }
    columns["price"] = _prices(
        style, columns["side"], place.base_price[columns["symbol"]], _uniform(seed, "price", n)
    )
    columns["quantity"] = _quantities(style, _uniform(seed, "quantity", n))
    columns["life_s"] = np.where(style == 2, np.nan, _lives(_uniform(seed, "life", n)))
    if not reads:
        columns = {name: column[kind <= Kind.CANCEL] for name, column in columns.items()}
    return _aimed(columns)


def cancel_delays(elapsed_s: Floats, uniform: Floats) -> Floats:
    """How long after its order each cancel comes: 40 % 0.5–5 s, 35 % 5–60 s, 25 % 60–600 s.

    A cancel cannot come for an order from before the run, so the mixture is cut at the time that
    has elapsed since the start: early cancels all have short delays.
    """
    probability, delay_s = [0.0, 0.4, 0.75, 1.0], [CANCEL_DELAY_MIN_S, 5.0, 60.0, 600.0]
    reachable = np.interp(elapsed_s, delay_s, probability)
    return np.interp(uniform * reachable, probability, delay_s)


def _uniform(seed: int, column: str, n: int) -> Floats:
    """The first ``n`` numbers in [0, 1) of the column's own stream."""
    return np.random.default_rng([seed, *column.encode()]).random(n)


def _pick(cumulative: Floats, uniform: Floats) -> Integers:
    """Indices drawn with the given cumulative shares."""
    index = np.searchsorted(cumulative, uniform, side="right")
    return np.minimum(index, len(cumulative) - 1).astype(np.int64)


def _pick_by_row(cumulative: Floats, row: Integers, uniform: Floats) -> Integers:
    """Indices drawn with the cumulative shares of the given rows, (m, symbols), at once."""
    rows, width = cumulative.shape
    ascending = (cumulative + np.arange(rows)[:, np.newaxis]).ravel()
    index = np.searchsorted(ascending, uniform + row, side="right") - row * width
    clipped: Integers = np.clip(index, 0, width - 1)
    return clipped


def _arrivals(course: Flow, seed: int, rate: float, duration_s: float) -> Floats:
    """A Poisson process of rate one, its clock scaled to the rate and bent to the course."""
    mean = rate * duration_s
    enough = int(mean + 10.0 * np.sqrt(mean)) + 100
    even_s = np.cumsum(-np.log1p(-_uniform(seed, "gap", enough))) / rate
    passed = np.concatenate([[0.0], np.cumsum(course.rate * np.diff(course.edges_s))])
    arrivals: Floats = np.interp(even_s, passed, course.edges_s)
    return arrivals[arrivals < duration_s]


def _prices(style: Integers, side: Integers, base: Integers, uniform: Floats) -> Integers:
    """Passive: bids 80–95 %, asks 105–120 % of the base; near: 95–105 %; market: 0."""
    passive = np.where(side == 0, 0.80, 1.05) + 0.15 * uniform
    factor = np.where(style == 0, passive, 0.95 + 0.10 * uniform)
    return np.where(style == 2, 0, np.rint(base * factor)).astype(np.int64)


def _quantities(style: Integers, uniform: Floats) -> Integers:
    """Passive 50–500 shares, all others 50–200."""
    return 50 + np.floor(uniform * np.where(style == 0, 451, 151)).astype(np.int64)


def _lives(uniform: Floats) -> Floats:
    """10 % live 0.5–1 s, 20 % 5–10 s, 70 % one day; the same number picks and places."""
    short = 0.5 + 0.5 * (uniform / 0.1)
    middle = 5.0 + 5.0 * ((uniform - 0.1) / 0.2)
    return np.where(uniform < 0.1, short, np.where(uniform < 0.3, middle, ONE_DAY_S))


def _aimed(columns: dict[str, NDArray[Any]]) -> Tape:
    """Give each cancel and status read its order, and clear what a kind does not use."""
    intended_s, kind, choice = columns["intended_s"], columns["kind"], columns.pop("choice")
    target = np.full(len(kind), -1, dtype=np.int64)
    orders = np.flatnonzero(kind == Kind.ORDER)
    limits = orders[columns["price"][orders] > 0]

    cancels = np.flatnonzero(kind == Kind.CANCEL)
    placed_s = intended_s[cancels] - cancel_delays(intended_s[cancels], choice[cancels])
    before = np.searchsorted(intended_s[limits], placed_s, side="right")
    target[cancels] = limits[np.maximum(before - 1, 0)]

    statuses = np.flatnonzero(kind == Kind.STATUS)
    latest_s = intended_s[statuses] - STATUS_DELAY_MIN_S
    candidates = np.maximum(np.searchsorted(intended_s[orders], latest_s, side="right"), 1)
    target[statuses] = orders[np.floor(choice[statuses] * candidates).astype(np.int64)]

    aimed, is_order = target >= 0, kind == Kind.ORDER
    columns["broker"] = np.where(aimed, columns["broker"][target], columns["broker"])
    columns["symbol"] = np.where(aimed, columns["symbol"][target], columns["symbol"])
    for name in ("side", "price", "quantity"):
        columns[name] = np.where(is_order, columns[name], 0)
    columns["life_s"] = np.where(is_order, columns["life_s"], np.nan)
    return Tape(target=target, **columns)


def _symbol_names(seed: int, symbols: int) -> tuple[str, ...]:
    """Distinct tickers in the manner of B3, four letters and a class: ``QWEX3``, ``ABCD11``."""
    return tuple(name for name, _ in zip(_tickers(seed), range(symbols), strict=False))


def _tickers(seed: int) -> Iterator[str]:
    seen = set()
    for block in count():
        letters = np.random.default_rng([seed, block, *b"ticker"]).integers(0, 26, (512, 4))
        for row in letters:
            name = "".join(chr(ord("A") + letter) for letter in row)
            if name not in seen:
                seen.add(name)
                yield name + ("3", "4", "11")[row[0] % 3]
