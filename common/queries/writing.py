"""Orders, trades and cash in bulk: one statement a table, one array parameter a column."""

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    DateTime,
    Table,
    Text,
    Update,
    Uuid,
    bindparam,
    cast,
    column,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.sql.selectable import NamedFromClause, Select
from sqlalchemy.types import TypeEngine

from common.channel import compiled
from common.queries.stored_orders import still_open
from common.tables import balances, client_orders, orders, trades


def _instant(instant_us: ColumnElement[Any]) -> ColumnElement[Any]:
    """Microseconds since the epoch as a timestamp.

    Seconds and the rest apart, because their sum leaves the 53 bits of a double in the year 2255.
    """
    million = literal_column("1000000", BigInteger)
    seconds = func.to_timestamp(instant_us // million)
    return seconds + (instant_us % million) * literal_column("INTERVAL '1 microsecond'")


def _columns(name: str, **types: TypeEngine[Any]) -> NamedFromClause:
    """Rows from one array parameter a column: ``unnest(:id::uuid[], …) AS name(id, …)``."""
    arrays = [cast(bindparam(field, type_=Text), ARRAY(kind)) for field, kind in types.items()]
    names = [column(field, kind) for field, kind in types.items()]
    return func.unnest(*arrays).table_valued(*names).render_derived(name=name)


def _kind(field: ColumnElement[Any]) -> TypeEngine[Any]:
    """The type in which a column is sent: instants as microseconds."""
    return BigInteger() if isinstance(field.type, DateTime) else field.type


def _stored(field: ColumnElement[Any], sent: ColumnElement[Any]) -> ColumnElement[Any]:
    """What becomes of what is sent for a column."""
    return _instant(sent) if isinstance(field.type, DateTime) else sent


def _rows_of(table: Table, name: str) -> Select[Any]:
    """Rows for a table, with a parameter for each of its columns."""
    rows = _columns(name, **{field.name: _kind(field) for field in table.c})
    return select(*(_stored(field, rows.c[field.name]) for field in table.c))


INSERT_ORDERS = compiled(insert(orders).from_select(list(orders.c), _rows_of(orders, "new")))

# Of one order; arrays of one element each would take PostgreSQL a sixth longer.
INSERT_ORDER = compiled(
    insert(orders).values(
        {field: _stored(field, bindparam(field.name, type_=_kind(field))) for field in orders.c}
    )
)

_changed = _columns(
    "changed",
    id=Uuid(),
    remaining_quantity=BigInteger(),
    close_reason=Text(),
    closed_at=BigInteger(),
)


def _update_of(
    order_id: ColumnElement[Any],
    remaining: ColumnElement[Any],
    reason: ColumnElement[Any],
    closed_us: ColumnElement[Any],
) -> Update:
    """A closed order never changes, whoever tries with what was read before."""
    reached = {
        "remaining_quantity": remaining,
        "close_reason": reason,
        "closed_at": _instant(closed_us),
    }
    return update(orders).where(orders.c.id == order_id, still_open).values(reached)


# Planned anew each time. Where the orders were few when it was planned, it reads all of them and
# looks for each among the changed ones; that is right, but only as long as they are few.
UPDATE_ORDERS = compiled(_update_of(*_changed.c), planned_anew=True)

# Of one order: by its id, however many there are.
UPDATE_ORDER = compiled(
    _update_of(
        bindparam("order_id", type_=Uuid),
        bindparam("remaining", type_=BigInteger),
        bindparam("reason", type_=Text),
        bindparam("closed", type_=BigInteger),
    )
)

INSERT_TRADES = compiled(insert(trades).from_select(list(trades.c), _rows_of(trades, "traded")))

_add_cash = upsert(balances).from_select(list(balances.c), _rows_of(balances, "earned"))
ADD_CASH = compiled(
    _add_cash.on_conflict_do_update(
        index_elements=[balances.c.broker_id, balances.c.symbol],
        set_={"cash": balances.c.cash + _add_cash.excluded.cash},
    )
)

_name_orders = upsert(client_orders).from_select(
    list(client_orders.c), _rows_of(client_orders, "named")
)
NAME_ORDERS = compiled(
    _name_orders.on_conflict_do_update(
        index_elements=[client_orders.c.broker_id, client_orders.c.client_order_id],
        set_={
            "order_id": _name_orders.excluded.order_id,
            "created_at": _name_orders.excluded.created_at,
        },
    )
)
