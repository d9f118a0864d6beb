"""The flush queue of the cases that match in memory.

What has changed gathers here, one entry an order however often it changes. Every few milliseconds
it goes to PostgreSQL in one transaction, in one round trip, together with the sequence number up to
which the data now reaches. One flush is in flight; the next takes what has gathered meanwhile. If
that is much, it is made ready in pieces as they fill, which follow each other without a pause. A
flush that fails is tried again, the very same one, until it succeeds: nothing is skipped, and a
number in the database tells a lost reply from a lost commit, so nothing is applied twice.
"""

import asyncio
import logging
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import psycopg

from common.changes import Changes
from common.channel import Channel, Question, statement_of
from common.database import WRITER_LOCK, conninfo
from common.errors import Displaced, Overloaded, StartError, Unavailable, one_line
from common.model import Order, Trade
from common.queries import state
from common.waiting import within
from common.webhooks import Notice

RETRY_MIN_S = 0.05
RETRY_MAX_S = 2.0
TAKEOVER_PATIENCE_S = 5.0
# While the oldest change has waited for so much longer than until the next flush, nobody is kept
# who would wait for a younger one.
LATE_MAX_S = 0.5
# To empty large tables takes longer than a flush may.
EMPTYING_MAX_S = 30.0
AGES_KEPT = 1000  # half a minute of flushes
# So many changes at most are made ready at once. That costs 1.3 us each, in which the event loop
# answers nobody, and all that gathers while a flush is slow would cost it in one piece.
FLUSH_MAX = 1000
# With so many changes waiting, those that could also come later do.
KEPT_UP_MAX = 4 * FLUSH_MAX
_LOCK = statement_of(f"SELECT pg_try_advisory_lock({WRITER_LOCK})")

# How a session ends, or is not to be had.
_LOST = (psycopg.Error, OSError, StartError)
# The generation of a database, how far its data reaches, the number of the flush that wrote it.
_State = tuple[int, int, int]

log = logging.getLogger(__name__)


class Batch:
    """What one flush takes: the changes, since when they wait, by our clock and by that of the
    commands, and whether they are stored."""

    __slots__ = ("changes", "since_s", "since_us", "stored")

    def __init__(self) -> None:
        self.changes = Changes()
        self.since_s: float | None = None
        self.since_us: int | None = None
        self.stored = asyncio.Event()

    def age_s(self) -> float:
        """How long the oldest change in it has waited."""
        return 0.0 if self.since_s is None else time.monotonic() - self.since_s


@dataclass(frozen=True, slots=True)
class Flush:
    """A batch as it was at one moment: statements with parameters, and what follows from them."""

    batch: Batch
    sequence: int
    statements: list[Question]
    closed: list[Order]

    @property
    def notices(self) -> list[Notice]:
        return self.batch.changes.notices


class Writer:
    """Gathers changes and writes them behind the replies."""

    def __init__(
        self,
        url: str,
        *,
        flush_interval_s: float,
        pending_max: int,
        patience_s: float,
    ) -> None:
        self._conninfo = conninfo(url)
        self._interval_s = flush_interval_s
        self._pending_max = pending_max
        self._patience_s = patience_s
        self._batch = Batch()
        # Ready to be written, oldest first; the first may be in flight.
        self._flushes: deque[Flush] = deque()
        self._taken = 0  # changes in them, because pending() is asked for every order
        self._channel: Channel | None = None
        self._stopping = asyncio.Event()
        # Held by whoever writes, one at a time.
        self._idle = asyncio.Lock()
        # Not before this, where a session was not to be had.
        self._connect_at_s = 0.0
        self.sequence = 0
        self.flushed_sequence = 0
        self._generation = 0
        self._flush_number = 0
        self._flush_ms = 0.0
        self._loop_lag_ms = 0.0
        self._failures = 0
        # How old the oldest change of each of the last flushes was when it was stored.
        self._write_ages_ms: deque[float] = deque(maxlen=AGES_KEPT)

    def admit(self) -> None:
        """Raise Overloaded when as many changes wait for the database as may."""
        refusal = self.refusal()
        if refusal is not None:
            raise Overloaded(f"{refusal}; retry later")

    def refusal(self) -> str | None:
        """Why no new order is taken at present, None if one is."""
        full = self.pending() >= self._pending_max
        return "too many changes wait for the database" if full else None

    def has_stored(self, sequence: int) -> bool:
        """Whether all commands are in the database, and it reaches so far."""
        return not self.pending() and self.flushed_sequence >= max(self.sequence, sequence)

    def keeps_up(self) -> bool:
        """Whether there is room for changes that nobody waits for."""
        # What they take of a bound that is lower is taken from new orders.
        return self.pending() < min(KEPT_UP_MAX, max(1, self._pending_max // 2))

    def pending(self) -> int:
        """Changes that are not in the database yet."""
        return len(self._batch.changes) + self._taken

    def record(
        self,
        sequence: int,
        order: Order,
        trades: Sequence[Trade],
        makers: Iterable[Order],
        notices: Iterable[Notice],
    ) -> None:
        """A new order and all that it did."""
        changes = self._gathering(sequence, order.created_at_us)
        changes.add(order, trades, makers)
        changes.notices.extend(notices)
        self._cut()

    def record_closed(self, sequence: int, orders: Iterable[Order], now_us: int) -> None:
        """Orders that were cancelled now or had expired by now."""
        self._gathering(sequence, now_us).add_changed(orders)
        self._cut()

    def _gathering(self, sequence: int, now_us: int) -> Changes:
        """The changes to add to, which wait from now on; no later one was made before then."""
        self.sequence = sequence
        if self._batch.since_s is None:
            self._batch.since_s = time.monotonic()
            self._batch.since_us = now_us
        return self._batch.changes

    def _cut(self) -> None:
        """Make ready what is much.

        Only behind a command: the one that is being recorded has changed its orders already, and
        some may be in the batch. Cut before it, the batch would hold half of what it did.
        """
        if len(self._batch.changes) >= FLUSH_MAX:
            self._make_ready()

    async def until_stored(self, order_id: int) -> None:
        """Wait until all that is known of the order is in the database. Raises Unavailable."""
        for batch in (self._batch, *(flush.batch for flush in reversed(self._flushes))):
            if order_id in batch.changes:
                if self.age_s() > self._interval_s + LATE_MAX_S:
                    raise _too_late()
                try:
                    await within(self._patience_s, batch.stored.wait())
                except TimeoutError:
                    raise _too_late() from None
                return

    def known_until_us(self, now_us: int) -> int:
        """Until when all that was done is in the database."""
        since_us = self._oldest().since_us
        return now_us if since_us is None else since_us

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Writer"]:
        """Hold the database for this process alone. Raises StartError when another one has it."""
        self._channel = await self._connect(time.monotonic() + TAKEOVER_PATIENCE_S, is_first=True)
        try:
            yield self
        finally:
            self._disconnect()

    @asynccontextmanager
    async def flushing(
        self,
        on_saved: Callable[[Flush], None],
        drain_s: float,
        on_failure: Callable[[str, BaseException], object] = lambda what, error: None,
    ) -> AsyncIterator[None]:
        """Flush regularly, each time before ``on_saved(flush)``; at the end all that is left.

        ``on_failure`` is called with what is wrong as soon as nothing will be flushed any more; it
        should end the process. Raises StartError with the number of changes left when the end takes
        more than ``drain_s``.
        """
        self._stopping.clear()
        task = asyncio.create_task(self._run(on_saved))

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                on_failure("nothing can be flushed any more", error)

        task.add_done_callback(ended)
        try:
            yield
        finally:
            self._stopping.set()
            try:
                async with asyncio.timeout(drain_s):
                    await task
            except TimeoutError:
                if self.pending():  # else it only looked for a database that was lost
                    raise StartError(
                        f"the database did not take the last {self.pending()} changes within "
                        f"{drain_s:g} s (EXCHANGE_DRAIN_S): without a log (wal) they are lost"
                    ) from None

    async def commit(self, *statements: Question) -> None:
        """Write something that is no flush, in the session that keeps others out.

        Raises Unavailable; it may have been written then.
        """
        async with self._alone():
            await self._commit(lambda: statements, self._patience_s)

    @asynccontextmanager
    async def emptied(self, statements: Callable[[], Sequence[Question]]) -> AsyncIterator[None]:
        """Empty the database, by statements that begin a new generation, and drop what has
        gathered; in the block nothing is written.

        They are asked for when the database is known to be as we believe. Raises Unavailable. If it
        was emptied all the same, the next look at it ends the process.
        """
        async with self._alone():
            await self._commit(statements, EMPTYING_MAX_S)
            self._generation += 1
            for batch in (self._batch, *(flush.batch for flush in self._flushes)):
                batch.stored.set()
            self._batch = Batch()
            self._flushes.clear()
            self._taken = 0
            self.sequence = self.flushed_sequence = 0
            yield

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Between two flushes. Raises Unavailable when the one in flight takes too long."""
        taking = asyncio.ensure_future(self._idle.acquire())
        try:
            try:
                await within(self._patience_s, taking)
            except TimeoutError:
                raise _too_late() from None
            yield
        finally:
            # Who was cancelled while waiting may have been given it in the same moment.
            if not taking.cancel() and not taking.cancelled():
                self._idle.release()

    async def _commit(
        self, statements: Callable[[], Sequence[Question]], patience_s: float
    ) -> None:
        try:
            channel = await within(self._patience_s, self._session())
            await within(patience_s, channel.finish(*statements()))
        except BaseException as error:
            # Nobody knows what became of it, so the next session looks.
            self._disconnect()
            if isinstance(error, TimeoutError | Displaced | psycopg.Error | OSError | StartError):
                raise _too_late() from error
            raise

    async def _run(self, on_saved: Callable[[Flush], None]) -> None:
        due_s = time.monotonic()
        while not self._stopping.is_set() or self.pending():
            if not self._flushes:
                due_s = max(due_s + self._interval_s, time.monotonic())
                with suppress(TimeoutError):
                    async with asyncio.timeout(due_s - time.monotonic()):
                        await self._stopping.wait()
                if not self._stopping.is_set():
                    self._loop_lag_ms = max(0.0, time.monotonic() - due_s) * 1000
            async with self._idle:
                if self.pending():
                    on_saved(await self._flush())
                else:
                    await self._keep_session()

    async def _flush(self) -> Flush:
        if not self._flushes:
            self._make_ready()
        flush = self._flushes[0]
        await self._write_until_done(flush)
        self._flushes.popleft()
        self._taken -= len(flush.batch.changes)
        self._write_ages_ms.append(flush.batch.age_s() * 1000)
        flush.batch.stored.set()
        return flush

    def _make_ready(self) -> None:
        """The batch as it is now becomes a flush; a new one gathers from here."""
        batch, self._batch = self._batch, Batch()
        self._taken += len(batch.changes)
        flush = Flush(
            batch=batch,
            sequence=self.sequence,
            statements=batch.changes.statements(),
            closed=batch.changes.closed(),
        )
        self._flushes.append(flush)

    async def _write_until_done(self, flush: Flush) -> None:
        """Write one flush, however long the database is gone meanwhile."""
        pause_s, number = RETRY_MIN_S, self._flush_number + 1
        while True:
            started_s = time.monotonic()
            try:
                await self._write_once(await self._session(), flush, number)
            except _LOST as error:
                self._failures += 1
                log.warning("flush %d failed, trying again: %s", number, one_line(error))
                self._disconnect()
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)
                continue
            self._flush_ms = (time.monotonic() - started_s) * 1000
            self._flush_number = number
            self.flushed_sequence = flush.sequence
            self._failures = 0
            return

    async def _write_once(self, channel: Channel, flush: Flush, number: int) -> None:
        if self._failures:
            stored = await _stored_state(channel)
            self._check(stored)
            if stored != self._state():
                return  # the commit came through, only its reply was lost
        reached = {"sequence": flush.sequence, "number": number}
        await channel.finish(*flush.statements, (state.WRITE_STATE, reached))

    async def _keep_session(self) -> None:
        """See also where nothing is to be written that the session is lost, and to whom."""
        if time.monotonic() < self._connect_at_s:
            return
        try:
            await self._session()
        except _LOST as error:
            log.warning("the database is lost, trying again: %s", one_line(error))
            self._connect_at_s = time.monotonic() + RETRY_MAX_S / 4

    async def _session(self) -> Channel:
        """The session that keeps others out, a new one where it was lost.

        Raises what ``_LOST`` names, and Displaced when another exchange was here meanwhile.
        """
        if self._channel is not None and self._channel.closed is not None:
            self._disconnect()
        if self._channel is None:
            self._channel = await self._connect()
        return self._channel

    async def _connect(self, patient_until_s: float = 0.0, *, is_first: bool = False) -> Channel:
        """A connection that holds the writer's lock, so that no second exchange writes here."""
        channel = await Channel.open(self._conninfo)
        try:
            while not await _has_lock(channel):
                if not is_first:
                    self._check(await _stored_state(channel))
                if time.monotonic() > patient_until_s:
                    raise StartError(
                        "another exchange that matches in memory uses this database: "
                        "stop it, or name another database in EXCHANGE_DATABASE_URL"
                    )
                await asyncio.sleep(RETRY_MIN_S)
            if is_first:
                await channel.finish(
                    (state.FLUSH_BEHIND_NUMBERED, {}), (state.BEGIN_GENERATION, {})
                )
            stored = await _stored_state(channel)
            if not is_first:
                self._check(stored)
        except BaseException:
            channel.close()
            raise
        if is_first:
            self._generation, self.flushed_sequence, self._flush_number = stored
            self.sequence = self.flushed_sequence
        return channel

    def _state(self) -> _State:
        """What the database holds if nobody but us has written there."""
        return self._generation, self.flushed_sequence, self._flush_number

    def _check(self, stored: _State) -> None:
        """Raise Displaced if it holds something else; a flush may have come through unheard."""
        known = [self._state()]
        if self._flushes:
            known.append((self._generation, self._flushes[0].sequence, self._flush_number + 1))
        if stored not in known:
            raise Displaced("another exchange has used this database meanwhile")

    def _disconnect(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._channel = None

    def age_s(self) -> float:
        """How long the oldest change that is not in the database has waited."""
        return self._oldest().age_s()

    def _oldest(self) -> Batch:
        return self._flushes[0].batch if self._flushes else self._batch

    def figures(self) -> dict[str, float]:
        """For /health."""
        return {
            "sequence": self.sequence,
            "flushed_sequence": self.flushed_sequence,
            "flush_pending": self.pending(),
            "flush_age_ms": round(self.age_s() * 1000, 3),
            "flush_age_ms_max": round(max(self._write_ages_ms, default=0.0), 3),
            "flush_last_ms": round(self._flush_ms, 3),
            "flush_failures": self._failures,
            "flushes": self._flush_number,
            "loop_lag_ms": round(self._loop_lag_ms, 3),
        }

    def staleness(self) -> dict[str, float]:
        """For /health of an exchange that reads from the database: how late reads see a change.

        For each of the last flushes the time from its oldest acknowledged change until its commit
        was confirmed, which is when reads see it; milliseconds. All other changes waited less.
        """
        ages_ms = self._write_ages_ms or [0.0]
        return {
            "staleness_ms_p50": round(statistics.median(ages_ms), 3),
            "staleness_ms_max": round(max(ages_ms), 3),
        }


def _too_late() -> Unavailable:
    return Unavailable("the database does not take changes in time; retry later")


async def _has_lock(channel: Channel) -> bool:
    [[[has_lock]]] = await channel.finish((_LOCK, {}))
    return bool(has_lock)


async def _stored_state(channel: Channel) -> _State:
    [[(generation, sequence, number)]] = await channel.finish((state.READ_STATE, {}))
    return generation, sequence, number
