"""The one place where commands get what makes them replayable: sequence number, id and time."""

from uuid import UUID

from common.ids import Clock
from common.model import NewOrder, Order
from common.settling import Settling
from common.wal.log import Log


class Sequencer:
    """Stamps commands in the order in which they are accepted.

    Everything is given from memory and without waiting, so this order is the order of the trades.
    """

    def __init__(self, clock: Clock, sequence: int, log: Log) -> None:
        self._clock = clock
        self._log = log
        self.sequence = sequence
        self.durability = log.durability

    def now_us(self) -> int:
        """Microseconds since the epoch, never going backwards."""
        return self._clock.now_us()

    def new_id(self) -> int:
        """A new id for what is no order."""
        return self._clock.new_id()

    def accept(self, new_order: NewOrder, broker_id: int, now_us: int) -> Order:
        """The order that enters the engine. Raises Unavailable when the log cannot take it."""
        order = new_order.accepted(
            order_id=self._clock.new_id(),
            sequence=self.sequence + 1,
            broker_id=broker_id,
            now_us=now_us,
        )
        self._log.submitted(order)
        self.sequence += 1
        return order

    def cancel(self, order: Order, now_us: int) -> int:
        """The sequence number of a cancel. Raises Unavailable when the log cannot take it."""
        self._log.cancelled(self.sequence + 1, now_us, order.id)
        self.sequence += 1
        return self.sequence

    def refusal(self) -> str | None:
        """Why no command is accepted at present, None if one is."""
        return self._log.refusal()

    def repeat(self, sequence: int, now_us: int, order_id: int) -> None:
        """Go on behind a command of the log, which was stamped before a crash."""
        self.sequence = sequence
        self._clock.advance(now_us, order_id)

    def announce_log(self) -> UUID | None:
        """By which name the log will go once everything is emptied, None if there is none; the
        database must hear of it in the same transaction. Raises Unavailable."""
        return self._log.announce()

    async def restart(self) -> None:
        """Begin again, because everything was emptied."""
        self.sequence = 0
        await self._log.restart()

    def settling(self) -> Settling | None:
        """The write by which all that has been accepted by now becomes as durable as
        ``durability`` promises; None if it is. Raises Unavailable when nobody can say when."""
        return self._log.settling()

    def figures(self) -> dict[str, float]:
        """For /health."""
        return self._log.figures()
