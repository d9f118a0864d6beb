"""What a start reads: brokers, open orders and their trades, balances, the last prices."""

from sqlalchemy import DateTime, bindparam, func, literal_column, select, true

from common.channel import Row, compiled
from common.model import AVERAGE_TRADES_MAX, Side, Trade, to_us
from common.queries.stored_orders import of_client, order_columns, trades_of_order
from common.tables import balances, brokers, client_orders, orders, trades

ALL_BROKERS = compiled(select(brokers))
# Sequence alone gives every level its order.
OPEN_ORDERS = compiled(
    select(*order_columns).where(orders.c.close_reason.is_(None)).order_by(orders.c.sequence)
)
TRADES_OF_OPEN_ORDERS = compiled(
    select(orders.c.id, *trades_of_order.c)
    .join_from(orders, trades_of_order, true())
    .where(orders.c.close_reason.is_(None))
    .order_by(trades_of_order.c.sequence, trades_of_order.c.id)
)
CLIENT_ORDERS_SINCE = compiled(
    select(*order_columns, orders.c.close_reason, client_orders.c.client_order_id)
    .join_from(client_orders, orders, of_client)
    .where(client_orders.c.created_at > bindparam("since", type_=DateTime(timezone=True)))
    .order_by(client_orders.c.created_at)
)
BROKER_BALANCES = compiled(
    select(balances.c.broker_id, func.sum(balances.c.cash)).group_by(balances.c.broker_id)
)
# The symbols come from the few rows of balances, the prices of each from the end of its part of
# the index trades_of_symbol, so that a start does not read the whole history.
_symbol = select(balances.c.symbol).distinct().subquery("symbol")
_recent = (
    select(trades.c.price, trades.c.sequence, trades.c.id)
    .where(trades.c.symbol == _symbol.c.symbol)
    .order_by(trades.c.sequence.desc(), trades.c.id.desc())
    .limit(literal_column(str(AVERAGE_TRADES_MAX)))
    .lateral("recent")
)
RECENT_PRICES = compiled(
    select(_symbol.c.symbol, _recent.c.price)
    .join_from(_symbol, _recent, true())
    .order_by(_symbol.c.symbol, _recent.c.sequence, _recent.c.id)
)
NEWEST_CLOSED_ID = compiled(
    select(orders.c.id)
    .where(orders.c.close_reason.is_not(None))
    .order_by(orders.c.id.desc())
    .limit(literal_column("1"))
)
NEWEST_ORDER = compiled(
    select(orders.c.id, orders.c.created_at).order_by(orders.c.id.desc()).limit(literal_column("1"))
)


def trade_of(row: Row) -> Trade:
    """A trade from the columns of the table, in its order."""
    trade_id, sequence, symbol, price, quantity, taker_side, maker_order, taker_order = row[:8]
    maker_broker, taker_broker, executed_at = row[8:]
    return Trade(
        id=trade_id.int,
        sequence=sequence,
        symbol=symbol,
        price=price,
        quantity=quantity,
        taker_side=Side(taker_side),
        maker_order_id=maker_order.int,
        taker_order_id=taker_order.int,
        maker_broker_id=maker_broker.int,
        taker_broker_id=taker_broker.int,
        executed_at_us=to_us(executed_at),
    )
