"""What a profile says of its traffic and what a tape of it shows: ``python -m bench traffic``.

Pure. Trades are counted by giving the tape to the matching engine of the cases, so this part of the
harness needs ``../requirements.txt`` too.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bench import traffic
from bench.figures import KIND_LABELS, percentile
from bench.profiles import Bursts
from bench.replay import carry_out, commands
from bench.traffic import Flags, Floats, Flow, Kind, Market, Profile, Tape
from common.engine import Engine

# The symbols whose seconds are counted: with fewer than some orders a second, whole numbers hide
# the rate behind them.
BUSY_SYMBOLS = 20


class Statistic(NamedTuple):
    """A figure as the profile states it, None where it says nothing, and as the tape shows it."""

    label: str
    stated: float | None
    realised: float
    form: str = ",.1f"

    def cells(self) -> tuple[str, str, str]:
        """The row of a table."""
        stated = "–" if self.stated is None else format(self.stated, self.form)
        return self.label, stated, format(self.realised, self.form)


@dataclass(frozen=True)
class Offer:
    """What a run offers: the traffic of ``duration_s`` seconds at ``scale`` percent."""

    profile: Profile
    seed: int
    scale: float
    duration_s: float
    market: Market
    flow: Flow
    tape: Tape

    @classmethod
    def of(cls, profile: Profile, seed: int, scale: float, duration_s: float) -> "Offer":
        """Drawn from what a tape follows from."""
        market = traffic.market(profile, seed, scale)
        flow = traffic.flow(profile, market, seed, duration_s)
        tape = traffic.tape(profile, seed, scale, duration_s)
        return cls(profile, seed, scale, duration_s, market, flow, tape)

    @property
    def title(self) -> str:
        return (
            f"{self.scale:g} % of {self.profile.label}, {self.duration_s:g} s, seed {self.seed} "
            f"({self.profile.name})"
        )

    @property
    def speed(self) -> float:
        """Rates as a multiple of those at 100 %."""
        return self.scale / 100.0

    @property
    def symbol_shares(self) -> Floats:
        """The stated share of each symbol, shape (symbols,)."""
        return np.diff(self.market.popularity, prepend=0.0)

    def is_kind(self, *kinds: Kind) -> Flags:
        return np.isin(self.tape.kind, kinds)

    def order_shares(self) -> Floats:
        """The share of each symbol among the new orders, shape (symbols,)."""
        symbols = self.tape.symbol[self.is_kind(Kind.ORDER)]
        return np.bincount(symbols, minlength=len(self.market.symbols)) / len(symbols)

    def flow_rates(self) -> Floats:
        """The rate in each piece of the flow as a multiple of the tape's mean, shape (m,)."""
        counts = np.histogram(self.tape.intended_s, self.flow.edges_s)[0]
        mean_per_s: float = len(self.tape) / self.duration_s
        return counts / np.diff(self.flow.edges_s) / mean_per_s

    def busy_seconds(self) -> Floats:
        """New orders of each busy symbol in each whole second as a multiple of the stated mean.

        Shape (seconds, symbols).
        """
        seconds, symbols = int(self.duration_s), min(BUSY_SYMBOLS, len(self.market.symbols))
        second, symbol = np.floor(self.tape.intended_s).astype(np.int64), self.tape.symbol
        counted = self.is_kind(Kind.ORDER) & (second < seconds) & (symbol < symbols)
        cells = second[counted] * symbols + symbol[counted]
        counts = np.bincount(cells, minlength=seconds * symbols).reshape(seconds, symbols)
        mean = self.symbol_shares[:symbols] * self.profile.orders_per_s * self.speed
        return counts / mean


def trade_count(offer: Offer) -> int:
    """How many trades come of the tape on the seeded books, if every order arrives as intended."""
    engine = Engine()
    return sum(
        len(carry_out(engine, command).trades) for command in commands(offer.market, offer.tape)
    )


def statistics(offer: Offer) -> list[Statistic]:
    """The figures by which the profiles differ, and the rates that they have in common."""
    profile = offer.profile
    requests_per_s = profile.requests_per_s * offer.speed
    orders, cancels = offer.is_kind(Kind.ORDER).sum(), offer.is_kind(Kind.CANCEL).sum()
    messages = orders + cancels
    trades = trade_count(offer)
    stated_reads = 100.0 * profile.reads_of_all
    stated_cancels = 100.0 * profile.cancels_per_s / profile.messages_per_s
    return [
        Statistic("requests/s", requests_per_s, len(offer.tape) / offer.duration_s),
        Statistic("reads, % of requests", stated_reads, 100.0 * (1 - messages / len(offer.tape))),
        Statistic("cancels, % of messages", stated_cancels, 100.0 * cancels / messages),
        Statistic(
            "messages per trade",
            profile.messages_per_trade,
            messages / trades if trades else np.inf,
        ),
        *_concentration(offer),
        *_course(offer),
        Statistic(
            "p99 second of a symbol / its mean",
            profile.rhythm.within if isinstance(profile.rhythm, Bursts) else None,
            percentile(np.sort(offer.busy_seconds(), axis=None), 0.99) or 0.0,
            ".2f",
        ),
    ]


def kind_rates(offer: Offer) -> list[Statistic]:
    """Requests per second of each kind."""
    per_s = offer.profile.kind_shares() * offer.profile.requests_per_s * offer.speed
    return [
        Statistic(label, per_s[kind], offer.is_kind(kind).sum() / offer.duration_s)
        for kind, label in KIND_LABELS.items()
    ]


def _concentration(offer: Offer) -> list[Statistic]:
    stated = 100.0 * offer.market.popularity
    realised = 100.0 * np.cumsum(offer.order_shares())
    return [
        Statistic(f"{label}, % of orders", float(stated[n - 1]), float(realised[n - 1]), ".2f")
        for label, n in (("top symbol", 1), ("top ten", 10), ("top hundred", 100))
        if n <= len(stated)
    ]


def _course(offer: Offer) -> list[Statistic]:
    """The extremes of a rate that changes in a known way."""
    stated = offer.flow.rate
    if isinstance(offer.profile.rhythm, Bursts) or len(stated) == 1:
        return []
    realised = offer.flow_rates()
    return [
        Statistic(f"rate in the {label} part / mean", stated[part], realised[part], ".2f")
        for label, part in (("busiest", stated.argmax()), ("calmest", stated.argmin()))
    ]
