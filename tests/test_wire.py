"""Bodies and query strings: what is accepted, and what each refusal says."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profile import PROPERTY

from common import wire
from common.errors import InvalidField, MalformedBody
from common.ids import format_id
from common.model import PAGE_DEFAULT, Balance, NewOrder, OrderType, Side, to_datetime

NOW_US = 1_700_000_000_000_000
LIMIT: dict[str, Any] = {
    "document_number": "12345678900",
    "side": "bid",
    "order_type": "limit",
    "symbol": "ABC",
    "price": 1000,
    "quantity": 10,
    "valid_until": "2030-01-01T00:00:00Z",
}
MARKET = {name: LIMIT[name] for name in ("document_number", "side", "symbol", "quantity")} | {
    "order_type": "market"
}
FIELDS = tuple(LIMIT)
DEEP = 16_000
LONG = "9" * 5_000


def raw(field: str, text: str, template: dict[str, Any] = LIMIT) -> bytes:
    """A body in which the field has the given JSON text, valid or not."""
    texts = {name: json.dumps(value) for name, value in template.items()} | {field: text}
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in texts.items()) + "}").encode()


def decode(body: bytes | dict[str, Any]) -> NewOrder:
    return wire.decode_order(body if isinstance(body, bytes) else json.dumps(body).encode(), NOW_US)


def refusal(body: bytes | dict[str, Any]) -> str:
    """The detail of a 422, which can be sent."""
    with pytest.raises(InvalidField) as caught:
        decode(body)
    assert wire.encode(wire.ErrorBody(caught.value.code, caught.value.detail))
    return caught.value.detail


def malformed(body: bytes) -> str:
    """The detail of a 400, which can be sent."""
    with pytest.raises(MalformedBody) as caught:
        decode(body)
    assert wire.encode(wire.ErrorBody(caught.value.code, caught.value.detail))
    return caught.value.detail


# ---- what is accepted ----


def test_a_limit_order_is_decoded() -> None:
    until_us = 1_893_456_000_000_000
    expected = NewOrder("12345678900", Side.BID, OrderType.LIMIT, "ABC", 1000, 10, until_us)
    assert decode(LIMIT) == expected


def test_a_market_order_is_decoded() -> None:
    expected = NewOrder("12345678900", Side.BID, OrderType.MARKET, "ABC", None, 10, None)
    assert decode(MARKET) == decode(MARKET | {"price": None}) == expected


def test_an_order_is_a_limit_order_unless_it_says_otherwise() -> None:
    body = {name: value for name, value in LIMIT.items() if name != "order_type"}
    assert decode(body) == decode(LIMIT)


@pytest.mark.parametrize("text", ["abc", "aBc", "ABC"])
def test_the_case_of_a_symbol_does_not_matter(text: str) -> None:
    assert decode(LIMIT | {"symbol": text}).symbol == "ABC"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("price", 1),
        ("price", 10**9),
        ("quantity", 1),
        ("quantity", 10**9),
        ("symbol", "A" * 12),
        ("symbol", "7"),
        ("document_number", "1"),
        ("document_number", "é" * 20),
    ],
)
def test_the_bounds_themselves_are_allowed(field: str, value: object) -> None:
    assert getattr(decode(LIMIT | {field: value}), field) == value


@pytest.mark.parametrize(
    ("text", "offset_us"),
    [
        ("2030-01-01T00:00:00+00:00", 0),
        ("2029-12-31T21:00:00-03:00", 0),
        ("2030-01-01T00:00:00.000001Z", 1),
        ("2030-01-01T23:59:00.999999+23:59", 999_999),
        ("2030-01-01 00:00:00.25-00:00", 250_000),
        ("2030-01-01T00:00:00.1+00:00", 100_000),
        ("2030-01-01T00:00:00.12345Z", 123_450),
    ],
)
def test_an_end_is_exact_to_the_microsecond_in_any_offset(text: str, offset_us: int) -> None:
    expected = 1_893_456_000_000_000 + offset_us
    assert decode(LIMIT | {"valid_until": text}).valid_until_us == expected


def test_an_end_one_microsecond_from_now_is_allowed() -> None:
    text = to_datetime(NOW_US + 1).isoformat()
    assert decode(LIMIT | {"valid_until": text}).valid_until_us == NOW_US + 1


def test_the_last_microsecond_of_the_year_9999_is_allowed() -> None:
    order = decode(LIMIT | {"valid_until": "9999-12-31T23:59:59.999999Z"})
    assert order.valid_until_us == 253_402_300_799_999_999


@pytest.mark.parametrize(
    "text", ['"garbage"', '"2001-01-01T00:00:00Z"', "5", "null", "[1]", "{}", "true", "1.5"]
)
def test_a_market_order_ignores_its_end(text: str) -> None:
    assert decode(raw("valid_until", text, MARKET)).valid_until_us is None


# ---- 400: no JSON ----


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"price"',
        b'{"price": 1',
        b'{"price": 1,}',
        b"{'price': 1}",
        b'{"price": 01}',
        b'{"price": 0x10}',
        b'{"price": .5}',
        b'{"price": +1}',
        b'{"document_number": "\n"}',
        b'{"document_number": "\\x"}',
        b'{"document_number": "',
        b"{} {}",
        b"not json",
        b"document_number=1&side=bid",
        json.dumps(LIMIT).encode() + b"x",
    ],
)
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    assert malformed(body).startswith("the body is not JSON")


@pytest.mark.parametrize("end", range(0, len(json.dumps(LIMIT)), 7))
def test_a_truncated_body_is_malformed(end: int) -> None:
    assert malformed(json.dumps(LIMIT).encode()[:end])


@pytest.mark.parametrize(
    "wrong", ['"x"', "1.5", "-1", "null", "[]", "NaN", '"\\ud800"', "1e400", "9" * 20, LONG]
)
def test_a_truncated_body_is_malformed_even_when_a_field_before_the_cut_is_wrong(
    wrong: str,
) -> None:
    assert malformed(f'{{"price": {wrong}, "quantity"'.encode())


def test_a_byte_order_mark_is_malformed() -> None:
    assert "BOM" in malformed(b"\xef\xbb\xbf" + json.dumps(LIMIT).encode())


@pytest.mark.parametrize(
    "body",
    [
        b'{"document_number": "\xff"}',
        b'{"document_number": "\xc3"}',
        b'{"document_number": "\xed\xa0\x80"}',
        b"\xff\xfe{\x00}\x00",
        json.dumps(LIMIT).encode() + b"\xff",
    ],
)
def test_what_is_not_utf8_is_malformed(body: bytes) -> None:
    assert malformed(body) == "the body is not UTF-8"


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="reads all that fits in a body")
@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        raw("other", "[" * DEEP),
        raw("other", "[" * DEEP + "]" * DEEP),
        raw("valid_until", "[" * DEEP),
        raw("valid_until", "[" * DEEP + "]" * DEEP),
        raw("valid_until", "[" * DEEP + "]" * DEEP, MARKET),
        raw("price", "[" * DEEP + "]" * DEEP),
    ],
    ids=range(10),
)
def test_a_body_nested_too_deeply_is_malformed(body: bytes) -> None:
    assert "nested too deeply" in malformed(body)


# ---- 422: the body as a whole ----


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"1", b"true", b"[{}]", b"1.5"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    assert refusal(body).startswith("body: expected `object`")


@pytest.mark.parametrize("body", [LONG.encode(), b"NaN", b"-Infinity", b'"\\ud800"', b"1e400"])
def test_a_body_that_is_a_value_nobody_can_keep_is_refused(body: bytes) -> None:
    assert refusal(body).startswith("body: ")


@pytest.mark.parametrize("text", ["1", "null", "NaN", LONG, '"\\ud800"', "[[[]]]", "1e400"])
def test_an_unknown_field_is_refused_with_a_list_of_the_known(text: str) -> None:
    detail = refusal(raw("other", text))
    assert "unknown field `other`" in detail
    assert all(field in detail for field in FIELDS)


@pytest.mark.parametrize("key", ["\\ud800", "\\udfff", "a\\ud800b"])
def test_half_a_character_in_a_key_is_refused(key: str) -> None:
    assert refusal(raw(key, "1")).startswith("body: ")


def test_an_unknown_field_with_an_odd_name_is_quoted_whole() -> None:
    assert "unknown field `a - at b`" in refusal(raw("a - at b", "1"))


@pytest.mark.parametrize("field", ["document_number", "side", "symbol", "quantity"])
def test_a_missing_field_is_named(field: str) -> None:
    body = {name: value for name, value in LIMIT.items() if name != field}
    assert f"missing required field `{field}`" in refusal(body)


@pytest.mark.parametrize("field", ["price", "valid_until"])
def test_a_limit_order_needs_a_price_and_an_end(field: str) -> None:
    body = {name: value for name, value in LIMIT.items() if name != field}
    for refused in (body, body | {field: None}):
        assert refusal(refused).startswith(f"{field}: ")
        assert "required for a limit order" in refusal(refused)


def test_a_market_order_may_not_have_a_price() -> None:
    assert refusal(MARKET | {"price": 10}).startswith("price: not allowed for a market order")


# ---- 422: a field that stands there twice ----

TEXTS = {
    **{field: json.dumps(value) for field, value in LIMIT.items()},
    "client_order_id": '"1"',
}
# Escaped quotes, a name with an escape in it, a text that is a name, and white space.
ODD = ['"\\"\\"\\""', '"\\u0022"', '"order_type"', '":"', '"price\\":1"']


@pytest.mark.parametrize("field", TEXTS)
@pytest.mark.parametrize("left_out", [(), ("order_type",), ("client_order_id", "order_type")])
def test_a_field_that_stands_there_twice_is_named(field: str, left_out: tuple[str, ...]) -> None:
    pairs = [f'"{name}": {text}' for name, text in TEXTS.items() if name not in left_out]
    body = ", ".join([*pairs, f'"{field}" : {TEXTS[field]}'])
    if field in left_out:
        assert decode(f"{{{body}}}".encode())
    else:
        assert refusal(f"{{{body}}}".encode()) == f"{field}: expected at most once"


def test_a_field_with_two_values_is_refused_whatever_they_are() -> None:
    assert refusal(raw("side", '"bid", "side": "ask"')) == "side: expected at most once"
    assert refusal(raw("price", '1, "pr\\u0069ce": 1')) == "price: expected at most once"
    assert refusal(raw("price", 'null, "price": 1')) == "price: expected at most once"
    text = '"1", "client_order_id": null'
    assert refusal(raw("client_order_id", text)) == "client_order_id: expected at most once"


@pytest.mark.parametrize("text", ODD)
def test_quotes_within_a_text_are_no_second_field(text: str) -> None:
    assert decode(raw("document_number", text)).document_number == json.loads(text)
    assert refusal(raw("document_number", f'{text}, "side": "ask"')) == (
        "side: expected at most once"
    )


def test_what_a_market_order_ignores_may_hold_a_name_twice() -> None:
    assert decode(raw("valid_until", '{"a": 1, "a": 2, "side": "x"}', MARKET))


@pytest.mark.parametrize("field", ["name", "webhook_url"])
def test_a_registration_that_names_a_field_twice_is_refused(field: str) -> None:
    body = f'{{"name": "a", "webhook_url": "b", "{field}": "c"}}'
    with pytest.raises(InvalidField, match=f"^{field}: expected at most once$"):
        wire.decode_register(body.encode())


# ---- 422: one field ----


@pytest.mark.parametrize("field", ["price", "quantity"])
@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-1",
        str(10**9 + 1),
        str(1 << 63),
        str(1 << 64),
        str(-(1 << 64)),
        LONG,
        f"-{LONG}",
        f"{LONG}.5",
        "10.0",
        "10.5",
        "1e3",
        "1E400",
        "NaN",
        "Infinity",
        "-Infinity",
        '"10"',
        '"\\ud800"',
        "true",
        "false",
        "[]",
        "[10]",
        "{}",
    ],
)
def test_a_number_that_is_no_integer_in_bounds_is_refused(field: str, text: str) -> None:
    assert refusal(raw(field, text)).startswith(f"{field}: ")


def test_a_quantity_is_never_null() -> None:
    assert refusal(raw("quantity", "null")).startswith("quantity: ")


@pytest.mark.parametrize("field", ["document_number", "side", "symbol", "order_type"])
@pytest.mark.parametrize(
    "text", ['""', '"\\u0000"', '"a\\u0000"', '"\\ud800"', '"\\udc00x"', "1", "null", "[]", "true"]
)
def test_a_text_that_cannot_be_kept_is_refused(field: str, text: str) -> None:
    assert refusal(raw(field, text)).startswith(f"{field}: ")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("text", ["NaN", "Infinity", LONG, f"-{LONG}", "1e400", '"\\ud800"'])
def test_a_value_that_nobody_can_keep_is_refused_in_every_field(field: str, text: str) -> None:
    assert refusal(raw(field, text)).startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["document_number", "side", "symbol", "order_type"])
def test_a_field_of_text_is_not_asked_for_an_integer(field: str) -> None:
    assert "integer" not in refusal(raw(field, "NaN"))


def test_an_end_that_is_not_a_number_is_not_asked_for_an_integer() -> None:
    assert "integer" not in refusal(raw("valid_until", "NaN"))


@pytest.mark.parametrize("wrong", ["NaN", '"\\ud800"'])
def test_two_values_that_nobody_can_keep_are_refused_like_one(wrong: str) -> None:
    for body in (f'{{"price": {wrong}, "quantity": {LONG}}}', f'{{"a": {wrong}, "price": {LONG}}}'):
        assert refusal(body.encode())


def test_the_last_of_equal_keys_does_not_hide_a_value_that_nobody_can_keep() -> None:
    assert refusal(b'{"price": NaN, "price": 1}')


@pytest.mark.parametrize(
    ("field", "allowed"), [("side", ["bid", "ask"]), ("order_type", ["limit", "market"])]
)
@pytest.mark.parametrize(
    "value", ["", "BID", "buy", "Limit", "unknown field", "x - at y", "`$.price`", 1, None]
)
def test_a_wrong_choice_is_refused_with_the_allowed_ones(
    field: str, allowed: list[str], value: object
) -> None:
    detail = refusal(LIMIT | {field: value})
    assert detail.startswith(f"{field}: ")
    assert detail.endswith(f"expected {' or '.join(allowed)}")


@pytest.mark.parametrize("value", ["", "A" * 13, "A-B", "A B", "Ä", "ß", "٣", "A\n", " A", "A."])
def test_a_symbol_is_letters_and_digits_of_ascii(value: str) -> None:
    assert refusal(LIMIT | {"symbol": value}).startswith("symbol: expected 1 to 12")


def test_a_document_number_may_not_be_too_long() -> None:
    assert refusal(LIMIT | {"document_number": "1" * 21}).startswith("document_number: ")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("2030-01-01T00:00:00", "the offset is missing"),
        ("2030-01-01", "the offset is missing"),
        ("2001-01-01T00:00:00Z", "in the past"),
        ("0001-01-01T00:00:00+23:59", "in the past"),
        (to_datetime(NOW_US).isoformat(), "in the past"),
        ("9999-12-31T23:59:59.999999-23:59", "after 9999"),
        ("9999-12-31T23:59:59.999999-00:01", "after 9999"),
        ("garbage", "such as 2030"),
        ("", "such as 2030"),
        ("2030-13-01T00:00:00Z", "such as 2030"),
        ("2030-02-30T00:00:00Z", "such as 2030"),
        ("2030-01-01T00:00:00+24:00", "such as 2030"),
        ("10000-01-01T00:00:00Z", "such as 2030"),
        ("2030-01-01T00:00:00Z\0", "valid_until"),
        ("2030-01-01T00:00:00Z\0garbage", "valid_until"),
        (1_893_456_000, "such as 2030"),
        (1.5, "such as 2030"),
        (True, "such as 2030"),
        (["2030-01-01T00:00:00Z"], "such as 2030"),
        (1 << 64, "such as 2030"),
    ],
)
def test_an_end_that_is_no_future_instant_is_refused(value: object, reason: str) -> None:
    detail = refusal(LIMIT | {"valid_until": value})
    assert detail.startswith("valid_until: ")
    assert reason in detail


# ---- the body of a registration ----


def test_a_registration_is_decoded() -> None:
    url = "https://example.com/hook"
    body = json.dumps({"name": "Broker", "webhook_url": url}).encode()
    assert wire.decode_register(body) == wire.RegisterBody("Broker", url)
    assert wire.decode_register(b'{"name": "Broker"}').webhook_url is None


@pytest.mark.parametrize(
    ("body", "start"),
    [
        (b"{}", "body: object missing required field `name`"),
        (b'{"name": ""}', "name: "),
        (b'{"name": null}', "name: "),
        (b'{"name": "a\\u0000"}', "name: "),
        (b'{"name": "\\ud800"}', "name: "),
        (b'{"name": "' + b"a" * 101 + b'"}', "name: "),
        (b'{"name": "a", "webhook_url": 1}', "webhook_url: "),
        (b'{"name": "a", "webhook_url": NaN}', "webhook_url: "),
        (b'{"name": "a", "webhook_url": "' + b"a" * 2001 + b'"}', "webhook_url: "),
        (b"[]", "body: "),
    ],
)
def test_a_wrong_registration_is_refused(body: bytes, start: str) -> None:
    with pytest.raises(InvalidField) as caught:
        wire.decode_register(body)
    assert caught.value.detail.startswith(start)


def test_a_registration_with_an_unknown_field_is_told_the_known_ones() -> None:
    with pytest.raises(InvalidField, match=r"unknown field `key`; allowed are name, webhook_url"):
        wire.decode_register(b'{"name": "a", "key": 1}')


# ---- query strings ----


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("50", 50), ("007", 7)])
def test_a_count_is_read(text: str, count: int) -> None:
    assert wire.decode_count({"n": text}, "n", default=5, most=500) == count


def test_a_missing_count_is_the_default() -> None:
    assert wire.decode_count({}, "n", default=5, most=500) == 5


@pytest.mark.parametrize(
    "text", ["", "0", "501", "-1", "+1", "1.0", "1e2", " 1", "٣", "²", "x", LONG, "0x1", "1_0"]
)
def test_a_count_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match=r"^n: expected an integer from 1 to 500$"):
        wire.decode_count({"n": text}, "n", default=5, most=500)


def test_a_query_is_read_by_name() -> None:
    read = wire.decode_query("a=1&&b=x%20+y&c", ("a", "b", "c", "d"))
    assert read == {"a": "1", "b": "x  y", "c": ""}
    assert wire.decode_query("", ()) == {}


@pytest.mark.parametrize(
    ("text", "known", "detail"),
    [
        ("a=1&b=2", ("a", "c"), "unknown parameter `b`; allowed are a, c"),
        ("A=1", ("a",), "unknown parameter `A`; allowed are a"),
        ("a=1", (), "unknown parameter `a`; none is allowed here"),
        ("a=1&a=1", ("a",), "a: expected at most once"),
    ],
)
def test_a_parameter_that_is_unknown_or_stands_there_twice_is_refused(
    text: str, known: tuple[str, ...], detail: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        wire.decode_query(text, known)
    assert caught.value.detail == detail


def test_a_listing_is_of_everything_unless_it_says_otherwise() -> None:
    query = wire.decode_order_query({})
    assert (query.status, query.symbol, query.limit) == (None, None, PAGE_DEFAULT)


def test_a_listing_can_be_narrowed() -> None:
    cursor = 0x0123_4567_89AB_7DEF_8123_4567_89AB_CDEF
    query = wire.decode_order_query(
        {"status": "open", "symbol": "abc", "limit": "500", "cursor": format_id(cursor)}
    )
    assert (query.status, query.symbol, query.limit) == ("open", "ABC", 500)
    assert query.before_id == cursor


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("status", ""),
        ("status", "OPEN"),
        ("status", "filled"),
        ("symbol", ""),
        ("symbol", "A-B"),
        ("limit", "501"),
        ("limit", "0"),
        ("cursor", ""),
        ("cursor", "1"),
        ("cursor", "x" * 36),
    ],
)
def test_a_wrong_filter_is_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidField, match=f"^{name}: "):
        wire.decode_order_query({name: text})


# ---- replies ----


@pytest.mark.parametrize("cents", [0, -1, (1 << 64) + 1, -(10**30)])
def test_a_balance_of_any_size_can_be_sent(cents: int) -> None:
    sent = json.loads(wire.encode_balance(Balance("id", 'Brö"ker', cents)))
    assert sent == {"broker_id": "id", "broker_name": 'Brö"ker', "balance": cents}


# ---- whatever arrives ----

numbers = st.sampled_from(["NaN", "-Infinity", "1e400", LONG, "1e3", "10.0", str(1 << 64)])
texts = st.sampled_from(['"\\ud800"', '"\\u0000"', '"x - at y"', '"unknown field"', '""'])
values = st.one_of(
    numbers,
    texts,
    st.sampled_from(["[]", "{}", "null", "true", "", "[" * 2000]),
    st.text(max_size=5).map(json.dumps),
    st.integers().map(str),
    st.sampled_from([json.dumps(value) for value in LIMIT.values()]),
)
keys = st.sampled_from([*FIELDS, "name", "webhook_url", "\\ud800"]) | st.text(max_size=5)
almost_orders = st.lists(st.tuples(keys, values), max_size=8).map(
    lambda pairs: ("{" + ",".join(f'"{key}":{value}' for key, value in pairs) + "}").encode(
        "utf-8", "surrogatepass"
    )
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
json_bodies = json_values.map(lambda value: json.dumps(value).encode())
changed_orders = st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=3).map(
    lambda changes: json.dumps(LIMIT | changes).encode()
)


def refused_or_decoded(body: bytes) -> bool:
    """Both bodies are decoded, or refused with a detail that can be sent."""
    decoders: list[Callable[[bytes], object]] = [decode, wire.decode_register]
    for decoder in decoders:
        try:
            decoder(body)
        except (InvalidField, MalformedBody) as error:
            wire.encode(wire.ErrorBody(error.code, error.detail))
    return True


@PROPERTY
@given(st.binary(max_size=40))
def test_arbitrary_bytes_are_decoded_or_refused(body: bytes) -> None:
    assert refused_or_decoded(body)


@PROPERTY
@given(json_bodies | changed_orders)
def test_arbitrary_json_is_decoded_or_refused(body: bytes) -> None:
    assert refused_or_decoded(body)


@PROPERTY
@given(almost_orders)
def test_what_is_almost_an_order_is_decoded_or_refused(body: bytes) -> None:
    assert refused_or_decoded(body)


good_texts = st.one_of(
    st.tuples(st.sampled_from(["price", "quantity"]), st.just("1")),
    st.tuples(st.just("side"), st.sampled_from(['"bid"', '"ask"'])),
    st.tuples(st.just("symbol"), st.just('"A"')),
    st.tuples(st.just("order_type"), st.just('"limit"')),
    st.tuples(st.just("valid_until"), st.just(TEXTS["valid_until"])),
    st.tuples(st.just("document_number"), st.sampled_from(['"1"', *ODD])),
    st.tuples(st.just("client_order_id"), st.sampled_from(["null", '"1"', *ODD])),
)


@PROPERTY
@given(st.lists(good_texts, max_size=9), st.sampled_from([":", " : "]))
def test_an_order_is_refused_for_a_doubled_name_if_and_only_if_it_has_one(
    more: list[tuple[str, str]], colon: str
) -> None:
    named = {name for name, _ in more}
    needed = [(name, TEXTS[name]) for name in FIELDS if name != "order_type" and name not in named]
    body = "{" + ",".join(f'"{name}"{colon}{text}' for name, text in more + needed) + "}"
    if len(named) == len(more):
        assert decode(body.encode())
    else:
        assert refusal(body.encode()).endswith(": expected at most once")


@PROPERTY
@given(st.text(max_size=40) | st.datetimes().map(str))
def test_an_arbitrary_end_is_decoded_or_refused(text: str) -> None:
    assert refused_or_decoded(json.dumps(LIMIT | {"valid_until": text}).encode())
