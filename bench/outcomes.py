"""How a request can end: an HTTP status, or one of these in the same number space."""

import numpy as np

from bench.traffic import Flags, Integers, Kind

RESET = 0
TIMEOUT = -1
TARGET_FAILED = -2
MALFORMED = -3
NO_CONNECTION = -4

NAMES = {
    RESET: "reset",  # the connection broke before the reply was complete
    TIMEOUT: "timeout",  # not done at the end of the drain
    TARGET_FAILED: "target_failed",  # the order it asks for has never got an id
    MALFORMED: "malformed",  # a reply that is not what the API promises
    NO_CONNECTION: "no_connection",  # refused before anything was sent
}

# A price before the first trade is 404, and cancelling a closed order is 204: business as usual.
EXPECTED: dict[int, tuple[int, ...]] = {
    Kind.ORDER: (201,),
    Kind.CANCEL: (204,),
    Kind.STATUS: (200,),
    Kind.PRICE: (200, 404),
    Kind.BOOK: (200,),
    Kind.BALANCE: (200,),
}


def succeeded(kind: int, outcome: int) -> bool:
    """Whether a request of this kind may end like this."""
    return outcome in EXPECTED[kind]


def failures(kind: Integers, outcome: Integers) -> Flags:
    """Which of the requests have failed, shape (n,)."""
    failed = np.ones(len(kind), dtype=np.bool_)
    for each, expected in EXPECTED.items():
        failed &= ~((kind == each) & np.isin(outcome, expected))
    return failed


def name(outcome: int) -> str:
    """``503`` or ``reset``."""
    return NAMES.get(outcome, str(outcome))
