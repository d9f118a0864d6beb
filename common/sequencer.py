"""The one place where commands get what makes them replayable: sequence number, id and time."""

from common.ids import Clock
from common.model import NewOrder, Order


class Sequencer:
    """Stamps commands in the order in which they are accepted.

    Everything is given from memory and without waiting, so this order is the order of the trades.
    """

    def __init__(self, clock: Clock, sequence: int) -> None:
        self._clock = clock
        self.sequence = sequence

    def now_us(self) -> int:
        """Microseconds since the epoch, never going backwards."""
        return self._clock.now_us()

    def new_id(self) -> int:
        """A new id for what is no order."""
        return self._clock.new_id()

    def advance(self) -> int:
        """The number of the next command."""
        self.sequence += 1
        return self.sequence

    def accept(self, new_order: NewOrder, broker_id: int, now_us: int) -> Order:
        """The order that enters the engine."""
        return new_order.accepted(
            order_id=self._clock.new_id(),
            sequence=self.advance(),
            broker_id=broker_id,
            now_us=now_us,
        )
