"""The profiles of traffic, as data: rates, market, mix, and how the rate goes during a run.

In every profile 100 % is the same mean rate over the whole run. Six of them differ in when the
requests come, for which symbols, and of what kinds; two are markets that B3 is far from. What is
measured and what is assumed stands in ``bench/README.md``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Shares (%) of the ticks of PETR4 in each half hour from 10:00 to 17:00.
HALF_HOURS = (7.2, 11.2, 8.7, 7.3, 6.8, 6.1, 5.0, 5.3, 5.9, 6.3, 6.7, 7.0, 7.5, 9.0)


@dataclass(frozen=True)
class Parts:
    """The run in parts of equal length, each with its share of the requests."""

    shares: tuple[float, ...] = (1.0,)

    def course(self, duration_s: float) -> tuple[Floats, Floats]:
        """The edges of the parts in seconds, shape (m + 1,), and the rates between them, (m,).

        Rates are multiples of the mean rate of the run, here and in ``Peak``.
        """
        shares = np.array(self.shares)
        return np.linspace(0.0, duration_s, len(shares) + 1), len(shares) * shares / shares.sum()


@dataclass(frozen=True)
class Peak:
    """One peak in the middle of the run. A run too short for all of it has a shorter one."""

    ratio: float  # of the rate in the peak to the mean rate of the run
    length_s: float
    of_run_max: float

    def course(self, duration_s: float) -> tuple[Floats, Floats]:
        """As in ``Parts``: before, during and after the peak."""
        peak_s = min(self.length_s, self.of_run_max * duration_s)
        begin_s = (duration_s - peak_s) / 2.0
        outside = (duration_s - self.ratio * peak_s) / (duration_s - peak_s)
        edges_s = np.array([0.0, begin_s, begin_s + peak_s, duration_s])
        return edges_s, np.array([outside, self.ratio, outside])


@dataclass(frozen=True)
class Bursts:
    """Each symbol has bursts of its own, which begin as a Poisson process.

    A burst adds ``extra`` times the symbol's mean rate while it lasts; bursts may overlap. Between
    them the symbol is so quiet that its mean stays what it is.
    """

    per_s: float
    length_s: float
    extra: float
    cell_s: float  # bursts begin at multiples of it

    @property
    def quiet(self) -> float:
        """The rate without a burst, as a multiple of the mean."""
        return 1.0 - self.per_s * self.length_s * self.extra

    @property
    def within(self) -> float:
        """The rate during a burst, as a multiple of the mean."""
        return self.quiet + self.extra

    @property
    def cells_of_burst(self) -> int:
        return round(self.length_s / self.cell_s)

    def edges_s(self, duration_s: float) -> Floats:
        """The edges of the cells of a run, shape (m + 1,); the last cell may be shorter."""
        return np.append(np.arange(0.0, duration_s, self.cell_s), duration_s)

    def rates(self, uniform: Floats) -> Floats:
        """The rate of each symbol in each cell as a multiple of its mean, shape (m, symbols).

        ``uniform`` has the shape (cells_of_burst + m, symbols): a run begins amid bursts as well.
        """
        begun: Integers = np.cumsum(uniform < self.per_s * self.cell_s, axis=0)
        active = begun[self.cells_of_burst :] - begun[: -self.cells_of_burst]
        return self.quiet + self.extra * active.astype(np.float64)


@dataclass(frozen=True)
class Profile:
    """A named traffic: mean rates at 100 %, their course, the market, and the mix.

    The share of the symbol of rank r is proportional to r^-zipf_exponent · exp(-root_decay·√r).
    """

    name: str
    label: str
    orders_per_s: float = 700.0
    cancels_per_s: float = 245.0
    reads_of_all: float = 0.28
    symbols: int = 450
    brokers: int = 100
    zipf_exponent: float = 0.95
    root_decay: float = 0.0
    read_shares: tuple[float, ...] = (0.35, 0.30, 0.25, 0.10)  # in the order of READS
    passive_of_orders: float = 0.75
    near_of_orders: float = 0.20  # the rest are market orders
    messages_per_trade: float | None = None  # what the mix is made for, if anything
    rhythm: Parts | Peak | Bursts = Parts()

    @property
    def messages_per_s(self) -> float:
        """Orders and cancels."""
        return self.orders_per_s + self.cancels_per_s

    @property
    def requests_per_s(self) -> float:
        return self.messages_per_s / (1.0 - self.reads_of_all)

    @property
    def steady(self) -> bool:
        """Whether the rate of all symbols together stays the same during a run."""
        return self.rhythm == Parts()

    def kind_shares(self) -> Floats:
        """The share of each kind among all requests, shape (6,), in the order of ``Kind``."""
        writes = np.array([self.orders_per_s, self.cancels_per_s]) / self.requests_per_s
        return np.concatenate([writes, self.reads_of_all * np.array(self.read_shares)])

    def popularity(self, symbols: int) -> Floats:
        """The cumulative share of the symbols, shape (symbols,), most popular first."""
        rank = np.arange(1, symbols + 1, dtype=np.float64)
        weights = rank**-self.zipf_exponent * np.exp(-self.root_decay * np.sqrt(rank))
        cumulative: Floats = np.cumsum(weights) / weights.sum()
        return cumulative


def _by_name(*profiles: Profile) -> dict[str, Profile]:
    return {profile.name: profile for profile in profiles}


B3 = _by_name(
    Profile("average", "B3 average day (estimate)"),
    Profile(
        "concentration",
        "B3 average day with the measured concentration (estimate)",
        zipf_exponent=0.10,
        root_decay=0.195,
    ),
    Profile(
        "peak",
        "B3 average day with its peak minute (estimate)",
        # A twelfth leaves exactly half of the mean rate for the rest of a short run.
        rhythm=Peak(ratio=6.5, length_s=60.0, of_run_max=1.0 / 12.0),
    ),
    Profile("day", "B3 average day from open to close (estimate)", rhythm=Parts(HALF_HOURS)),
    Profile(
        "burst",
        "B3 average day in bursts (estimate)",
        # More than 1 % of all seconds lie wholly within a burst, so the 99th percentile is one
        # of them: 9.46 times the mean.
        rhythm=Bursts(per_s=1.0 / 60.0, length_s=2.0, extra=8.75, cell_s=0.25),
    ),
    Profile(
        "cancel-heavy",
        "B3 average day, 48 % cancels (estimate)",
        orders_per_s=0.52 * 945.0,
        cancels_per_s=0.48 * 945.0,
        passive_of_orders=0.86,
        near_of_orders=0.11,
        messages_per_trade=20.0,
    ),
)
PROFILES = B3 | _by_name(
    Profile("hot-symbol", "B3 average day, all of it on one symbol (no B3)", symbols=1),
    Profile("many-symbols", "B3 average day on 100,000 symbols (no B3)", symbols=100_000),
)
