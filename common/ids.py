"""Ids and time: the two things a command brings along, so that the engine itself is deterministic.

An order id is a UUID of version 7 (RFC 9562): 48 bits of milliseconds, 12 bits of the fraction of
that millisecond, then 30 random bits and 32 zero bits. The zero bits are the numbers of the order's
fills: the k-th trade of a taker has the id ``order id + k``. So trade ids follow from the command
that caused them, are unique without a draw, and sort by time like their orders.
"""

import random
import re
import time

from common.model import Order

ID_BYTES = 16
FILL_BITS = 32
ID_MAX = (1 << 128) - 1
RANDOM_BITS = 30
TICKS_PER_MS = 4096  # the finest that version 7 has room for
_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62
_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")


class Clock:
    """Time and ids that never go backwards within one process, even when the system clock does."""

    def __init__(self) -> None:
        self._last_us = 0
        self._last_tick = 0

    def now_us(self) -> int:
        """Microseconds since the epoch, never less than an answer before."""
        self._last_us = max(self._last_us, time.time_ns() // 1000)
        return self._last_us

    def new_id(self) -> int:
        """A new order or broker id, greater than all before it in this process."""
        self._last_tick = max(self._last_tick + 1, time.time_ns() * TICKS_PER_MS // 1_000_000)
        # Unique, not secret: every read of an order checks its owner.
        return id_of(self._last_tick, random.getrandbits(RANDOM_BITS))

    def advance(self, instant_us: int, order_id: int) -> None:
        """Never answer before ``instant_us`` or this id: what a restart must respect.

        Where the system clock went back, ids are ahead of the instants.
        """
        self._last_us = max(self._last_us, instant_us)
        tick = (instant_us + 1) * TICKS_PER_MS // 1000
        self._last_tick = max(self._last_tick, tick, tick_of(order_id))

    def ahead_s(self) -> float:
        """How far it is ahead of the system clock."""
        return max(0.0, self._last_us / 1e6 - time.time())


def id_of(tick: int, chance: int) -> int:
    """The id that belongs to a tick and ``RANDOM_BITS`` bits."""
    milliseconds, fraction = divmod(tick, TICKS_PER_MS)
    high = (milliseconds & (1 << 48) - 1) << 80 | _VERSION_7 | fraction << 64
    return high | _VARIANT | chance << FILL_BITS


def tick_of(identifier: int) -> int:
    """The tick of an id."""
    return (identifier >> 80) * TICKS_PER_MS | identifier >> 64 & TICKS_PER_MS - 1


def trade_id(taker: Order, number: int) -> int:
    """The id of the taker's fill ``number``, counted from 1."""
    return taker.id + number


def format_id(identifier: int) -> str:
    """The UUID text of an id."""
    digits = f"{identifier:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def parse_id(text: str) -> int | None:
    """The id of a UUID text, None when it is not one and so cannot name anything."""
    text = text.lower()
    return int(text.replace("-", ""), 16) if _CANONICAL.match(text) else None
