"""Market data: prices, the book, and how many trades there were."""

from collections.abc import Iterable

from sqlalchemy import BigInteger, Text, bindparam, cast, func, literal_column, select, union_all
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.sql.selectable import Subquery

from common.channel import Row, compiled
from common.model import BookDepth, Level, Side
from common.queries.stored_orders import word
from common.tables import orders, trades

_latest = (
    select(trades.c.price, trades.c.sequence, trades.c.id)
    .where(trades.c.symbol == bindparam("symbol", type_=Text))
    .order_by(trades.c.sequence.desc(), trades.c.id.desc())
    .limit(bindparam("trades", type_=BigInteger))
    .subquery("latest")
)
# Last price, mean rounded down, how many: from the end of the symbol's part of trades_of_symbol.
PRICE = compiled(
    select(
        func.array_agg(
            aggregate_order_by(_latest.c.price, _latest.c.sequence.desc(), _latest.c.id.desc())
        )[literal_column("1")],
        cast(func.div(func.sum(_latest.c.price), func.count()), BigInteger),
        func.count(),
    ).select_from(_latest)
)


def _levels(side: Side) -> Subquery:
    """The best levels of one side: the index orders_open gives them best first, so the groups
    behind the last level shown are never read."""
    best_first = orders.c.price.desc() if side is Side.BID else orders.c.price.asc()
    return (
        select(
            orders.c.price,
            cast(func.sum(orders.c.remaining_quantity), BigInteger).label("total_quantity"),
            func.count().label("order_count"),
        )
        .where(
            orders.c.symbol == bindparam("symbol", type_=Text),
            orders.c.side == word(side),
            orders.c.close_reason.is_(None),
            orders.c.valid_until > func.statement_timestamp(),
        )
        .group_by(orders.c.price)
        .order_by(best_first)
        .limit(bindparam("depth", type_=BigInteger))
        .subquery(side.value)
    )


_asks, _bids = _levels(Side.ASK), _levels(Side.BID)
BOOK = compiled(union_all(select(word(Side.ASK), _asks), select(word(Side.BID), _bids)))


def book_of(symbol: str, depth: int, rows: Iterable[Row]) -> BookDepth:
    """Both sides, best first, from rows of ``BOOK``."""
    levels: dict[str, list[Level]] = {Side.ASK: [], Side.BID: []}
    for side, price, total_quantity, order_count in rows:
        levels[side].append(Level(price, total_quantity, order_count))
    levels[Side.ASK].sort(key=lambda level: level.price)
    levels[Side.BID].sort(key=lambda level: -level.price)
    return BookDepth(symbol, depth, levels[Side.ASK], levels[Side.BID])


COUNT_TRADES = compiled(select(func.count()).select_from(trades))
