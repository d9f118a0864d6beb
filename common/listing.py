"""A page of a broker's orders from the database."""

from collections.abc import Awaitable, Callable

from common import queries
from common.channel import Parameters, Row, Statement
from common.model import Broker, OrderDetail, OrderQuery

# Who asks, and the rows of the answer.
Ask = Callable[[bytes, Statement, Parameters], Awaitable[tuple[Broker, list[Row]]]]


async def stored_page(
    ask: Ask, key_hash: bytes, query: OrderQuery
) -> tuple[list[OrderDetail], int]:
    """The newest orders that match, one more than a page at most, and down to which id was looked.

    The id is 0 where that was all. Raises what ``ask`` raises.
    """
    parameters = queries.page_parameters(key_hash, query)
    _, rows = await ask(key_hash, queries.OWN_ORDERS[query.status], parameters)
    found = [detail for _, detail in queries.details_of(rows)]
    if len(found) > query.limit or (query.status is None and query.symbol is None):
        return found, 0
    # Asked afterwards, it can have moved up only, and what it leaves out is for the next page.
    _, rows = await ask(key_hash, queries.PAGE_END[query.status], parameters)
    return found, rows[0][0].int if rows else 0
