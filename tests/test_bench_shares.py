"""Several generators share one tape: together they send it, and each knows the ids it needs."""

from dataclasses import fields

import numpy as np
import pytest

from bench import traffic
from bench.spec import share_of
from bench.traffic import Tape


@pytest.fixture(scope="module")
def tape() -> Tape:
    return traffic.tape(traffic.PROFILES["average"], 3, 100.0, 5.0)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_the_shares_of_a_tape_are_the_tape(tape: Tape, parts: int) -> None:
    shares = [share_of(tape, part, parts) for part in range(parts)]
    positions = np.concatenate([positions for _, positions in shares])
    assert sorted(positions.tolist()) == list(range(len(tape)))
    for each in fields(Tape):
        if each.name != "target":
            whole = np.empty_like(getattr(tape, each.name))
            for share, own in shares:
                whole[own] = getattr(share, each.name)
            np.testing.assert_array_equal(whole, getattr(tape, each.name))


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_what_asks_for_an_order_is_sent_by_who_sent_the_order(tape: Tape, parts: int) -> None:
    for part in range(parts):
        share, positions = share_of(tape, part, parts)
        aimed = np.flatnonzero(share.target >= 0)
        assert len(aimed)
        np.testing.assert_array_equal(positions[share.target[aimed]], tape.target[positions[aimed]])


def test_the_shares_are_of_about_equal_size(tape: Tape) -> None:
    sizes = [len(share_of(tape, part, 4)[1]) for part in range(4)]
    assert max(sizes) < 1.25 * min(sizes)
