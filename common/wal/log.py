"""Writing a log: all records that have gathered are one write.

A record leaves with those of the same turn of the event loop, or with those that came while the
disk was busy. Only when they come fast a write waits for a moment, so that more share it.

The event loop writes itself as long as the disk is quick, since a thread that shares its core costs
more and is later: it waits for the core and for the interpreter, both before the write and after
it. A slow disk is written by a thread, and the event loop goes on. Nobody is answered in either
case before the disk has it.
"""

import asyncio
import errno
import logging
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice
from queue import SimpleQueue
from threading import Lock, Thread
from typing import NamedTuple, Protocol
from uuid import UUID

from common.errors import Unavailable
from common.model import Order
from common.settling import Settling
from common.waiting import within
from common.wal import format
from common.wal.disk import Disk, File
from common.wal.format import BATCH_HEAD_BYTES, HEADER_BYTES, RECORD_MAX_BYTES, Record

SEGMENT_BYTES = 16 << 20
RETRY_S = 1.0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# What keeps a segment from being prepared for a while, and puts nothing in doubt: no room on the
# disk, and no file or memory left for a process that has many connections.
PASSING = (*NO_ROOM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# Fast is so many records in so many seconds, about seven times B3. What was measured stands in
# docs/performance.md.
BUSY_RECORDS, BUSY_S = 32, 0.005
GATHER_S = 0.002
SYNCS_KEPT = 1000
# The disk is quick if the median of its latest writes is.
QUICK_MS, LATEST = 0.5, 15
# How long the event loop may keep the interpreter while the thread has a write to report.
SWITCH_INTERVAL_S = 0.0002

log = logging.getLogger(__name__)


class Log(Protocol):
    """What the sequencer and the writer ask of a log. ``durability`` is the name of its promise."""

    durability: str

    def submitted(self, order: Order) -> None:
        """An order is accepted. Raises Unavailable, and then it is not."""
        ...

    def cancelled(self, sequence: int, now_us: int, order_id: int) -> None:
        """A cancel is accepted. Raises Unavailable, and then it is not."""
        ...

    def refusal(self) -> str | None:
        """Why no more commands are taken at present, None if they are."""
        ...

    def settling(self) -> Settling | None:
        """The write by which all that has been accepted by now becomes as durable as promised;
        None if it is. Raises Unavailable when nobody can say when."""
        ...

    def absorbed(self, sequence: int) -> None:
        """The database has all up to here."""
        ...

    def announce(self) -> UUID | None:
        """The name that the log will have after ``restart``, None if there is no log; whoever finds
        it still announced empties the log. Raises Unavailable."""
        ...

    async def restart(self) -> None:
        """Everything was emptied; the next sequence number is 1."""
        ...

    def figures(self) -> dict[str, float]:
        """For /health."""
        ...


class NoLog:
    """Promises nothing beyond the next flush."""

    durability = "flush"

    def submitted(self, order: Order) -> None:
        pass

    def cancelled(self, sequence: int, now_us: int, order_id: int) -> None:
        pass

    def refusal(self) -> str | None:
        return None

    def settling(self) -> None:
        pass

    def absorbed(self, sequence: int) -> None:
        pass

    def announce(self) -> None:
        pass

    async def restart(self) -> None:
        pass

    def figures(self) -> dict[str, float]:
        return {}


class Written(NamedTuple):
    """A segment to which nothing is added: it goes when the database has all of it."""

    number: int
    last_sequence: int


class Tail(NamedTuple):
    """The last write of a log, and where it lies."""

    number: int
    offset: int
    data: bytes


class End(NamedTuple):
    """Where a log ends: its last checksum and sequence number, the segments up to there, the
    number after which the next one follows, and the last write, if there was one."""

    chain: int
    sequence: int
    written: Sequence[Written]
    number: int
    tail: Tail | None = None


class Job(NamedTuple):
    """What to write, and where."""

    file: File
    offset: int
    data: bytes


class WriteAheadLog:
    """A log that goes on behind what was found on the disk, in a new segment.

    ``on_failure`` is called when the disk has refused a write: what was in it may be there or not,
    so nothing more is written. It should end the process; if it does not, those who wait get the
    error.

    Where a write found no room, which it can in a segment that has been prepared if the file system
    compresses or copies on write, it is tried again until it does. Its commands have been carried
    out, so they cannot be refused any more, and whoever sent them waits; others are refused.
    """

    durability = "wal"

    def __init__(
        self,
        disk: Disk,
        *,
        exchange: bytes,
        end: End,
        on_failure: Callable[[Exception], None],
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._disk = disk
        self._exchange = exchange
        self._chain = end.chain
        self._written = deque(end.written)
        self._on_failure = on_failure
        self._size = segment_bytes
        # The present segment; none is begun before there is a record for it.
        self._file: File | None = None
        self._number = end.number
        self._offset = segment_bytes
        self._last_sequence = end.sequence
        # One that was given up while it was being written.
        self._dropped: File | None = None
        # The one that is ready to be begun. While it is missing, the room in this one is all.
        self._next: File | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._gathering: list[Record] = []
        self._next_write = Settling()
        # The one that is under way, if one is, and whether it has found no room so far.
        self._write_under_way: Settling | None = None
        self._lacks_room = False
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        # Segments that may go, oldest first, and what removes them.
        self._absorbed: deque[int] = deque()
        self._removal: asyncio.Future[None] | None = None
        self._removing = Lock()
        # The one that could not be removed: it is tried again after each flush, and told once.
        self._stuck: int | None = None
        self._failed = False
        # When the latest records came, by the clock of the event loop.
        self._came_s: deque[float] = deque([-math.inf] * BUSY_RECORDS, maxlen=BUSY_RECORDS)
        self._records = 0
        self._sync_count = 0
        self._sync_ms: deque[float] = deque(maxlen=SYNCS_KEPT)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["WriteAheadLog"]:
        """Write until the block ends, and then all that is left. Raises OSError at the start."""
        self._loop = asyncio.get_running_loop()
        try:
            self._next = await asyncio.to_thread(self._prepare, self._number + 1)
        except OSError as error:
            if error.errno not in PASSING:
                raise
            # What the database takes over from the log makes room again.
            self._preparing = self._loop.create_task(self._keep_prepared())
        interval_s = sys.getswitchinterval()
        sys.setswitchinterval(min(interval_s, SWITCH_INTERVAL_S))
        thread = Thread(target=self._work, name="write-ahead log", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            sys.setswitchinterval(interval_s)
            with suppress(OSError, Unavailable):
                await self.settled()
            self._stopping.set()
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)
            await self.prepared()
            if self._removal is not None:
                await self._removal
            for file in (self._file, self._next):
                if file is not None:
                    file.close()

    # ---- what the sequencer and the writer ask ----

    def submitted(self, order: Order) -> None:
        self._gather(format.submission(order))

    def cancelled(self, sequence: int, now_us: int, order_id: int) -> None:
        self._gather(format.cancellation(sequence, now_us, order_id))

    def refusal(self) -> str | None:
        return "the disk of the log takes no more" if self._failed or self._is_full() else None

    def settling(self) -> Settling | None:
        if self._failed:
            raise Unavailable("the log has failed")
        if self._lacks_room:
            raise Unavailable("the disk of the log is full; retry later")
        return self._next_write if self._gathering else self._write_under_way

    async def settled(self) -> None:
        """Wait until all that has been accepted by now is durable. Raises as ``settling`` does."""
        if (settling := self.settling()) is not None:
            await settling.wait()

    def absorbed(self, sequence: int) -> None:
        while self._written and self._written[0].last_sequence <= sequence:
            self._absorbed.append(self._written.popleft().number)
        if self._absorbed and (self._removal is None or self._removal.done()):
            self._removal = self._loop.run_in_executor(None, self._remove_absorbed)

    def announce(self) -> UUID:
        try:
            return self._disk.announce()
        except OSError as error:
            raise Unavailable(
                f"the log cannot begin again: {error.strerror}; retry later"
            ) from None

    async def restart(self) -> None:
        """Deletes all segments at once, which stops the event loop for a moment."""
        self._gathering.clear()
        ended, self._next_write = self._next_write, Settling()
        ended.end()
        if self._file is not None:
            self._written.append(Written(self._number, 0))
        self._absorbed.extend(segment.number for segment in self._written)
        self._written.clear()
        self._remove_absorbed()
        try:
            if self._absorbed:
                raise OSError(errno.EBUSY, f"segment {self._absorbed[0]} cannot be removed")
            self._disk.begin_again()
        except OSError as error:
            # What is written next would stand behind what was emptied.
            self._fail(error)
            return
        if self._write_under_way is None:
            self._close()
        elif self._file is not None:
            self._dropped, self._file = self._file, None
        self._offset = self._size
        self._chain = self._last_sequence = 0
        if self._preparing is not None:
            # So long that it is tried again with the room that was made. A disk that stays full
            # must not hold up who resets, and with that the database.
            with suppress(TimeoutError):
                await within(2 * RETRY_S, self._preparing)

    async def prepared(self) -> None:
        """Wait until the segment after the present one is ready."""
        if self._preparing is not None:
            await self._preparing

    def figures(self) -> dict[str, float]:
        sync_ms = self._sync_ms or [0.0]
        return {
            "wal_records": self._records,
            "wal_syncs": self._sync_count,
            "wal_records_per_sync": round(self._records / max(1, self._sync_count), 3),
            "wal_sync_ms_p50": round(statistics.median(sync_ms), 3),
            "wal_sync_ms_max": round(max(sync_ms), 3),
            "wal_segments": len(self._written) + (self._file is not None),
            "wal_full": int(self._is_full()),
        }

    # ---- on the event loop ----

    def _gather(self, record: Record) -> None:
        refusal = self.refusal()
        if refusal is not None:
            raise Unavailable(f"{refusal}; retry later")
        self._gathering.append(record)
        self._came_s.append(self._loop.time())
        if len(self._gathering) == 1 and self._write_under_way is None:
            self._plan()

    def _plan(self) -> None:
        """Have what gathers written, in a moment if more is likely to come by then."""
        if self._loop.time() - self._came_s[0] < BUSY_S:
            self._loop.call_later(GATHER_S, self._write)
        else:
            self._loop.call_soon(self._write)

    def _is_full(self) -> bool:
        """Whether one more record might find no room."""
        if self._lacks_room:
            return True
        most = BATCH_HEAD_BYTES + RECORD_MAX_BYTES * (len(self._gathering) + 1)
        return most > self._size - (HEADER_BYTES if self._next else self._offset)

    def _is_quick(self) -> bool:
        latest_ms = [*islice(reversed(self._sync_ms), LATEST)] or [0.0]
        return statistics.median(latest_ms) <= QUICK_MS

    def _write(self) -> None:
        """Write what has gathered, unless a write is under way or there is nothing."""
        if self._write_under_way is not None or not self._gathering:
            return
        records, self._gathering = self._gathering, []
        self._write_under_way, self._next_write = self._next_write, Settling()
        payload = format.payload(records)
        head = b""
        if self._offset + BATCH_HEAD_BYTES + len(payload) > self._size:
            head = self._begin_segment(records[0].sequence - 1)
        self._last_sequence = records[-1].sequence
        body, self._chain = format.batch(payload, self._last_sequence, self._chain)
        data = head + body
        assert self._file is not None, "there is room, see _is_full"
        job = Job(self._file, self._offset, data)
        self._offset += len(data)
        self._records += len(records)
        self._carry_out(job)

    def _carry_out(self, job: Job) -> None:
        if self._is_quick():
            self._done(job, *_carried_out(job))
        else:
            self._jobs.put(job)

    def _try_again(self, job: Job) -> None:
        if not self._stopping.is_set():
            self._carry_out(job)

    def _begin_segment(self, after_sequence: int) -> bytes:
        """Go on in the segment that is ready; its header."""
        if self._file is not None:
            self._written.append(Written(self._number, self._last_sequence))
            self._close()
        self._file, self._next = self._next, None
        self._number += 1
        self._offset = 0
        self._preparing = self._loop.create_task(self._keep_prepared())
        head, self._chain = format.header(self._exchange, after_sequence, self._chain)
        return head

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _done(self, job: Job, took_ms: float, error: Exception | None) -> None:
        """The disk has it, or something failed."""
        if self._dropped is not None:
            self._dropped.close()
            self._dropped = error = None  # the segment is gone, and all that was in it
        self._lacks_room = isinstance(error, OSError) and error.errno in NO_ROOM
        if self._lacks_room:
            # To sync again would not do, since the system may have forgotten what it could not
            # write. The same bytes at the same place are right whatever the disk has of them.
            log.warning("the log cannot be written (%s); trying again", error)
            self._loop.call_later(RETRY_S, self._try_again, job)
            return
        if error is not None:
            self._fail(error)
            return
        ended, self._write_under_way = self._write_under_way, None
        self._sync_count += 1
        self._sync_ms.append(took_ms)
        if self._gathering:
            self._plan()
        if ended is not None:
            ended.end()

    async def _keep_prepared(self) -> None:
        """Have the segment after this one ready before it is needed, as soon as the disk allows."""
        while not self._stopping.is_set():
            try:
                self._next = await asyncio.to_thread(self._prepare, self._number + 1)
            except OSError as error:
                if error.errno not in PASSING:
                    self._fail(error)
                    return
                log.warning("the log cannot grow (%s); trying again", error.strerror)
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S):
                        await self._stopping.wait()
            else:
                return

    def _fail(self, error: Exception) -> None:
        """Only once: a write and the next segment may both find the disk broken."""
        if self._failed:
            return
        self._failed = True
        self._on_failure(error)
        self._gathering.clear()
        under_way, self._write_under_way = self._write_under_way, None
        for settling in (under_way, self._next_write):
            if settling is not None:
                settling.end(error)

    # ---- on other threads ----

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._loop.call_soon_threadsafe(self._done, job, *_carried_out(job))

    def _prepare(self, number: int) -> File:
        self._disk.create(number, self._size)
        return self._disk.open(number)

    def _remove_absorbed(self) -> None:
        """One after the other, so that no crash leaves a log with a segment missing."""
        with self._removing:
            while self._absorbed and self._remove(self._absorbed[0]):
                self._absorbed.popleft()

    def _remove(self, number: int) -> bool:
        """Whether it is gone."""
        try:
            self._disk.remove(number)
        except FileNotFoundError:
            pass
        except OSError as error:
            if number != self._stuck:
                log.warning("segment %d of the log cannot be removed: %s", number, error.strerror)
            self._stuck = number
            return False
        return True


def _carried_out(job: Job) -> tuple[float, Exception | None]:
    """How many ms the write took, and what went wrong."""
    failure: Exception | None = None
    started_s = time.perf_counter()
    try:
        job.file.write(job.offset, job.data)
    except Exception as error:  # whatever it is, those who wait must hear of it
        failure = error
    return (time.perf_counter() - started_s) * 1000, failure
