"""Brokers: who they are, the keys that they ask with, and their cash."""

from typing import Any

from sqlalchemy import LargeBinary, bindparam, func, insert, literal_column, select

from common.channel import Row, compiled
from common.database import uuid_of
from common.model import Broker, to_datetime, to_us
from common.tables import balances, brokers

INSERT_BROKER = compiled(insert(brokers))

# Of the broker whose key it is.
has_key = brokers.c.key_hash == bindparam("key_hash", type_=LargeBinary)
AUTHENTICATE = compiled(select(brokers).where(has_key))
# That broker in a statement on something else.
broker_of_key = select(brokers.c.id).where(has_key).scalar_subquery()

# A sum over at most as many rows as there are symbols: the primary key of balances.
BALANCE = compiled(
    select(func.coalesce(func.sum(balances.c.cash), literal_column("0"))).where(
        balances.c.broker_id == broker_of_key
    )
)


def broker_row(broker: Broker) -> dict[str, Any]:
    """The parameters of ``INSERT_BROKER``."""
    return {
        "id": uuid_of(broker.id),
        "name": broker.name,
        "webhook_url": broker.webhook_url,
        "key_hash": broker.key_hash,
        "created_at": to_datetime(broker.created_at_us),
    }


def broker_of(row: Row) -> Broker:
    """A broker from a row of the table."""
    broker_id, name, webhook_url, key_hash, created_at = row
    return Broker(broker_id.int, name, webhook_url, bytes(key_hash), to_us(created_at))
