"""Ids and time: unique, ordered, and never going back."""

import time
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profile import PROPERTY

from common.ids import FILL_BITS, Clock, format_id, parse_id, trade_id
from common.model import NewOrder, OrderType, Side

NOW_US = 1_700_000_000_000_000
TEXT = "01234567-89ab-7def-8123-456789abcdef"


def set_time(monkeypatch: pytest.MonkeyPatch, instant_us: int) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: instant_us * 1000)


def milliseconds_of(identifier: int) -> int:
    return identifier >> 80


def test_ids_are_unique_and_ascending() -> None:
    clock = Clock()
    ids = [clock.new_id() for _ in range(100_000)]
    assert all(before < after for before, after in pairwise(ids))


def test_ids_ascend_even_while_time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    set_time(monkeypatch, NOW_US)
    clock = Clock()
    ids = [clock.new_id() for _ in range(10_000)]
    assert all(before < after for before, after in pairwise(ids))


def test_an_id_is_a_uuid_of_version_7(monkeypatch: pytest.MonkeyPatch) -> None:
    set_time(monkeypatch, NOW_US)
    identifier = Clock().new_id()
    uuid = UUID(int=identifier)
    assert (uuid.version, uuid.variant) == (7, RFC_4122)
    assert milliseconds_of(identifier) == NOW_US // 1000


def test_the_fraction_of_a_millisecond_orders_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for instant_us in (NOW_US, NOW_US + 1, NOW_US + 999):
        set_time(monkeypatch, instant_us)
        ids.append(Clock().new_id())
    assert ids == sorted(ids)
    assert len({milliseconds_of(identifier) for identifier in ids}) == 1


def test_ids_of_two_processes_at_one_moment_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    set_time(monkeypatch, NOW_US)
    # 30 random bits: ten of them collide once in twenty million runs.
    assert len({Clock().new_id() for _ in range(10)}) == 10


def test_an_id_leaves_room_for_its_fills() -> None:
    clock = Clock()
    asked = NewOrder("1", Side.BID, OrderType.MARKET, "ABC", None, 1, None)
    first, second = (
        asked.accepted(order_id=clock.new_id(), sequence=1, broker_id=1, now_us=NOW_US)
        for _ in range(2)
    )
    most = (1 << FILL_BITS) - 1
    assert trade_id(first, 1) == first.id + 1
    assert first.id < trade_id(first, 1) < trade_id(first, most) < second.id
    assert UUID(int=trade_id(first, most)).version == 7


# ---- time ----


def test_time_is_in_microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: NOW_US * 1000 + 999)
    assert Clock().now_us() == NOW_US


def test_time_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    answers = []
    for instant_us in (NOW_US, NOW_US - 5_000_000, NOW_US + 1):
        set_time(monkeypatch, instant_us)
        answers.append(clock.now_us())
    assert answers == [NOW_US, NOW_US, NOW_US + 1]


def test_ids_ascend_even_when_time_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    set_time(monkeypatch, NOW_US)
    before = clock.new_id()
    set_time(monkeypatch, NOW_US - 5_000_000)
    assert before < clock.new_id() < clock.new_id()


@PROPERTY
@given(st.lists(st.integers(NOW_US - 10_000, NOW_US + 10_000), min_size=1, max_size=30))
def test_whatever_the_system_clock_does_nothing_goes_back(instants_us: list[int]) -> None:
    clock, ids, times = Clock(), list[int](), list[int]()
    with pytest.MonkeyPatch.context() as monkeypatch:
        for instant_us in instants_us:
            set_time(monkeypatch, instant_us)
            ids.append(clock.new_id())
            times.append(clock.now_us())
    assert ids == sorted(set(ids))
    assert times == sorted(times)
    assert times[-1] == max(instants_us)


def test_a_restart_begins_where_the_stored_time_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    set_time(monkeypatch, NOW_US)
    stored = Clock().new_id()
    set_time(monkeypatch, NOW_US - 5_000_000)
    clock = Clock()
    clock.advance(NOW_US, 0)
    assert clock.now_us() == NOW_US
    assert clock.new_id() > stored


@pytest.mark.parametrize("later_ns", [0, 500, 999])
def test_an_id_after_a_restart_is_greater_than_one_of_the_stored_microsecond(
    monkeypatch: pytest.MonkeyPatch, later_ns: int
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: NOW_US * 1000 + later_ns)
    before = Clock()
    stored_us, stored = before.now_us(), before.new_id()
    set_time(monkeypatch, NOW_US - 5_000_000)
    after = Clock()
    after.advance(stored_us, 0)
    assert after.new_id() > stored


def test_advancing_to_the_past_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    set_time(monkeypatch, NOW_US)
    clock = Clock()
    before = clock.new_id()
    clock.advance(NOW_US - 1, 0)
    assert clock.now_us() == NOW_US
    assert clock.new_id() > before


# ---- text ----


@PROPERTY
@given(st.integers(0, (1 << 128) - 1))
def test_an_id_survives_its_text(identifier: int) -> None:
    assert format_id(identifier) == str(UUID(int=identifier))
    assert parse_id(format_id(identifier)) == identifier


def test_texts_sort_like_their_ids() -> None:
    clock = Clock()
    ids = [clock.new_id() for _ in range(100)]
    assert sorted(map(format_id, ids)) == [format_id(identifier) for identifier in ids]


def test_the_case_of_an_id_does_not_matter() -> None:
    assert parse_id(TEXT.upper()) == parse_id(TEXT) == UUID(TEXT).int


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        TEXT[:-1],
        TEXT + "0",
        TEXT + "\n",
        " " + TEXT,
        TEXT.replace("-", ""),
        "{" + TEXT + "}",
        "urn:uuid:" + TEXT,
        TEXT.replace("0", "g"),
        TEXT.replace("0", "٠"),
        TEXT.replace("-", "_"),
        "-" * 36,
        "\ud800",
    ],
)
def test_what_is_no_uuid_names_nothing(text: str) -> None:
    assert parse_id(text) is None


@PROPERTY
@given(st.text() | st.text(alphabet="0123456789abcdefABCDEF-", min_size=35, max_size=37))
def test_an_arbitrary_text_is_an_id_only_if_it_is_the_text_of_one(text: str) -> None:
    identifier = parse_id(text)
    assert identifier is None or format_id(identifier) == text.lower()
