"""The write-ahead log on disks that crash, tear, rot and fill up."""

import asyncio
import errno
import fcntl
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profile import PROPERTY
from simulated_disk import CachedDisk, SimulatedDisk

from common.engine import Engine
from common.errors import StartError, Unavailable
from common.model import NewOrder, Order, OrderType, Side
from common.wal import __main__ as people
from common.wal import disk as on_disk
from common.wal import format
from common.wal import log as writing
from common.wal.disk import Directory, Disk, SegmentFile, locked
from common.wal.format import BATCH_HEAD_BYTES, HEADER_BYTES, RECORD_MAX_BYTES, Record, Submission
from common.wal.log import NO_ROOM, PASSING, End, WriteAheadLog
from common.wal.recovery import Damaged, Foreign, finish_reset, recover, settle

ROOT = Path(__file__).resolve().parent.parent
EXCHANGE = bytes(range(16))
NOW_US = 1_700_000_000_000_000
DAY_US = 86_400_000_000
SMALL = 2_048
PATIENCE_S = 30.0
NEW = End(0, 0, (), 0)


@pytest.fixture(
    autouse=True, scope="module", params=[-1.0, float("inf")], ids=["thread", "event-loop"]
)
def quick_ms(request: pytest.FixtureRequest) -> Iterator[float]:
    """Up to how many ms a write takes that the event loop does itself: none, or any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "QUICK_MS", request.param)
        yield request.param


Failures = list[Exception]
Use = Callable[[WriteAheadLog], Awaitable[None]]


def order(sequence: int, side: Side = Side.BID, price: int | None = 10, quantity: int = 5) -> Order:
    """The order with this number, at this second."""
    kind = OrderType.MARKET if price is None else OrderType.LIMIT
    end_us = None if price is None else NOW_US + DAY_US
    own_id = f"own {sequence}" if sequence % 2 else None
    asked = NewOrder("1", side, kind, "ABC", price, quantity, end_us, own_id)
    return asked.accepted(
        order_id=sequence << 32, sequence=sequence, broker_id=7, now_us=NOW_US + sequence
    )


def use(
    disk: Disk, use_it: Use, *, end: End = NEW, size: int = SMALL, failures: Failures | None = None
) -> None:
    """Open a log on the disk, use it, close it."""
    failed: Failures = [] if failures is None else failures

    async def run() -> None:
        wal = WriteAheadLog(
            disk, exchange=EXCHANGE, end=end, on_failure=failed.append, segment_bytes=size
        )
        async with asyncio.timeout(PATIENCE_S), wal.opened():
            await use_it(wal)

    asyncio.run(run())
    assert failures is not None or failed == []


async def write(wal: WriteAheadLog, sequences: Sequence[int]) -> None:
    """Records of one batch, in segments so small that the next must be waited for."""
    await wal.prepared()
    for sequence in sequences:
        wal.submitted(order(sequence))
    await wal.settled()


def written(*sizes: int, size: int = SMALL) -> SimulatedDisk:
    """A disk with a batch of each size."""
    disk = SimulatedDisk()

    async def all_of_them(wal: WriteAheadLog) -> None:
        first = 1
        for count in sizes:
            await write(wal, range(first, first + count))
            first += count

    use(disk, all_of_them, size=size)
    return disk


def found(disk: Disk, stored: int = 0) -> list[int]:
    """The sequence numbers that a start has to do again."""
    return [record.sequence for record in recover(disk, EXCHANGE, stored)[0]]


def ends_of(segment: bytes) -> list[int]:
    """Where each batch ends."""
    header = format.read_header(segment)
    assert header
    return [batch.end for batch in format.batches(segment, header.checksum)]


# ---- what is written is found again ----


def test_records_come_back_as_they_were() -> None:
    disk, orders = SimulatedDisk(), [order(1), order(2, Side.ASK, None, 10**9)]

    async def both(wal: WriteAheadLog) -> None:
        for each in orders:
            wal.submitted(each)
        wal.cancelled(3, NOW_US + 9, orders[0].id)
        await wal.settled()

    use(disk, both)
    (first, second, third), _ = recover(disk, EXCHANGE, 0)
    assert isinstance(first, Submission)
    assert isinstance(second, Submission)
    for record, each in ((first, orders[0]), (second, orders[1])):
        again = record.order()
        assert [getattr(again, name) for name in Order.__struct_fields__] == [
            getattr(each, name) for name in Order.__struct_fields__
        ]
    assert third == format.cancellation(3, NOW_US + 9, orders[0].id)


def test_the_longest_record_is_within_the_bound() -> None:
    longest = format.Submission(
        2**63, 2**62, bytes([255] * 16), bytes([255] * 16), "\U0001f600" * 20, Side.BID,
        OrderType.MARKET, "S" * 12, 2**40, 2**40, 2**62, "x" * 64,
    )  # fmt: skip
    assert len(format.payload([longest])) < RECORD_MAX_BYTES


def test_what_gathers_during_a_write_is_one_write() -> None:
    disk = SimulatedDisk()

    async def thrice(wal: WriteAheadLog) -> None:
        wal.submitted(order(1))
        await asyncio.sleep(0)  # the first write is under way
        for sequence in range(2, 7):
            wal.submitted(order(sequence))
        await wal.settled()
        assert wal.figures()["wal_syncs"] == 2
        assert wal.figures()["wal_records"] == 6

    use(disk, thrice, size=1 << 16)
    assert len(disk.writes) == 2
    assert found(disk) == [1, 2, 3, 4, 5, 6]


def test_records_that_come_fast_share_a_write() -> None:
    disk, many = SimulatedDisk(), writing.BUSY_RECORDS

    async def fast(wal: WriteAheadLog) -> None:
        for sequence in range(1, many + 1):
            wal.submitted(order(sequence))
        await wal.settled()
        for sequence in range(many + 1, many + 5):
            wal.submitted(order(sequence))
            await asyncio.sleep(0)
        await wal.settled()
        assert wal.figures()["wal_syncs"] == 2

    use(disk, fast, size=1 << 16)
    assert found(disk) == list(range(1, many + 5))


class WatchedDisk(SimulatedDisk):
    """Knows which thread wrote, and can be slow."""

    def __init__(self, takes_s: float) -> None:
        super().__init__()
        self.writers: list[int] = []
        self._takes_s = takes_s

    def write(self, number: int, offset: int, data: bytes) -> None:
        self.writers.append(threading.get_ident())
        time.sleep(self._takes_s)
        super().write(number, offset, data)


@pytest.mark.parametrize(("takes_s", "by_event_loop"), [(0.0, True), (0.002, False)])
def test_the_event_loop_writes_to_a_quick_disk_and_a_thread_to_a_slow_one(
    takes_s: float, by_event_loop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "QUICK_MS", 1.0)
    disk = WatchedDisk(takes_s)

    async def often(wal: WriteAheadLog) -> None:
        for sequence in range(1, 2 * writing.LATEST):
            await write(wal, [sequence])

    use(disk, often, size=1 << 16)
    assert (disk.writers[-1] == threading.get_ident()) == by_event_loop
    assert found(disk) == list(range(1, 2 * writing.LATEST))


def test_nobody_is_told_before_the_disk_has_it() -> None:
    disk = SimulatedDisk()

    async def look(wal: WriteAheadLog) -> None:
        wal.submitted(order(1))
        waiting = asyncio.ensure_future(wal.settled())
        await asyncio.wait((waiting,))
        assert found(disk) == [1]
        await wal.settled()  # there is nothing to wait for any more

    use(disk, look)


def test_one_who_no_longer_waits_takes_nobody_along() -> None:
    async def cancel_one(wal: WriteAheadLog) -> None:
        await write(wal, range(1, writing.BUSY_RECORDS + 1))
        wal.submitted(order(writing.BUSY_RECORDS + 1))  # its write waits for more
        first, second = (asyncio.ensure_future(wal.settled()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert first.cancelled()

    use(SimulatedDisk(), cancel_one, size=1 << 16)


def test_a_start_does_again_only_what_the_database_lacks() -> None:
    disk = written(3, 3)
    assert found(disk) == [1, 2, 3, 4, 5, 6]
    assert found(disk, stored=4) == [5, 6]
    assert found(disk, stored=6) == []
    assert found(disk, stored=9) == []


def test_segments_follow_each_other_and_those_the_database_has_go() -> None:
    disk = SimulatedDisk()

    async def many(wal: WriteAheadLog) -> None:
        for sequence in range(1, 101):
            await write(wal, [sequence])
        assert len(disk.segments) > 5
        wal.absorbed(90)

    use(disk, many)
    assert found(disk, stored=90) == list(range(91, 101))
    assert len(disk.segments) <= 4
    with pytest.raises(Damaged, match="the database reaches to 0 only"):
        recover(disk, EXCHANGE, 0)


def test_a_log_goes_on_after_each_start() -> None:
    disk = SimulatedDisk()
    for start in range(5):
        records, end = recover(disk, EXCHANGE, 0)
        assert [record.sequence for record in records] == list(range(1, 3 * start + 1))
        use(disk, partial(write, sequences=range(3 * start + 1, 3 * start + 4)), end=end)
    assert found(disk) == list(range(1, 16))


def test_starts_in_which_nothing_happens_leave_nothing_behind() -> None:
    disk = SimulatedDisk()

    async def nothing(wal: WriteAheadLog) -> None:
        await wal.prepared()

    use(disk, partial(write, sequences=[1]))
    for _ in range(5):
        use(disk, nothing, end=recover(disk, EXCHANGE, 0)[1])
        assert disk.numbers() == [1, 2]
    use(disk, partial(write, sequences=[2]), end=recover(disk, EXCHANGE, 0)[1])
    assert found(disk) == [1, 2]


def test_a_log_of_which_the_database_has_all_goes_on_with_the_next_number() -> None:
    disk = SimulatedDisk()

    async def store(wal: WriteAheadLog) -> None:
        await wal.prepared()
        wal.absorbed(1)

    use(disk, partial(write, sequences=[1]))
    use(disk, store, end=recover(disk, EXCHANGE, 1)[1])
    assert disk.numbers() == [2]
    use(disk, partial(write, sequences=[2]), end=recover(disk, EXCHANGE, 1)[1])
    assert disk.numbers() == [2, 3]
    assert found(disk, stored=1) == [2]


def test_segments_go_in_their_order_so_that_no_crash_leaves_a_gap() -> None:
    disk = SimulatedDisk()
    numbers = fill_segments(disk)

    async def store(wal: WriteAheadLog) -> None:
        disk.locked = numbers[1]
        wal.absorbed(100)
        wal.absorbed(100)

    use(disk, store, end=recover(disk, EXCHANGE, 100)[1])
    assert disk.numbers()[0] == numbers[1]
    disk.locked = None
    _, end = recover(disk, EXCHANGE, 100)

    async def store_again(wal: WriteAheadLog) -> None:
        wal.absorbed(100)

    use(disk, store_again, end=end)
    assert len(disk.numbers()) == 1


def fill_segments(disk: SimulatedDisk) -> list[int]:
    """A hundred records in many segments; the numbers of these."""

    async def many(wal: WriteAheadLog) -> None:
        for sequence in range(1, 101):
            await write(wal, [sequence])

    use(disk, many)
    return disk.numbers()


def test_a_log_goes_on_behind_a_database_that_is_further() -> None:
    disk = written(2)
    _, end = recover(disk, EXCHANGE, 10)
    use(disk, lambda wal: write(wal, [11]), end=end)
    assert found(disk, stored=10) == [11]


def test_after_everything_was_emptied_the_numbers_begin_again() -> None:
    disk = SimulatedDisk()

    async def twice(wal: WriteAheadLog) -> None:
        for sequence in range(1, 30):
            await write(wal, [sequence])
        wal.submitted(order(30))
        wal.announce()
        await wal.restart()
        await write(wal, [1, 2])
        wal.announce()
        await wal.restart()
        await write(wal, [1])

    use(disk, twice)
    assert found(disk) == [1]


def test_a_reset_that_cannot_empty_the_log_ends_it() -> None:
    disk = SimulatedDisk()
    failures: Failures = []

    async def reset(wal: WriteAheadLog) -> None:
        await write(wal, [1])
        [disk.locked, *_] = disk.numbers()
        wal.announce()
        await wal.restart()
        with pytest.raises(Unavailable):
            wal.submitted(order(1))

    use(disk, reset, failures=failures)
    assert "cannot be removed" in str(failures)
    assert disk.announced() is not None


# ---- crashes ----

steps = st.lists(
    st.tuples(st.sampled_from(["write", "write", "write", "absorb", "reset"]), st.integers(1, 6)),
    min_size=1,
    max_size=25,
)


@PROPERTY
@given(steps, st.integers(1, 40), st.integers(0, 2**32))
def test_a_power_failure_at_any_step_loses_nothing_acknowledged(
    commands: list[tuple[str, int]], crash_at: int, seed: int
) -> None:
    disk = SimulatedDisk(Random(seed), lambda step: step == crash_at)
    failures: Failures = []
    given_to_log = acknowledged = stored = 0
    needed_id = disk.log_id

    async def load(wal: WriteAheadLog) -> None:
        nonlocal given_to_log, acknowledged, stored, needed_id
        for command, number in commands:
            if command == "absorb":
                stored = acknowledged
                wal.absorbed(stored)
                continue
            if command == "reset":
                needed_id = wal.announce()  # which the database hears, and is empty
                given_to_log = acknowledged = stored = 0
                await wal.restart()
                continue
            await wal.prepared()
            for _ in range(number):
                wal.submitted(order(given_to_log + 1))
                given_to_log += 1
            await wal.settled()
            acknowledged = given_to_log

    with suppress(Unavailable, OSError):
        use(disk, load, failures=failures)
    found_disk = disk.after_crash()
    finish_reset(found_disk, needed_id)
    assert found_disk.log_id == needed_id
    records, end = recover(found_disk, EXCHANGE, stored)
    sequences = [record.sequence for record in records]
    assert sequences == list(range(stored + 1, stored + 1 + len(sequences)))
    assert acknowledged <= stored + len(sequences) <= given_to_log
    # And it goes on from there, and is found whole after that.
    last = stored + len(sequences)
    settle(found_disk, end)
    use(found_disk, lambda wal: write(wal, [last + 1]), end=end)
    assert found(found_disk, stored) == [*sequences, last + 1]


def test_cut_at_every_byte_of_the_last_write_the_rest_is_whole() -> None:
    disk = written(2, 2, 3)
    [number, *_] = disk.numbers()
    whole = disk.read(number)
    ends = ends_of(whole)
    for cut in range(ends[1], ends[2]):
        for torn in (whole[:cut], whole[:cut] + bytes(len(whole) - cut)):
            disk.segments[number] = bytearray(torn)
            # A last byte that is zero anyway cannot be lost.
            assert found(disk) == [1, 2, 3, 4] or torn == whole, cut


def test_cut_in_the_header_nothing_was_ever_there() -> None:
    disk = written(1)
    [number, *_] = disk.numbers()
    whole = disk.read(number)
    for cut in range(HEADER_BYTES):
        disk.segments[number] = bytearray(whole[:cut])
        assert found(disk) == []


def test_after_a_torn_write_the_log_goes_on_and_is_whole_again() -> None:
    disk = written(2, 2)
    [number, *_] = disk.numbers()
    used = len(disk.read(number).rstrip(b"\0"))
    disk.segments[number][used - 5 :] = bytes(len(disk.segments[number]) - used + 5)
    records, end = recover(disk, EXCHANGE, 0)
    assert len(records) == 2
    use(disk, lambda wal: write(wal, [3, 4]), end=end)
    assert found(disk) == [1, 2, 3, 4]


# ---- damage ----


def test_a_flipped_bit_is_never_taken_for_a_record() -> None:
    disk = written(2, 2, 2)
    [number, *_] = disk.numbers()
    whole = disk.read(number)
    ends = ends_of(whole)
    for byte in range(ends[2] + 64):
        for bit in range(8):
            disk.segments[number] = bytearray(whole)
            disk.segments[number][byte] ^= 1 << bit
            if byte < ends[1]:
                with pytest.raises(Damaged):
                    recover(disk, EXCHANGE, 0)
            else:
                # In the last write, or behind it: as if it had been cut short.
                assert found(disk) == ([1, 2, 3, 4] if byte < ends[2] else [1, 2, 3, 4, 5, 6])


def test_a_block_of_zeros_in_the_middle_is_damage() -> None:
    disk = written(*[3] * 12, size=1 << 14)
    [number, *_] = disk.numbers()
    whole = disk.read(number)
    ends = ends_of(whole)
    for start in range(0, ends[-2] - 512, 100):
        disk.segments[number] = bytearray(whole)
        disk.segments[number][start : start + 512] = bytes(512)
        with pytest.raises(Damaged, match=f"segment {number}"):
            recover(disk, EXCHANGE, 0)


def test_damage_at_the_end_of_a_segment_is_seen_from_the_next() -> None:
    disk = written(*[1] * 30)
    first, second, *_ = disk.numbers()
    used = len(disk.read(first).rstrip(b"\0"))
    disk.segments[first][used - 5 :] = bytes(len(disk.segments[first]) - used + 5)
    with pytest.raises(Damaged, match=f"segment {second} does not continue"):
        recover(disk, EXCHANGE, 0)


def test_a_missing_segment_is_named() -> None:
    disk = written(*[1] * 40)
    _, second, *_ = disk.numbers()
    del disk.segments[second]
    with pytest.raises(Damaged, match=f"segment {second} is missing"):
        recover(disk, EXCHANGE, 0)


def test_a_gap_in_what_the_database_lacks_is_named() -> None:
    # The database went on without the log up to 10, and is now one of long before.
    disk = written(2)
    _, end = recover(disk, EXCHANGE, 10)
    use(disk, lambda wal: write(wal, [11]), end=end)
    assert found(disk, stored=10) == [11]
    with pytest.raises(Damaged, match=r"record 2 is followed by 11, .* reaches to 1 only"):
        recover(disk, EXCHANGE, 1)


def test_a_log_of_another_exchange_is_refused() -> None:
    with pytest.raises(Foreign, match="another database"):
        recover(written(1), bytes(16), 0)


def test_a_batch_with_other_records_than_it_says_is_damage() -> None:
    disk = written(2)
    [number, *_] = disk.numbers()
    header = format.read_header(disk.read(number))
    assert header
    for records in ([order(2)], [order(1), order(3)]):
        payload = format.payload([format.submission(each) for each in records])
        data, _ = format.batch(payload, records[-1].sequence, header.checksum)
        disk.segments[number][HEADER_BYTES : HEADER_BYTES + len(data)] = data
        with pytest.raises(Damaged, match="its records are not those from 1"):
            recover(disk, EXCHANGE, 0)


def test_bytes_that_are_no_records_are_damage() -> None:
    disk = written(1)
    [number, *_] = disk.numbers()
    header = format.read_header(disk.read(number))
    assert header
    data, _ = format.batch(b"\x91\x01", 1, header.checksum)
    disk.segments[number][HEADER_BYTES : HEADER_BYTES + len(data)] = data
    with pytest.raises(Damaged, match=f"segment {number}, byte {HEADER_BYTES}"):
        recover(disk, EXCHANGE, 0)


# ---- a disk that refuses ----


async def fail_to_write_2(wal: WriteAheadLog, disk: SimulatedDisk) -> None:
    await write(wal, [1])
    await wal.prepared()  # so that it is the write that fails
    disk.failure = errno.EIO
    wal.submitted(order(2))
    with pytest.raises(OSError, match="the disk says no"):
        await wal.settled()
    disk.failure = None


def test_after_a_failed_sync_nothing_is_acknowledged_or_taken() -> None:
    disk, failures = SimulatedDisk(), Failures()

    async def fail(wal: WriteAheadLog) -> None:
        await fail_to_write_2(wal, disk)
        with pytest.raises(Unavailable):
            wal.submitted(order(3))

    use(disk, fail, failures=failures)
    [error] = failures
    assert isinstance(error, OSError)
    assert error.errno == errno.EIO
    assert found(disk) == [1]


def refused_at(wal: WriteAheadLog, first: int) -> int:
    """The number of the first record, from this one on, that finds no room."""
    for sequence in range(first, 10_000):
        try:
            wal.submitted(order(sequence))
        except Unavailable:
            return sequence
    raise AssertionError("everything was taken")


def test_what_a_failed_sync_has_left_in_memory_is_on_the_disk_before_the_log_goes_on() -> None:
    disk, failures = CachedDisk(), Failures()
    use(disk, lambda wal: fail_to_write_2(wal, disk), failures=failures)
    records, end = recover(disk, EXCHANGE, 0)
    assert [record.sequence for record in records] == [1, 2]
    settle(disk, end)
    use(disk, lambda wal: write(wal, [3]), end=end)
    assert found(disk.after_power_failure()) == [1, 2, 3]


@pytest.mark.parametrize("sizes", [(3,), (2, 1), (1, 2, 3)])
def test_the_last_write_is_written_again_as_it_was(sizes: Sequence[int]) -> None:
    disk = written(*sizes)
    before, last = dict(disk.segments), disk.writes[-1]
    _, end = recover(disk, EXCHANGE, 0)
    settle(disk, end)
    assert disk.segments == before
    assert disk.writes[-1] == last


@pytest.mark.parametrize("why", PASSING)
def test_a_start_without_room_refuses_until_the_database_has_made_some(
    why: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "RETRY_S", 0.01)
    disk = written(1, 1)
    _, end = recover(disk, EXCHANGE, 0)
    disk.full = why

    async def start(wal: WriteAheadLog) -> None:
        with pytest.raises(Unavailable):
            wal.submitted(order(3))
        wal.absorbed(2)
        disk.full = None
        async with asyncio.timeout(10):
            await wal.prepared()
        await write(wal, [3])

    use(disk, start, end=end)
    assert found(disk, stored=2) == [3]


def test_a_disk_that_fails_at_the_start_is_no_start() -> None:
    disk = SimulatedDisk()
    disk.full = errno.EIO
    with pytest.raises(OSError, match="no room"):
        use(disk, lambda wal: write(wal, [1]))


@pytest.mark.parametrize("why", PASSING)
def test_a_full_disk_refuses_until_there_is_room(why: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "RETRY_S", 0.01)
    disk = SimulatedDisk()

    async def fill(wal: WriteAheadLog) -> None:
        disk.full = why
        await write(wal, [1])
        first = 2
        while not wal.figures()["wal_full"]:
            first = refused_at(wal, first)
            await wal.settled()
        disk.full = None
        async with asyncio.timeout(10):
            await wal.prepared()
        await write(wal, range(first, first + 3))

    use(disk, fill)
    sequences = found(disk)
    assert sequences == list(range(1, len(sequences) + 1))
    assert len(sequences) > 5


async def found_crowded(wal: WriteAheadLog) -> None:
    """Wait until a write has found no room."""
    while not wal.figures()["wal_full"]:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("why", NO_ROOM)
def test_a_write_that_finds_no_room_is_written_again_and_nothing_else_is_taken_until_then(
    why: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "RETRY_S", 0.01)
    disk = CachedDisk()

    async def fill(wal: WriteAheadLog) -> None:
        await write(wal, [1])
        disk.crowded = why
        wal.submitted(order(2))
        accepted = wal.settling()
        assert accepted
        waiting = asyncio.ensure_future(accepted.wait())
        await found_crowded(wal)
        with pytest.raises(Unavailable):
            wal.submitted(order(3))
        with pytest.raises(Unavailable):  # nor is anything shown that a crash could undo
            wal.settling()
        assert found(disk.after_crash()) == [1, 2], "of which the disk has half"
        assert not waiting.done()
        disk.crowded = None
        await waiting
        await write(wal, [3])

    use(disk, fill, size=1 << 16)
    assert found(disk.after_power_failure()) == [1, 2, 3]


def test_a_write_that_finds_no_room_holds_no_stop_up_and_is_not_tried_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writing, "RETRY_S", 0.01)
    disk, failures = SimulatedDisk(), Failures()

    async def run() -> None:
        wal = WriteAheadLog(disk, exchange=EXCHANGE, end=NEW, on_failure=failures.append)
        async with asyncio.timeout(PATIENCE_S), wal.opened():
            await write(wal, [1])
            disk.crowded = errno.ENOSPC
            wal.submitted(order(2))
            await found_crowded(wal)
        disk.crowded = None
        await asyncio.sleep(0.05)

    asyncio.run(run())
    assert failures == []
    records, end = recover(disk, EXCHANGE, 0)
    assert [record.sequence for record in records] == [1]
    use(disk, lambda wal: write(wal, [2]), end=end)
    assert found(disk) == [1, 2]


def test_what_finds_no_room_is_given_up_when_everything_is_emptied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writing, "RETRY_S", 0.01)
    disk = SimulatedDisk()

    async def reset(wal: WriteAheadLog) -> None:
        await write(wal, [1])
        disk.crowded = errno.ENOSPC
        wal.submitted(order(2))
        await found_crowded(wal)
        for _ in range(2):
            wal.announce()
            await wal.restart()
        while wal.figures()["wal_full"]:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        disk.crowded = None
        await write(wal, [1])

    use(disk, reset, size=1 << 16)
    assert found(disk) == [1]


def test_a_reset_waits_for_no_disk_that_stays_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "RETRY_S", 0.01)
    disk = SimulatedDisk()
    disk.full = errno.ENOSPC

    async def reset(wal: WriteAheadLog) -> None:
        wal.announce()
        await wal.restart()
        with pytest.raises(Unavailable):
            wal.submitted(order(1))
        disk.full = None
        await write(wal, [1])

    use(disk, reset)
    assert found(disk) == [1]


def test_no_more_is_taken_at_once_than_a_segment_holds() -> None:
    disk = SimulatedDisk()
    refused = 0

    async def gather(wal: WriteAheadLog) -> None:
        nonlocal refused
        refused = refused_at(wal, 1)
        await wal.settled()

    use(disk, gather)
    assert found(disk) == list(range(1, refused))


# ---- doing it again ----

commands = st.lists(
    st.tuples(
        st.sampled_from(["order", "order", "order", "cancel"]),
        st.sampled_from(Side),
        st.sampled_from([None, 9, 10, 11]),
        st.integers(1, 9),
    ),
    max_size=40,
)


def open_orders(engine: Engine) -> dict[int, Order]:
    return {order.id: order for order in engine.resting()}


def carry_out(engine: Engine, record: Record) -> list[tuple[int, int, int]]:
    """What a record does: its trades."""
    engine.sweep(record.now_us, 10**9)
    if isinstance(record, Submission):
        trades = engine.submit(record.order()).trades
        return [(trade.id, trade.price, trade.quantity) for trade in trades]
    engine.cancel(open_orders(engine)[int.from_bytes(record.order_id)], record.now_us)
    return []


@PROPERTY
@given(commands)
def test_the_log_gives_the_books_and_the_trades_again(
    given_commands: list[tuple[str, Side, int | None, int]],
) -> None:
    disk, engine, trades = SimulatedDisk(), Engine(), []

    async def trade(wal: WriteAheadLog) -> None:
        for sequence, (command, side, price, quantity) in enumerate(given_commands, start=1):
            if command == "cancel" and engine.open_count:
                order_id = list(open_orders(engine))[quantity % engine.open_count]
                wal.cancelled(sequence, NOW_US + sequence, order_id)
                record: Record = format.cancellation(sequence, NOW_US + sequence, order_id)
            else:
                record = format.submission(order(sequence, side, price, quantity))
                wal.submitted(record.order())
            trades.extend(carry_out(engine, record))
            if quantity > 4:
                await wal.settled()

    use(disk, trade, size=1 << 14)
    again = Engine()
    records, _ = recover(disk, EXCHANGE, 0)
    assert [trade for record in records for trade in carry_out(again, record)] == trades
    again.check()
    assert [(each.id, each.remaining_quantity) for each in again.resting()] == [
        (each.id, each.remaining_quantity) for each in engine.resting()
    ]


# ---- a real directory ----


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    with locked(tmp_path / "log") as found_there:
        yield found_there


def test_a_directory_keeps_segments_for_its_owner_only(directory: Directory) -> None:
    use(directory, lambda wal: write(wal, range(1, 6)))
    assert found(directory) == [1, 2, 3, 4, 5]
    assert directory.path.stat().st_mode & 0o777 == 0o700
    for path in directory.path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    sizes = {path.stat().st_size for path in directory.path.glob("*.wal")}
    assert sizes == {SMALL}


def test_a_directory_is_used_by_one_at_a_time(directory: Directory) -> None:
    with pytest.raises(StartError, match="in use by another exchange"), locked(directory.path):
        pass


def test_what_a_crash_left_half_made_is_removed(tmp_path: Path) -> None:
    (tmp_path / "000000000007.new").write_bytes(b"half")
    with locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_place_that_is_no_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="EXCHANGE_WAL_DIR"), locked(tmp_path / "file"):
        pass


def test_a_segment_that_cannot_be_made_leaves_nothing(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        directory.create(1, SMALL)
    assert [path.name for path in directory.path.iterdir()] == ["lock"]


def test_a_segment_of_an_earlier_life_that_was_never_begun_needs_no_room(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.create(1, SMALL)
    directory.create(2, SMALL)
    directory.path_of(2).write_bytes(b"begun".ljust(SMALL, b"\0"))
    directory.create(3, 2 * SMALL)

    def full(path: str, flags: int) -> int:
        raise OSError(errno.ENOSPC, f"No space left for {path}")

    monkeypatch.setattr(on_disk, "_private", full)
    directory.create(1, SMALL)
    for number in (2, 3):  # another's, or of another size
        with pytest.raises(OSError, match="No space left"):
            directory.create(number, SMALL)


def test_a_write_returns_when_the_disk_itself_has_it(directory: Directory) -> None:
    directory.create(1, SMALL)
    file = SegmentFile(directory.path_of(1))
    try:
        assert fcntl.fcntl(file._file, fcntl.F_GETFL) & os.O_DSYNC
    finally:
        file.close()


def test_a_new_segment_is_on_the_disk_with_its_name_before_it_is_used(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, bool]] = []
    fsync = os.fsync

    def noted(file: int) -> None:
        fsync(file)
        synced.append((os.fstat(file).st_ino, directory.path_of(1).exists()))

    monkeypatch.setattr(os, "fsync", noted)
    directory.create(1, SMALL)
    # First what is in it, under another name, and then the name.
    expected = [(directory.path_of(1).stat().st_ino, False), (directory.path.stat().st_ino, True)]
    assert synced == expected
    directory.create(1, SMALL)
    assert synced == [*expected, expected[1]]


@pytest.mark.parametrize("step", range(7))
def test_a_reset_can_be_finished_by_another_between_any_two_steps_of_one(
    directory: Directory, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    for number in range(1, 4):
        directory.create(number, SMALL)
    needed_id, steps = directory.announce(), itertools.count()

    def interrupted(name: str) -> Callable[..., object]:
        method = getattr(Path, name)

        def run(*arguments: object) -> object:
            if next(steps) == step:
                finish_reset(directory, needed_id)
            return method(*arguments)

        return run

    for name in ("read_text", "glob", "unlink", "rename", "exists"):
        monkeypatch.setattr(Path, name, interrupted(name))
    finish_reset(directory, needed_id)
    assert next(steps) > step, "there was such a step"
    assert (directory.numbers(), directory.log_id(), directory.announced()) == ([], needed_id, None)


# ---- for people ----


def shown(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "common.wal", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_log_is_shown_and_checked_for_people(directory: Directory) -> None:
    async def some(wal: WriteAheadLog) -> None:
        await write(wal, range(1, 4))
        wal.cancelled(4, NOW_US + 4, order(2).id)

    use(directory, some)
    verified = shown("verify", str(directory.path))
    assert (verified.returncode, verified.stderr) == (0, "")
    assert verified.stdout == "whole: 4 records in 2 segments, up to sequence 4\n"
    inspected = shown("inspect", str(directory.path))
    assert inspected.returncode == 0
    assert "bid 5 ABC at 10 cents" in inspected.stdout
    assert "cancel 00000000-0000-0000-0000-000200000000" in inspected.stdout
    assert "not begun" in inspected.stdout


def test_damage_is_shown_with_its_place_and_exit_code_1(directory: Directory) -> None:
    async def twice(wal: WriteAheadLog) -> None:
        await write(wal, [1, 2])
        await write(wal, [3, 4])

    use(directory, twice)
    path = directory.path_of(1)
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + BATCH_HEAD_BYTES] ^= 1
    path.write_bytes(data)
    for action in ("verify", "inspect"):
        done = shown(action, str(directory.path))
        assert done.returncode == 1
        assert f"damaged: segment 1, byte {HEADER_BYTES}: damaged, and valid again" in done.stdout
    assert f"damaged after byte {HEADER_BYTES}" in done.stdout
    assert path.read_bytes() == data, "looking changes nothing"


@pytest.mark.parametrize(
    ("place", "why"), [("nowhere", "nowhere is no directory"), ("tests", "tests holds no log")]
)
def test_a_directory_that_is_no_log_is_one_line(place: str, why: str) -> None:
    done = shown("verify", place)
    assert done.returncode == 2
    assert why in done.stderr


def test_a_log_that_is_being_written_is_not_called_damaged(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def twice(wal: WriteAheadLog) -> None:
        await write(wal, [1, 2])
        await write(wal, [3, 4])

    use(directory, twice)
    # The second write is there before the first, for one who reads at that moment.
    data = bytearray(directory.path_of(1).read_bytes())
    data[HEADER_BYTES + BATCH_HEAD_BYTES] ^= 1
    early, read = iter([bytes(data)]), Directory.read
    monkeypatch.setattr(Directory, "read", lambda self, n: next(early, None) or read(self, n))
    monkeypatch.setattr(people, "AGAIN_S", 0.0)
    scan, last, damage = people.scanned(directory)
    assert damage is None
    assert [record.sequence for record in last] == [1, 2, 3, 4]
    assert sum(segment.records for segment in scan.segments) == 4
