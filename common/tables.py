"""The database: one schema for the three cases.

A database may change its case after a stop: the numbers of its orders, by which the older of two at
one price goes first, go on (``common/queries/state.py``).

Integer cents and shares as in ``common/model.py``. An order is open while ``close_reason`` is null:
there is no second column that could disagree with it.

There are no foreign keys: each inserted row would take a shared lock on its broker's row, one hot
row for all that a broker does at the same time. The audit of the harness checks the references.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    LargeBinary,
    MetaData,
    Numeric,
    Sequence,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

# Raised whenever a table changes; a database of another version is refused at start.
SCHEMA_VERSION = 6

metadata = MetaData()

# Numbers the orders of the case that matches in the database.
order_sequence = Sequence("order_sequence", metadata=metadata)

# One row. How far the data reaches, and the number of the write with which it came, by which a
# writer that lost its connection sees whether the commit came through. Each start, and whatever
# empties the tables, begins a new generation, by which it sees that another has been here.
exchange_state = Table(
    "exchange_state",
    metadata,
    Column("only_row", SmallInteger, CheckConstraint("only_row = 1"), primary_key=True),
    Column("schema_version", SmallInteger, nullable=False),
    # By which a write-ahead log knows that it belongs to this database.
    Column("exchange_id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    # The log that may hold more than this database; none after a stop that has stored everything.
    Column("log_id", Uuid),
    Column("generation", BigInteger, nullable=False),
    Column("flushed_sequence", BigInteger, nullable=False),
    Column("flush_number", BigInteger, nullable=False),
)

brokers = Table(
    "brokers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("webhook_url", Text),
    Column("key_hash", LargeBinary, nullable=False, unique=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
)

orders = Table(
    "orders",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("broker_id", Uuid, nullable=False),
    Column("document_number", Text, nullable=False),
    Column("side", Text, CheckConstraint("side IN ('bid', 'ask')"), nullable=False),
    Column(
        "order_type", Text, CheckConstraint("order_type IN ('limit', 'market')"), nullable=False
    ),
    Column("symbol", Text, nullable=False),
    Column("price", BigInteger),
    Column("quantity", BigInteger, nullable=False),
    Column("remaining_quantity", BigInteger, nullable=False),
    Column(
        "close_reason",
        Text,
        CheckConstraint("close_reason IN ('filled', 'cancelled', 'expired', 'unfilled')"),
    ),
    Column("valid_until", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("closed_at", DateTime(timezone=True)),
    CheckConstraint("remaining_quantity BETWEEN 0 AND quantity", name="remaining_within_quantity"),
    CheckConstraint("(order_type = 'limit') = (price IS NOT NULL)", name="limit_has_price"),
    CheckConstraint("(order_type = 'limit') = (valid_until IS NOT NULL)", name="limit_has_end"),
    CheckConstraint("(close_reason IS NULL) = (closed_at IS NULL)", name="closed_has_instant"),
    CheckConstraint(
        "(close_reason IS NOT DISTINCT FROM 'filled') = (remaining_quantity = 0)",
        name="filled_means_nothing_left",
    ),
    Index("orders_of_broker", "broker_id", "id"),
    # The same orders as in orders_open, said in other words: a planner without statistics would
    # take this small index for whatever wants an open order, and read all of it.
    Index("orders_ending", "valid_until", postgresql_where=text("closed_at IS NULL")),
    Index(
        "orders_open",
        "symbol",
        "side",
        "price",
        "sequence",
        postgresql_where=text("close_reason IS NULL"),
    ),
    # For who lists what is open among a history of any length; said in a third way for that reason.
    Index(
        "orders_open_of_broker",
        "broker_id",
        "id",
        postgresql_where=text("coalesce(close_reason, 'open') = 'open'"),
    ),
    # Room in each page, so that a partial fill can stay beside the row it replaces (a HOT update).
    postgresql_with={"fillfactor": 80},
)

# Which order a broker's own id names: the latest, if it used the id again after the window.
client_orders = Table(
    "client_orders",
    metadata,
    Column("broker_id", Uuid, primary_key=True),
    Column("client_order_id", Text, primary_key=True),
    Column("order_id", Uuid, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Index("client_orders_by_age", "created_at"),
)

trades = Table(
    "trades",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("price", BigInteger, nullable=False),
    Column("quantity", BigInteger, CheckConstraint("quantity > 0"), nullable=False),
    Column("taker_side", Text, CheckConstraint("taker_side IN ('bid', 'ask')"), nullable=False),
    Column("maker_order_id", Uuid, nullable=False),
    Column("taker_order_id", Uuid, nullable=False),
    Column("maker_broker_id", Uuid, nullable=False),
    Column("taker_broker_id", Uuid, nullable=False),
    Column("executed_at", DateTime(timezone=True), nullable=False),
    Index("trades_of_maker", "maker_order_id"),
    Index("trades_of_taker", "taker_order_id"),
    Index("trades_of_symbol", "symbol", "sequence", "id"),
)

# Cash per broker and symbol, not per broker: two symbols then never wait for one row, and a
# balance is a sum over at most as many rows as there are symbols, however long the history is.
# NUMERIC, because ten trades at the largest price and quantity leave the range of BIGINT.
balances = Table(
    "balances",
    metadata,
    Column("broker_id", Uuid, primary_key=True),
    Column("symbol", Text, primary_key=True),
    Column("cash", Numeric, nullable=False),
    postgresql_with={"fillfactor": 50},
)
