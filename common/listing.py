"""A page of a broker's orders from the database."""

from collections.abc import Awaitable, Callable

from common.channel import Parameters, Row, Statement
from common.database import uuid_of
from common.model import Broker, OrderDetail, OrderQuery
from common.queries import own_orders

# Who asks, and the rows of the answer.
Ask = Callable[[bytes, Statement, Parameters], Awaitable[tuple[Broker, list[Row]]]]


async def stored_page(
    ask: Ask, key_hash: bytes, query: OrderQuery, known_until_us: int | None = None
) -> tuple[list[OrderDetail], int]:
    """The newest orders that match, one more than a page at most, and down to which id was looked.

    The id is 0 where that was all; ``known_until_us`` is until when the tables hold everything,
    None where they always do. Raises what ``ask`` raises.
    """
    parameters = own_orders.page_parameters(key_hash, query, known_until_us)
    until_id = 0
    if query.status is not None or query.symbol is not None:
        # Asked first, so that what comes or is closed meanwhile changes nothing of the range.
        _, ends = await ask(key_hash, own_orders.PAGE_END[query.status], parameters)
        until_id = ends[0][0].int if len(ends) > 1 else 0
    parameters["until_id"] = uuid_of(until_id)
    _, rows = await ask(key_hash, own_orders.OWN_ORDERS[query.status], parameters)
    return [detail for _, detail in own_orders.details_of(rows)], until_id
