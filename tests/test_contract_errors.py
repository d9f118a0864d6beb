"""Every refusal of the contract: its status, its body, and that it changes nothing."""

import gzip
import json
import re
import socket
from contextlib import closing
from urllib.parse import unquote

import pytest
from client import HOST, PATIENCE_S, Broker, Client, Reply, Service, eventually, order_body, send
from raw_requests import post

BODY_MAX_BYTES = 16 * 1024


@pytest.fixture
def alice(used_service: Service) -> Broker:
    return used_service.register("Alice")


@pytest.fixture
def client(used_service: Service) -> Client:
    return used_service.client


def assert_refused(reply: Reply, status: int, *words: str) -> None:
    """An error of the contract: code and detail, and no more; ``words`` are in the detail."""
    assert reply.status == status, reply
    assert reply.headers.get_content_type() == "application/json"
    assert set(reply.json) == {"code", "detail"}
    assert all(isinstance(value, str) and value for value in reply.json.values())
    assert reply.json["code"].replace("_", "").isalpha()
    assert reply.json["code"].islower()
    for word in words:
        assert word in reply.json["detail"]


def padded(size: int) -> bytes:
    return json.dumps(order_body()).encode().ljust(size)


# ---- 401: whose key ----

BROKER_REQUESTS = [
    ("POST", "/orders"),
    ("GET", "/orders"),
    ("GET", "/orders/00000000-0000-0000-0000-000000000000"),
    ("GET", "/orders/nonsense"),
    ("POST", "/orders/00000000-0000-0000-0000-000000000000/cancel"),
    ("POST", "/orders/nonsense/cancel"),
    ("GET", "/stocks/PETR4/price"),
    ("GET", "/stocks/PETR4/book"),
    ("GET", "/stocks/no_symbol/book"),
    ("GET", "/stocks/PETR4/price?trades=0"),
    ("GET", "/balance"),
    ("GET", "/balance?unknown=1"),
    ("POST", "/orders?unknown=1"),
]
ADMIN_REQUESTS = [
    ("POST", "/register"),
    ("POST", "/debug/reset"),
    ("GET", "/debug/trade-count"),
    ("GET", "/debug/trade-count?unknown=1"),
]
NO_KEYS = [
    "",
    "Bearer",
    "Bearer ",
    "Bearer  ",
    "Bearer unknown",
    "Basic dXNlcjpwYXNz",
    "Token {key}",
    "{key}",
    "Bearer{key}",
    "Bearer {key}x",
    "Bearer x{key}",
    "Bearer {key} {key}",
    "Bearer {key_lower}",
]


@pytest.mark.parametrize(("method", "path"), BROKER_REQUESTS + ADMIN_REQUESTS)
def test_a_request_without_a_known_key_is_refused(
    alice: Broker, used_service: Service, method: str, path: str
) -> None:
    key = used_service.admin_key if (method, path) in ADMIN_REQUESTS else alice.key
    body = b"not even JSON" if method == "POST" else None
    assert_401(used_service.client.request(method, path, body))
    for template in NO_KEYS:
        shown = template.format(key=key, key_lower=key.lower())
        reply = used_service.client.request(method, path, body, headers={"Authorization": shown})
        assert_401(reply)


def assert_401(reply: Reply) -> None:
    assert_refused(reply, 401)
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("method", "path"), BROKER_REQUESTS)
def test_the_admin_key_is_no_brokers_key(used_service: Service, method: str, path: str) -> None:
    assert_401(used_service.client.request(method, path, key=used_service.admin_key))


@pytest.mark.parametrize(("method", "path"), ADMIN_REQUESTS)
def test_a_brokers_key_is_not_the_admin_key(alice: Broker, method: str, path: str) -> None:
    assert_401(alice.request(method, path))


@pytest.mark.parametrize("path", ["/balance", "/debug/trade-count"])
@pytest.mark.parametrize("key", [b"\xff\xfe", "schlüssel".encode(), b"\x01", b"k" * 7000])
def test_a_key_of_any_bytes_is_unknown(client: Client, path: str, key: bytes) -> None:
    request = b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\n\r\n"
    status_line = client.raw(request % (path.encode(), key)).partition(b"\r\n")[0]
    # A control character is no header value at all, which is for the HTTP parser to say.
    assert status_line.split()[1] in ((b"400", b"401") if key == b"\x01" else (b"401",))


def test_the_scheme_may_be_written_in_any_case(alice: Broker, client: Client) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = {"Authorization": f"{scheme} {alice.key}"}
        assert client.request("GET", "/balance", headers=headers).status == 200


# ---- 400 and 422: bodies ----

NOT_JSON = [
    b"",
    b" ",
    b"{",
    b"}",
    b"nothing",
    b"{'side': 'bid'}",
    b'{"side": "bid",}',
    b'{"side": "bid"} {}',
    b'{"side": bid}',
    b'{"side": "bid"',
    b'"unended',
    b"\xff\xfe{}",
    b'{"document_number": "\xe9"}',
    b'{"document_number": "\xed\xa0\x80"}',
    b'{"document_number": "a\x00b"}',
    b'{"document_number": "a\nb"}',
    b"\x00",
    b"side=bid&quantity=5",
    b"[" * 16000,
]


@pytest.mark.parametrize("path", ["/orders", "/register"])
@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: repr(body[:30]))
def test_a_body_that_is_no_json_is_400(
    used_service: Service, alice: Broker, path: str, body: bytes
) -> None:
    key = alice.key if path == "/orders" else used_service.admin_key
    assert_refused(used_service.client.request("POST", path, body, key), 400)


NO_OBJECTS = [
    b"[]",
    b'[{"side": "bid"}]',
    b"null",
    b"true",
    b"5",
    b'"bid"',
    b"1e999",
    b"NaN",
    b"9" * 10_000,
    b'"\\ud800"',
]


@pytest.mark.parametrize("path", ["/orders", "/register"])
@pytest.mark.parametrize("body", NO_OBJECTS, ids=lambda body: repr(body[:30]))
def test_json_that_is_no_object_is_422(
    used_service: Service, alice: Broker, path: str, body: bytes
) -> None:
    key = alice.key if path == "/orders" else used_service.admin_key
    assert_refused(used_service.client.request("POST", path, body, key), 422)


@pytest.mark.parametrize("depth", [10, 500, 900, 2000, 5000])
def test_deep_nesting_is_refused(alice: Broker, depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    objects = b'{"a":' * (depth // 2) + b"1" + b"}" * (depth // 2)
    for body in (
        nested,
        objects,
        b'{"side": %s}' % nested,
        json.dumps(order_body(valid_until=0)).replace(": 0}", ": %s}").encode() % nested,
    ):
        reply = alice.request("POST", "/orders", body)
        assert reply.status in (400, 422)
        assert_refused(reply, reply.status)


@pytest.mark.parametrize(
    "name", ["document_number", "side", "symbol", "quantity", "price", "valid_until"]
)
def test_a_missing_field_is_named(alice: Broker, name: str) -> None:
    assert_refused(alice.order(**{name: ...}), 422, name)


class Raw(str):
    """JSON that is to be sent as it is written here."""

    __slots__ = ()


def with_field(name: str, value: object) -> bytes:
    """An order's body with one field replaced."""
    text = json.dumps(order_body(**{name: "PLACEHOLDER"}))
    return text.replace(
        '"PLACEHOLDER"', value if isinstance(value, Raw) else json.dumps(value)
    ).encode()


NO_INTEGERS = [
    *(
        Raw(text)
        for text in ("10.0", "1e3", "1E3", "10.5", "NaN", "Infinity", "-Infinity", "1e400")
    ),
    *(Raw(text) for text in ("-0", "-0.0", "1" + "0" * 4400)),
    *("10", "", True, False, None, [10], {"value": 10}),
    *(0, -1, 10**9 + 1, 2**31, 2**32 + 5, 2**63 - 1, 2**63, 2**64, 2**64 + 10, 10**30, -(2**63)),
]


@pytest.mark.parametrize("name", ["price", "quantity"])
@pytest.mark.parametrize("value", NO_INTEGERS, ids=lambda value: repr(value)[:30])
def test_only_json_integers_within_bounds_are_numbers(
    alice: Broker, name: str, value: object
) -> None:
    assert_refused(alice.request("POST", "/orders", with_field(name, value)), 422, name)


def each(name: str, *values: object) -> list[tuple[str, object]]:
    """One case for each value of a field."""
    return [(name, value) for value in values]


WRONG_FIELDS: list[tuple[str, object]] = [
    *each("side", "BID", "buy", "", "bid ", 1, None, True, ["bid"]),
    *each("order_type", "LIMIT", "stop", "", 1, None, False),
    *each("document_number", "", "x" * 21, "é" * 21, 123, None, True, []),
    *each("symbol", "", "A" * 13, "PETR 4", "PETR-4", "PÉTR4", "ß", "Ⅳ", "٣"),
    *each("symbol", "PETR4\n", " PETR4", "PETR4\0", "\0", 5, None, ["PETR4"]),
    *each("valid_until", None, "", "tomorrow", 1999999999, True, {}, []),
    ("valid_until", "2001-01-01T00:00:00Z"),
    ("valid_until", "0001-01-01T00:00:00+23:59"),
    ("valid_until", "2033-01-31T18:00:00"),
    ("valid_until", "2033-01-31"),
    ("valid_until", "2033-02-30T18:00:00Z"),
    ("valid_until", "2033-01-31T25:00:00Z"),
    ("valid_until", "2033-01-31T18:00:00+24:00"),
    ("valid_until", "10000-01-01T00:00:00Z"),
    ("valid_until", "9999-12-31T23:59:59-23:59"),
    ("valid_until", "2033-01-31T18:00:00Z\0"),
    ("document_number", "a\0b"),
    ("document_number", "\0"),
    *each("document_number", *map(Raw, (r'"\ud800"', r'"a\udfff"', r'"\udc00\ud800"'))),
    *each("symbol", *map(Raw, (r'"\ud800"', "NaN"))),
    *each("valid_until", *map(Raw, (r'"\ud800"', "NaN"))),
    *each("side", *map(Raw, (r'"\ud800"', "NaN"))),
]


@pytest.mark.parametrize(("name", "value"), WRONG_FIELDS, ids=lambda value: repr(value)[:40])
def test_a_wrong_field_is_422_and_named(alice: Broker, name: str, value: object) -> None:
    assert_refused(alice.request("POST", "/orders", with_field(name, value)), 422, name)


@pytest.mark.parametrize("name", ["Price", "prize", "broker_id", "id", "é", "", "a.b", "$", "\0"])
def test_an_unknown_field_is_422_and_named(used_service: Service, alice: Broker, name: str) -> None:
    assert_refused(alice.order(**{name: 1}), 422, name)
    body = {"name": "x", name: 1}
    reply = used_service.client.request("POST", "/register", body, used_service.admin_key)
    assert_refused(reply, 422, name)


@pytest.mark.parametrize("name", order_body(order_type="limit", client_order_id="1"))
def test_a_field_that_stands_there_twice_is_422_and_named(alice: Broker, name: str) -> None:
    fields = order_body(order_type="limit", client_order_id=f"twice {name}")
    again = json.dumps({name: fields[name]})
    body = f"{json.dumps(fields)[:-1]}, {again[1:]}".encode()
    assert_refused(alice.request("POST", "/orders", body), 422, name)


@pytest.mark.parametrize("name", ["name", "webhook_url"])
def test_a_field_of_a_registration_that_stands_there_twice_is_422_and_named(
    used_service: Service, name: str
) -> None:
    body = b'{"name": "x", "webhook_url": "http://127.0.0.1/", "%b": null}' % name.encode()
    body = body.replace(b'"name": null', b'"name": "y"')
    reply = used_service.client.request("POST", "/register", body, used_service.admin_key)
    assert_refused(reply, 422, name)


def test_an_unknown_field_that_no_text_can_hold_is_422(alice: Broker) -> None:
    body = json.dumps(order_body()).encode()[:-1] + b', "\\ud800": 1}'
    assert_refused(alice.request("POST", "/orders", body), 422)


def test_a_market_order_must_not_name_a_price(alice: Broker) -> None:
    assert_refused(alice.order(order_type="market", price=5), 422, "price")
    assert alice.order(order_type="market", price=None).status == 201


WRONG_REGISTRATIONS: list[tuple[str, object]] = [
    *each("name", "", "x" * 101, "é" * 101, None, 5, True, ["x"], "a\0b"),
    ("name", Raw(r'"\ud800"')),
    *each("webhook_url", "", "x", 5, [], "ftp://example.com/", "http://"),
    *each("webhook_url", "//example.com", "javascript:alert(1)", "http:///x"),
    ("webhook_url", "http://user:secret@example.com/"),
    ("webhook_url", "http://example.com:99999/"),
    ("webhook_url", "http://[::1/"),
    ("webhook_url", "http://example.com/\0"),
    ("webhook_url", "http://example.com/\r\nX: y"),
    ("webhook_url", "http://example.com/" + "x" * 3000),
    ("webhook_url", Raw(r'"http://example.com/\ud800"')),
]


@pytest.mark.parametrize(("name", "value"), WRONG_REGISTRATIONS, ids=lambda v: repr(v)[:40])
def test_a_wrong_field_of_a_registration_is_422_and_named(
    used_service: Service, name: str, value: object
) -> None:
    text = json.dumps({"name": "x", name: "PLACEHOLDER"})
    body = text.replace('"PLACEHOLDER"', value if isinstance(value, Raw) else json.dumps(value))
    reply = used_service.client.request("POST", "/register", body.encode(), used_service.admin_key)
    assert_refused(reply, 422, name)


def test_a_registration_needs_a_name(used_service: Service) -> None:
    assert_refused(
        used_service.client.request("POST", "/register", {}, used_service.admin_key), 422, "name"
    )


# ---- 422: paths and queries ----

NO_COUNTS = ["0", "-1", "+5", "1.0", "1e1", "", "x", "%20", "5%20", "%D9%A3", "0x5", "9" * 5000]


@pytest.mark.parametrize("text", NO_COUNTS, ids=lambda text: text[:10])
def test_a_count_that_is_no_integer_in_bounds_is_422_and_named(alice: Broker, text: str) -> None:
    assert_refused(alice.book(query=f"depth={text}"), 422, "depth")
    assert_refused(alice.price(query=f"trades={text}"), 422, "trades")
    assert_refused(alice.orders(f"limit={text}"), 422, "limit")


def test_a_count_above_its_bound_is_422_and_named(alice: Broker) -> None:
    assert_refused(alice.book(query="depth=51"), 422, "depth")
    assert_refused(alice.price(query="trades=1001"), 422, "trades")
    assert_refused(alice.orders("limit=1000000"), 422, "limit")


@pytest.mark.parametrize("query", ["limit=x&limit=1", "limit=1&limit=1", "status=open&status="])
def test_a_parameter_that_stands_there_twice_is_named(alice: Broker, query: str) -> None:
    assert_refused(alice.orders(query), 422, query.partition("=")[0])


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/orders", "status, symbol, limit, cursor"),
        ("/stocks/PETR4/price", "trades"),
        ("/stocks/PETR4/book", "depth"),
    ],
)
@pytest.mark.parametrize("name", ["stauts", "Limit", "", "%00", "%FF", "a%20b"])
def test_an_unknown_parameter_is_422_with_the_known_ones(
    alice: Broker, path: str, allowed: str, name: str
) -> None:
    reply = alice.request("GET", f"{path}?{name}=open")
    assert_refused(reply, 422, f"unknown parameter `{unquote(name)}`; allowed are {allowed}")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/orders"),
        ("GET", "/orders/00000000-0000-0000-0000-000000000000"),
        ("POST", "/orders/00000000-0000-0000-0000-000000000000/cancel"),
        ("GET", "/balance"),
    ],
)
def test_a_parameter_where_there_is_none_is_422(alice: Broker, method: str, path: str) -> None:
    body = order_body() if path == "/orders" else None
    reply = alice.request(method, f"{path}?limit=1", body)
    assert_refused(reply, 422, "unknown parameter `limit`; none is allowed here")
    assert alice.request(method, f"{path}?", body).status != 422
    assert len(alice.listed()) == (path == "/orders")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/register"), ("POST", "/debug/reset"), ("GET", "/debug/trade-count")],
)
def test_a_parameter_of_the_admin_is_422(used_service: Service, method: str, path: str) -> None:
    body = {"name": "x"} if path == "/register" else None
    reply = used_service.client.request(method, f"{path}?x=1", body, used_service.admin_key)
    assert_refused(reply, 422, "unknown parameter `x`; none is allowed here")


def test_a_parameter_of_bytes_that_are_no_text_is_refused(alice: Broker) -> None:
    head = b"GET /balance?\xff\xfe=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    said = alice.client.raw(head + b"Authorization: Bearer %b\r\n\r\n" % alice.key.encode())
    assert said.split()[1] in (b"400", b"422")


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/health", "/metrics"])
def test_what_is_for_everyone_may_be_asked_with_any_parameter(client: Client, path: str) -> None:
    assert client.request("GET", f"{path}?probe=1&probe=2").status == 200


@pytest.mark.parametrize("symbol", ["PETR-4", "A" * 13, "P%C3%89", "%00", "%20", "%FF"])
def test_a_path_with_no_symbol_is_422_and_named(alice: Broker, symbol: str) -> None:
    assert_refused(alice.book(symbol), 422, "symbol")
    assert_refused(alice.price(symbol), 422, "symbol")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        *((f"cursor={text}", "cursor") for text in ("x", "", "0", "%00", "%FF")),
        ("cursor=00000000-0000-0000-0000-00000000000g", "cursor"),
        ("cursor=00000000000000000000000000000000", "cursor"),
        *((f"status={text}", "status") for text in ("filled", "", "OPEN", "%00", "open,closed")),
        *((f"symbol={text}", "symbol") for text in ("", "PETR-4", "%00", "A" * 13)),
    ],
)
def test_a_wrong_filter_of_a_listing_is_422_and_named(alice: Broker, query: str, name: str) -> None:
    assert_refused(alice.orders(query), 422, name)


# ---- 404, 405, 413 ----


@pytest.mark.parametrize(
    "name",
    [
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "019aaaaa-0000-7000-8000-000000000000",
        "nonsense",
        "%00",
        "%FF",
        "1",
        "%27%20OR%201=1",
    ],
)
def test_an_order_that_is_not_there_is_404(alice: Broker, name: str) -> None:
    assert_refused(alice.show(name), 404)


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/orders/",
        "/order",
        "/stocks/PETR4",
        "/stocks//book",
        "/orders/x/y",
        "//",
        "/%00",
    ],
)
def test_a_path_that_is_not_there_is_404(alice: Broker, path: str) -> None:
    assert_refused(alice.request("GET", path), 404)
    assert_refused(alice.client.request("GET", path), 404)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/register", {"POST"}),
        ("/orders", {"GET", "POST"}),
        ("/orders/x", {"GET"}),
        ("/orders/x/cancel", {"POST"}),
        ("/stocks/PETR4/price", {"GET"}),
        ("/stocks/PETR4/book", {"GET"}),
        ("/balance", {"GET"}),
        ("/health", {"GET"}),
        ("/metrics", {"GET"}),
        ("/docs", {"GET"}),
        ("/openapi.json", {"GET"}),
        ("/", {"GET"}),
        ("/debug/reset", {"POST"}),
        ("/debug/trade-count", {"GET"}),
    ],
)
def test_a_method_that_is_not_there_is_405_with_those_that_are(
    client: Client, path: str, allowed: set[str]
) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - allowed:
        reply = client.request(method, path)
        assert_refused(reply, 405)
        assert {name.strip() for name in reply.headers["Allow"].split(",")} >= allowed


def test_head_has_no_body(client: Client) -> None:
    for path in ("/health", "/nothing", "/orders"):
        request = f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        head, end, body = client.raw(request.encode()).partition(b"\r\n\r\n")
        assert head.split()[1] in (b"200", b"404", b"405")
        assert (end, body) == (b"\r\n\r\n", b"")


@pytest.mark.parametrize("path", ["/orders", "/register"])
def test_a_body_of_16_kib_is_taken_and_one_byte_more_is_413(
    used_service: Service, alice: Broker, path: str
) -> None:
    valid: dict[str, object] = order_body() if path == "/orders" else {"name": "x"}
    key = alice.key if path == "/orders" else used_service.admin_key
    text = json.dumps(valid).encode()
    reply = used_service.client.request("POST", path, text.ljust(BODY_MAX_BYTES), key)
    assert reply.status == 201
    for size in (BODY_MAX_BYTES + 1, 1_000_000):
        reply = used_service.client.request("POST", path, text.ljust(size), key)
        assert_refused(reply, 413)


def test_a_body_in_chunks_has_the_same_bound(alice: Broker) -> None:
    for size, status in ((BODY_MAX_BYTES, 201), (BODY_MAX_BYTES + 1, 413)):
        body = padded(size)
        with closing(alice.client.connect()) as connection:
            headers = {"Authorization": f"Bearer {alice.key}"}
            chunks = iter((body[:7], body[7:5000], body[5000:]))
            connection.request("POST", "/orders", chunks, headers, encode_chunked=True)
            assert connection.getresponse().status == status


@pytest.mark.parametrize(
    ("size", "status"), [(BODY_MAX_BYTES, 201), (BODY_MAX_BYTES + 1, 413), (40_000, 413)]
)
def test_a_body_in_chunks_of_one_byte_has_the_same_bound(
    alice: Broker, size: int, status: int
) -> None:
    chunks = [b"1\r\n%c\r\n" % byte for byte in padded(size)]
    with closing(alice.client.connect()) as connection:
        connection.putrequest("POST", "/orders")
        connection.putheader("Authorization", f"Bearer {alice.key}")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders(b"".join(chunks[: size // 2]))
        assert alice.client.request("GET", "/health").status == 200  # so these have been read
        connection.send(b"".join(chunks[size // 2 :]) + b"0\r\n\r\n")
        assert connection.getresponse().status == status


def test_a_compressed_body_has_the_same_bound_when_unpacked(alice: Broker) -> None:
    headers = {"Content-Encoding": "gzip"}
    bomb = gzip.compress(padded(10_000_000))
    assert len(bomb) < BODY_MAX_BYTES
    reply = alice.client.request("POST", "/orders", bomb, alice.key, headers)
    assert reply.status in (400, 413, 415)
    broken = alice.client.request("POST", "/orders", b"no gzip at all", alice.key, headers)
    assert_refused(broken, broken.status)
    assert broken.status in (400, 415, 422)
    assert alice.listed() == []


def test_bytes_that_are_no_http_are_400(client: Client) -> None:
    for request in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n"):
        reply = client.raw(request)
        assert reply.split()[1] == b"400"
        assert b'{"code":"malformed_request"' in reply
    assert client.request("GET", "/health").status == 200


def test_bytes_that_are_no_http_behind_an_unfinished_request_are_400(alice: Broker) -> None:
    """aiohttp is at work on the first by then; its own reply would repeat what was sent."""
    head = f"POST /orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.key}\r\n"
    with socket.create_connection((HOST, alice.client.port), timeout=PATIENCE_S) as client:
        client.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        assert alice.client.request("GET", "/health").status == 200  # so that it came by itself
        client.sendall(b"0\r\n\r\nGET / HTTP/1.1\r\nAuthorization : Bearer SECRET\r\n\r\n")
        said = b"".join(iter(lambda: client.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"422", b"400"]
    assert b'{"code":"malformed_request"' in said
    assert b"SECRET" not in said
    assert b"Server:" not in said


def test_what_comes_behind_an_upgrade_that_nobody_knows_is_not_taken_for_answered(
    alice: Broker,
) -> None:
    body, key = json.dumps(order_body()).encode(), f"Authorization: Bearer {alice.key}"
    upgrade = post("/orders", body, key, "Connection: Upgrade", "Upgrade: h2c")
    said = alice.client.raw(upgrade + 3 * post("/orders", body, key))
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"201"]
    assert b"\r\nConnection: close\r\n" in said
    assert len(alice.listed()) == 1


# ---- what a refusal does not do ----


def test_a_connection_serves_on_after_refusals(alice: Broker) -> None:
    with closing(alice.client.connect()) as connection:
        for _ in range(3):
            assert send(connection, "GET", "/balance").status == 401
            assert send(connection, "POST", "/orders", b"{", alice.key).status == 400
            assert send(connection, "POST", "/orders", {}, alice.key).status == 422
            assert send(connection, "GET", "/nothing", None, alice.key).status == 404
            assert send(connection, "PUT", "/orders", {}, alice.key).status == 405
            known_socket = connection.sock
            assert send(connection, "POST", "/orders", order_body(), alice.key).status == 201
            assert connection.sock is known_socket is not None


def test_a_refused_request_changes_nothing(service: Service, alice: Broker) -> None:
    other = service.register("Other")
    resting = alice.place("ask", 5, 100)
    # Each of these would trade, register or cancel, but for one mistake.
    crossing = order_body(side="bid", price=100, quantity=1)
    refused = [
        service.client.request("POST", "/orders", crossing),
        service.client.request("POST", "/orders", crossing, "unknown"),
        service.client.request("POST", "/orders", crossing, service.admin_key),
        other.request("POST", "/orders", crossing | {"extra": 1}),
        other.request("POST", "/orders", crossing | {"quantity": 0}),
        other.request("POST", "/orders", crossing | {"document_number": "a\0b"}),
        other.request("POST", "/orders", crossing | {"valid_until": "2001-01-01T00:00:00Z"}),
        other.request("POST", "/orders", json.dumps(crossing).encode().ljust(BODY_MAX_BYTES + 1)),
        other.request("POST", "/orders", json.dumps(crossing).encode() + b"x"),
        other.request("PUT", "/orders", crossing),
        other.cancel(resting),
        service.client.request("POST", f"/orders/{resting}/cancel"),
        service.client.request("POST", "/register", {"name": "x"}),
        other.request("POST", "/register", {"name": "x"}),
        other.request("POST", "/debug/reset"),
        service.client.request("POST", "/register", {"name": "a\0b"}, service.admin_key),
    ]
    assert all(400 <= reply.status < 500 for reply in refused)
    marker = alice.place("bid", 1, 1)  # written after all that was refused
    query = "SELECT id::text, remaining_quantity FROM orders ORDER BY id"
    eventually(lambda: len(service.sql(query)) > 1)
    assert service.sql(query) == [(resting, 5), (marker, 1)]
    assert service.sql("SELECT count(*) FROM trades") == [(0,)]
    assert service.sql("SELECT count(*) FROM brokers") == [(2,)]
    assert alice.book().json["asks"][0]["total_quantity"] == 5
    assert (alice.cash(), other.cash(), other.listed()) == (0, 0, [])


def test_no_refusal_shows_what_is_inside(alice: Broker) -> None:
    for reply in (
        alice.request("POST", "/orders", b"{"),
        alice.order(price="x"),
        alice.show("nonsense"),
        alice.request("GET", "/nothing"),
    ):
        for word in ("Traceback", "msgspec", "aiohttp", "psycopg", "/site-packages", ".py"):
            assert word not in str(reply.json)
