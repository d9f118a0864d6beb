"""JSON in and out: bodies and query strings to model values, model values to bytes. Pure.

A body is decoded straight into a typed struct. Only when that fails is it looked at a second time,
to say whether it is no JSON at all (400) or JSON with a wrong field (422), and which; and when it
has more quotes than its fields need, since one of them may stand there twice.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Container, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from common.errors import InvalidField, MalformedBody
from common.ids import ID_MAX, parse_id
from common.model import (
    EPOCH,
    MICROSECOND,
    PAGE_DEFAULT,
    PAGE_MAX,
    PRICE_MAX_CENTS,
    QUANTITY_MAX,
    UNTIL_EXPECTED,
    Balance,
    NewOrder,
    OrderQuery,
    OrderType,
    Side,
)

NAME_MAX = 100
DOCUMENT_NUMBER_MAX = 20
SYMBOL_MAX = 12
WEBHOOK_URL_MAX = 2000
CLIENT_ORDER_ID_MAX = 64
_UNTIL_END_US = (datetime.max.replace(tzinfo=EPOCH.tzinfo) - EPOCH) // MICROSECOND
_NOT_UNICODE = re.compile("[\ud800-\udfff]")

_UNTIL = (
    "When it ends, ISO 8601 with offset; digits beyond the microsecond are cut off. Required for a "
    "limit order, ignored for a market order."
)
_INSTANT: dict[str, Any] = {"type": ["string", "null"], "format": "date-time"}
_CHOICES = {"side": Side, "order_type": OrderType}

_Cents = Annotated[int, Meta(ge=1, le=PRICE_MAX_CENTS)]


class OrderBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /orders. Prices are integer cents, quantities integer shares."""

    document_number: Annotated[str, Meta(min_length=1, max_length=DOCUMENT_NUMBER_MAX)]
    side: Side
    symbol: Annotated[
        str,
        Meta(
            description="Letters of ASCII and digits; small letters count as capitals.",
            extra_json_schema={"pattern": "^[A-Za-z0-9]{1,12}$"},
        ),
    ]
    quantity: Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]
    # Not LIMIT: whether it stands in the body is what ``quotes`` needs to know.
    order_type: Annotated[
        OrderType | UnsetType, Meta(extra_json_schema={"default": OrderType.LIMIT})
    ] = UNSET
    price: Annotated[
        _Cents | None, Meta(description="Required for a limit order, forbidden for a market order.")
    ] = None
    # Any, since a market order may hold anything here, which is ignored.
    valid_until: Annotated[Any, Meta(description=_UNTIL, extra_json_schema=_INSTANT)] = None
    client_order_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=CLIENT_ORDER_ID_MAX)] | None,
        Meta(description="Printable ASCII, of one order only: sent again it gives that order."),
    ] = None

    def quotes(self) -> int:
        """How many quotes a body of this needs: two for each name, two for each text."""
        count = 14 if self.order_type is UNSET else 18
        if self.price is not None:
            count += 2
        if isinstance(self.valid_until, str):
            count += 4
        if self.client_order_id is not None:
            count += 4
        return count


class RegisterBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /register."""

    name: Annotated[str, Meta(min_length=1, max_length=NAME_MAX)]
    webhook_url: Annotated[str, Meta(max_length=WEBHOOK_URL_MAX)] | None = None

    def quotes(self) -> int:
        """As of an order."""
        return 4 if self.webhook_url is None else 8


class ErrorBody(Struct, frozen=True):
    """Every reply that is not a success."""

    code: str
    detail: str


_T = TypeVar("_T", OrderBody, RegisterBody)

_encoder = msgspec.json.Encoder()
_order_decoder = msgspec.json.Decoder(OrderBody)
_register_decoder = msgspec.json.Decoder(RegisterBody)


def encode(reply: object) -> bytes:
    """The JSON of a reply."""
    return _encoder.encode(reply)


def encode_balance(balance: Balance) -> bytes:
    """The JSON of a balance, the one integer that may leave 64 bits, which the encoder refuses."""
    return json.dumps(msgspec.structs.asdict(balance)).encode()


def decode_order(body: bytes, now_us: int) -> NewOrder:
    """The order in a body that arrived at ``now_us``. Raises MalformedBody, InvalidField.

    One with a ``client_order_id`` may have ended: it may be one that came before.
    """
    asked = _decode(_order_decoder, body)
    refuse_nul("document_number", asked.document_number)
    symbol = decode_symbol(asked.symbol)
    order_type = OrderType.LIMIT if asked.order_type is UNSET else asked.order_type
    valid_until_us = None
    if order_type is OrderType.LIMIT:
        if asked.price is None:
            raise InvalidField(f"price: required for a limit order, 1 to {PRICE_MAX_CENTS} cents")
        valid_until_us = _decode_until(asked.valid_until)
    elif asked.price is not None:
        raise InvalidField("price: not allowed for a market order, which takes any price")
    own_id = asked.client_order_id
    if own_id is not None and not (own_id.isascii() and own_id.isprintable()):
        raise InvalidField("client_order_id: expected printable ASCII characters")
    new_order = NewOrder(
        asked.document_number,
        asked.side,
        order_type,
        symbol,
        asked.price,
        asked.quantity,
        valid_until_us,
        own_id,
    )
    if own_id is None:
        new_order.check_end(now_us)
    return new_order


def decode_register(body: bytes) -> RegisterBody:
    """Name and webhook of a new broker. Raises MalformedBody, InvalidField."""
    asked = _decode(_register_decoder, body)
    refuse_nul("name", asked.name)
    return asked


def decode_symbol(text: str) -> str:
    """The symbol in upper case. Raises InvalidField."""
    if not (0 < len(text) <= SYMBOL_MAX and text.isascii() and text.isalnum()):
        raise InvalidField(f"symbol: expected 1 to {SYMBOL_MAX} of A-Z and 0-9")
    return text.upper()


def decode_query(text: str, known: Collection[str]) -> dict[str, str]:
    """The parameters by name. Raises InvalidField for an unknown one, and one that comes twice."""
    found = dict[str, str]()
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name not in known:
            allowed = f"allowed are {', '.join(known)}" if known else "none is allowed here"
            raise InvalidField(f"unknown parameter `{name}`; {allowed}")
        if name in found:
            raise InvalidField(f"{name}: expected at most once")
        found[name] = value
    return found


def decode_count(query: Mapping[str, str], name: str, *, default: int, most: int) -> int:
    """An integer from 1 to ``most`` in a query string. Raises InvalidField."""
    text = query.get(name)
    if text is None:
        return default
    # The length first: a number of many digits is refused before it is computed.
    digits = len(text) <= len(str(most)) and text.isascii() and text.isdigit()
    if not digits or not 1 <= int(text) <= most:
        raise InvalidField(f"{name}: expected an integer from 1 to {most}")
    return int(text)


def decode_order_query(query: Mapping[str, str]) -> OrderQuery:
    """The filter of GET /orders. Raises InvalidField."""
    text = query.get("status")
    if text not in (None, "open", "closed"):
        raise InvalidField("status: expected open or closed")
    status: Literal["open", "closed"] | None = text  # type: ignore[assignment]
    symbol = query.get("symbol")
    cursor = query.get("cursor")
    before_id = ID_MAX if cursor is None else parse_id(cursor)
    if before_id is None:
        raise InvalidField("cursor: expected the next_cursor of the page before")
    return OrderQuery(
        status,
        None if symbol is None else decode_symbol(symbol),
        decode_count(query, "limit", default=PAGE_DEFAULT, most=PAGE_MAX),
        before_id,
    )


def _decode_until(text: Any) -> int:
    """Microseconds since the epoch of ``valid_until``."""
    expected, example = UNTIL_EXPECTED, ", such as 2030-01-31T18:00:00-03:00"
    if not isinstance(text, str):
        raise InvalidField(f"{expected}{example}; required for a limit order")
    refuse_nul("valid_until", text)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidField(expected + example) from None
    if instant.tzinfo is None:
        raise InvalidField(f"{expected}{example}; the offset is missing")
    instant_us = (instant - EPOCH) // MICROSECOND
    if instant_us > _UNTIL_END_US:
        raise InvalidField(f"{expected}; the year is after {datetime.max.year}")
    return instant_us


def refuse_nul(field: str, text: str) -> None:
    """Raises InvalidField for the one character that PostgreSQL cannot keep."""
    if "\0" in text:
        raise InvalidField(f"{field}: the character NUL is not allowed")


def _decode(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    try:
        asked = decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        document = _parse(body)
        fields = decoder.type.__struct_fields__
        if isinstance(error, msgspec.ValidationError):
            raise InvalidField(_field_first(str(error), fields)) from None
        raise InvalidField(_not_representable(document, fields)) from None
    # Of a name that stands there twice msgspec takes the last. It needs quotes that nothing else
    # accounts for; so do quotes within a text, and what is null.
    if body.count(b'"') > asked.quotes():
        _refuse_doubled(_parse(body, of_object=list))
    return asked


def _refuse_doubled(pairs: list[tuple[str, Any]]) -> None:
    """Raises InvalidField for a name that stands there twice."""
    found = set()
    for name, _ in pairs:
        if name in found:
            raise InvalidField(f"{name}: expected at most once")
        found.add(name)


def _parse(body: bytes, of_object: Callable[[list[tuple[str, Any]]], Any] = dict) -> Any:
    """The body as Python's tolerant parser reads it. Raises MalformedBody when it is no JSON."""
    try:
        # Digits beyond any field of ours are not computed: Python refuses thousands of them.
        return json.loads(
            body.decode(),
            parse_int=lambda digits: int(digits[:20]),
            object_pairs_hook=of_object,
        )
    except UnicodeDecodeError:
        raise MalformedBody("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise MalformedBody("the body is nested too deeply; expected a flat object") from None


def _field_first(message: str, fields: tuple[str, ...]) -> str:
    """``Expected `int` - at `$.price` `` becomes ``price: expected `int` ``."""
    if message.startswith("Object contains unknown field"):
        return f"{message[0].lower()}{message[1:]}; allowed are {', '.join(fields)}"
    reason, at, path = message.rpartition(" - at `$.")
    if not at:
        return f"body: {message[0].lower()}{message[1:]}"
    field = path.rstrip("`")
    wrong = f"{field}: {reason[0].lower()}{reason[1:]}"
    choices = _CHOICES.get(field)
    return f"{wrong}; expected {' or '.join(choices)}" if choices else wrong


def _not_representable(document: Any, fields: Container[str]) -> str:
    """Which field holds what JSON can write and no exchange can keep: NaN, half a character."""
    for name, value in document.items() if isinstance(document, dict) else ():
        if name not in fields:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name}: NaN and Infinity are not values of JSON"
        if isinstance(value, str) and _NOT_UNICODE.search(value):
            return f"{name}: half of a surrogate pair is not a character"
    return "body: it holds a value that cannot be represented"
