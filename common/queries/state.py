"""The state of the exchange: how far the data reaches, which log it needs, what a reset does."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import bindparam, literal_column, select, update

from common.channel import Question, compiled, statement_of
from common.tables import exchange_state

READ_STATE = compiled(
    select(
        exchange_state.c.generation,
        exchange_state.c.flushed_sequence,
        exchange_state.c.flush_number,
    )
)
WRITE_STATE = compiled(
    update(exchange_state).values(
        flushed_sequence=bindparam("sequence"), flush_number=bindparam("number")
    )
)
_next_generation = exchange_state.c.generation + literal_column("1")
BEGIN_GENERATION = compiled(update(exchange_state).values(generation=_next_generation))
LOG_IDS = compiled(select(exchange_state.c.exchange_id, exchange_state.c.log_id))
NEED_LOG = compiled(update(exchange_state).values(log_id=bindparam("log")))
NEED_NO_LOG = compiled(
    update(exchange_state)
    .where(exchange_state.c.log_id == bindparam("log"))
    .values(log_id=literal_column("NULL"))
)

# casev1 numbers orders by a sequence of the database, the others go on from what is flushed. Each
# begins behind the other, so that a database may change its case and older orders still go first.
# To be done by who keeps the other out; processes of casev1, which do not, take turns.
TAKE_TURNS = statement_of("SELECT pg_advisory_xact_lock(hashtext('exchange numbers'))")
NUMBER_BEHIND_FLUSHED = statement_of(
    "SELECT setval('order_sequence', flushed_sequence) FROM exchange_state, order_sequence"
    " WHERE flushed_sequence > CASE WHEN is_called THEN last_value ELSE 0 END"
)
FLUSH_BEHIND_NUMBERED = statement_of(
    # setval, since only what is set is there again as it was after a crash of PostgreSQL.
    "UPDATE exchange_state"
    " SET flushed_sequence = (SELECT setval('order_sequence', last_value) FROM order_sequence)"
    " WHERE flushed_sequence < (SELECT last_value FROM order_sequence WHERE is_called)"
)
# Nothing is behind it where orders are numbered in the database.
LAST_SEQUENCE = statement_of(
    "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM order_sequence"
)

_EMPTY: tuple[Question, ...] = (
    # Locked in the order in which most requests come to them.
    (statement_of("TRUNCATE brokers, client_orders, orders, trades, balances"), {}),
    (statement_of("ALTER SEQUENCE order_sequence RESTART"), {}),
)
_BEGIN_AGAIN = compiled(
    update(exchange_state).values(
        generation=_next_generation, flushed_sequence=literal_column("0"), log_id=bindparam("log")
    )
)


def empty_everything(log_id: UUID | None) -> Sequence[Question]:
    """A transaction behind which the log of this name is needed, if one is."""
    return *_EMPTY, (_BEGIN_AGAIN, {"log": log_id and log_id.hex})
