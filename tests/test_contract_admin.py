"""Registration, keys, debug endpoints, health, metrics, and the API's description of itself."""

import hashlib
import json
import re
import socket
import struct
import time
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from client import HOST, Client, Reply, Service, eventually, order_body, send
from conftest import StartService
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture(scope="session")
def keyless(start_shared: StartService) -> Client:
    """A service without an admin key."""
    return start_shared(EXCHANGE_ADMIN_API_KEY=None).client


@pytest.fixture(scope="session")
def closed_service(start_shared: StartService) -> Service:
    """A service with the defaults: no debug endpoints, no private webhook targets."""
    return start_shared(EXCHANGE_DEBUG=None, EXCHANGE_WEBHOOK_PRIVATE=None)


# ---- registration and keys ----


def test_a_registration_answers_an_id_and_a_key(service: Service) -> None:
    for extra in ({}, {"webhook_url": None}, {"webhook_url": "https://example.com/hook?x=1#y"}):
        body = {"name": "Alice", **extra}
        reply = service.client.request("POST", "/register", body, service.admin_key)
        assert reply.status == 201
        assert set(reply.json) == {"broker_id", "api_key"}
        # 128 bits take 22 characters of the 64 that a key is made of.
        assert re.fullmatch(r"[A-Za-z0-9_-]{22,}", reply.json["api_key"])
    stored = service.sql("SELECT webhook_url FROM brokers ORDER BY id")
    assert stored == [(None,), (None,), ("https://example.com/hook?x=1#y",)]


def test_brokers_of_one_name_are_different_brokers(service: Service) -> None:
    brokers = [service.register("Twin") for _ in range(3)]
    assert len({broker.id for broker in brokers}) == len({broker.key for broker in brokers}) == 3
    brokers[0].place("bid", 1, 10)
    assert [len(broker.listed()) for broker in brokers] == [1, 0, 0]


def test_a_key_is_stored_as_a_hash_only(service: Service) -> None:
    broker = service.register("Alice", webhook_url="http://example.com/")
    broker.place("bid", 1, 10)
    eventually(lambda: service.sql("SELECT 1 FROM orders"))
    tables = service.sql(
        "SELECT quote_ident(table_name) FROM information_schema.tables"
        " WHERE table_schema = 'public'"
    )
    assert len(tables) > 3
    for key in (broker.key, service.admin_key):
        for (table,) in tables:
            for text in (key, key.encode().hex()):
                query = f"SELECT count(*) FROM {table} AS r WHERE strpos(r::text, %s) > 0"
                assert service.sql(query, text) == [(0,)], table
    digest = hashlib.sha256(broker.key.encode()).digest()
    assert service.sql("SELECT key_hash FROM brokers") == [(digest,)]


def test_no_key_reaches_the_log(service: Service) -> None:
    broker = service.register("Alice")
    broker.order(price="x")
    service.client.request("GET", "/balance", key=broker.key + "x")
    # Not even when the bytes around it are no HTTP.
    head = f"GET /balance HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {broker.key}"
    service.client.raw(head.encode() + b"\x01\r\nConnection: close\r\n\r\n")
    assert broker.key not in service.text()
    assert service.admin_key not in service.text()


def test_a_key_works_at_once_and_until_the_reset(service: Service) -> None:
    broker = service.register("Alice")
    assert broker.balance().status == 200
    service.reset()
    assert broker.balance().status == 401


# ---- the admin's endpoints ----


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/register"), ("POST", "/debug/reset"), ("GET", "/debug/trade-count")],
)
def test_without_an_admin_key_the_admins_endpoints_are_503(
    keyless: Client, method: str, path: str
) -> None:
    for key in (None, "", "None", "anything"):
        reply = keyless.request(method, path, {"name": "x"} if method == "POST" else None, key)
        assert reply.status == 503
        assert set(reply.json) == {"code", "detail"}
        assert int(reply.headers["Retry-After"]) >= 1


def test_debug_endpoints_are_not_there_unless_opened(closed_service: Service) -> None:
    for method, path in (("POST", "/debug/reset"), ("GET", "/debug/trade-count")):
        for key in (None, closed_service.admin_key):
            reply = closed_service.client.request(method, path, key=key)
            assert reply.status == 404
            assert set(reply.json) == {"code", "detail"}
    document = closed_service.client.request("GET", "/openapi.json").json
    assert not [path for path in document["paths"] if "debug" in path]


def test_a_reset_empties_everything(service: Service) -> None:
    broker = service.register("Alice")
    broker.place("ask", 2, 10)
    broker.place("bid", 1, 10)
    reply = service.client.request("POST", "/debug/reset", key=service.admin_key)
    assert reply.status == 200
    assert isinstance(reply.json, dict)
    for table in ("orders", "trades", "brokers", "balances"):
        assert service.sql(f"SELECT count(*) FROM {table}") == [(0,)], table
    fresh = service.register("Alice")
    assert fresh.price().status == 404
    assert fresh.book().json["asks"] == []
    assert fresh.listed() == []
    assert fresh.order(order_type="market").json["remaining_quantity"] == 10


def test_trades_are_counted(service: Service) -> None:
    def count() -> Any:
        reply = service.client.request("GET", "/debug/trade-count", key=service.admin_key)
        assert reply.status == 200
        return reply.json

    broker = service.register("Alice")
    assert count() == {"count": 0}
    broker.place("ask", 1, 10)
    broker.place("ask", 1, 11)
    assert count() == {"count": 0}
    broker.place("bid", 2)
    eventually(lambda: count() == {"count": 2})


# ---- webhook targets ----

PRIVATE_TARGETS = [
    "http://127.0.0.1/",
    "http://localhost:8000/",
    "http://10.1.2.3/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data",
    "http://100.64.0.1/",
    "http://0.0.0.0/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[fd00::1]/",
    "http://[fe80::1]/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://127.1/",
    "http://224.0.0.1/",
]


@pytest.mark.parametrize("url", PRIVATE_TARGETS)
def test_a_private_webhook_target_is_refused(closed_service: Service, url: str) -> None:
    body = {"name": "Alice", "webhook_url": url}
    reply = closed_service.client.request("POST", "/register", body, closed_service.admin_key)
    assert reply.status == 422
    assert "webhook_url" in reply.json["detail"]


def test_a_public_webhook_target_is_taken(closed_service: Service) -> None:
    closed_service.register("Alice", webhook_url="https://8.8.8.8/hook")


# ---- for everyone ----


def test_health_says_that_it_can_serve(service: Service) -> None:
    reply = service.client.request("GET", "/health")
    assert reply.status == 200
    assert reply.json["status"] == "ok"
    figures = {name: value for name, value in reply.json.items() if isinstance(value, int | float)}
    assert {
        "webhooks_waiting",
        "webhooks_in_flight",
        "webhooks_delivered",
        "webhooks_failed",
        "webhooks_dropped",
    } <= figures.keys()
    assert all(value >= 0 for value in figures.values())


def test_metrics_are_in_the_format_of_prometheus(service: Service) -> None:
    service.register("Alice").order(price=0)
    reply = service.client.request("GET", "/metrics")
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(reply.json)}
    assert all(name.startswith("exchange_") for name in families)
    replies = families["exchange_http_replies"]
    assert replies.type == "counter"
    counted = {sample.labels["status"]: sample.value for sample in replies.samples}
    assert counted["422"] >= 1
    assert counted["201"] >= 1
    health = service.health()
    shared = {n for n, v in health.items() if isinstance(v, int | float)}
    assert {f"exchange_{name}" for name in shared} <= families.keys()


def test_the_root_leads_to_everything(service: Service) -> None:
    reply = service.client.request("GET", "/")
    assert reply.status == 200
    paths = [value for value in reply.json.values() if value.startswith("/")]
    assert {"/docs", "/openapi.json", "/health", "/metrics"} <= set(paths)
    assert all(service.client.request("GET", path).status == 200 for path in paths)


def test_requests_share_a_connection(service: Service) -> None:
    broker = service.register("Alice")
    with closing(service.client.connect()) as connection:
        assert send(connection, "GET", "/health").status == 200
        first_socket = connection.sock
        for _ in range(5):
            assert send(connection, "POST", "/orders", order_body(), broker.key).status == 201
            service.client.settle()
            order_id = send(connection, "GET", "/orders", None, broker.key).json["orders"][0]["id"]
            reply = send(connection, "POST", f"/orders/{order_id}/cancel", None, broker.key)
            assert reply.status == 204
        assert connection.sock is first_socket is not None


def test_pipelined_requests_are_answered_in_order(service: Service) -> None:
    requests = b"".join(
        b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path
        for path in (b"/", b"/nothing", b"/balance", b"/health")
    )
    # The last one ends the connection; otherwise the client would wait for the keep-alive time.
    last = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    statuses = re.findall(rb"HTTP/1.1 (\d+)", service.client.raw(requests + last))
    assert statuses == [b"200", b"404", b"401", b"200", b"404"]


@pytest.mark.parametrize("piece", [17, 60, 300, 1400, 1_000_000])
def test_requests_in_pieces_of_any_size_are_answered_in_order(service: Service, piece: int) -> None:
    """More at once than a connection keeps, orders among reads that may have to wait."""
    broker = service.register("Alice")
    head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {broker.key}\r\n"
    requests = ""
    for quantity in range(1, 41):
        body = json.dumps(order_body(quantity=quantity))
        requests += f"POST /orders {head}Content-Length: {len(body)}\r\n\r\n{body}"
        requests += f"GET /stocks/PETR4/book {head}\r\n"
    data = (requests + f"GET /balance {head}Connection: close\r\n\r\n").encode()
    with socket.create_connection((HOST, service.client.port), timeout=20) as connection:
        for start in range(0, len(data), piece):
            connection.sendall(data[start : start + piece])
        replies = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", replies) == [b"201", b"200"] * 40 + [b"200"]
    said = re.findall(rb'"remaining_quantity":(\d+)', replies)
    assert [int(quantity) for quantity in said] == list(range(1, 41))


def test_every_reply_says_its_length_type_and_date(service: Service) -> None:
    broker = service.register("Alice")
    for reply in (broker.order(), broker.balance(), broker.show("x"), broker.order(price=0)):
        assert int(reply.headers["Content-Length"]) > 0
        assert reply.headers.get_content_type() == "application/json"
        assert abs(parsedate_to_datetime(reply.headers["Date"]).timestamp() - time.time()) < 5
    cancelled = broker.cancel("x")
    assert "Date" in cancelled.headers
    assert "Content-Length" not in cancelled.headers  # as RFC 9110 has it for 204


@pytest.mark.parametrize("line", ["GET /health HTTP/1.0", "GET http://x:1/health?a=b HTTP/1.1"])
def test_other_forms_of_a_request_are_understood(service: Service, line: str) -> None:
    reply = service.client.raw(f"{line}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body)["status"] == "ok"


def test_a_client_of_http_1_0_sees_the_end_of_the_connection(service: Service) -> None:
    assert service.client.raw(b"GET /balance HTTP/1.0\r\n\r\n").split()[1] == b"401"


def test_a_client_may_ask_before_it_sends_the_body(service: Service) -> None:
    broker = service.register("Alice")
    body = json.dumps(order_body()).encode()
    head = (
        f"POST /orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {broker.key}\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((HOST, service.client.port), timeout=5) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 201 ")


def test_a_body_that_arrives_byte_by_byte_is_taken(service: Service) -> None:
    broker = service.register("Alice")
    body = json.dumps(order_body()).encode()
    head = (
        f"POST /orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {broker.key}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((HOST, service.client.port), timeout=5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head.encode() + body:
            connection.sendall(bytes([byte]))
        assert connection.recv(1000).startswith(b"HTTP/1.1 201 ")


def test_clients_that_go_away_do_no_harm(service: Service) -> None:
    broker = service.register("Alice")
    body = json.dumps(order_body()).encode()
    head = f"POST /orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {broker.key}\r\n"
    whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    # Reset instead of an orderly end, at every kind of moment.
    for length in (0, 5, len(head), len(whole) - len(body), len(whole) - 1, len(whole)):
        with socket.create_connection((HOST, service.client.port), timeout=5) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(whole[:length])
    listed = len(broker.listed())
    assert listed <= 1  # only the last request was whole
    assert broker.order().status == 201


# ---- the description ----

SERVED = {
    ("post", "/register"),
    ("post", "/orders"),
    ("get", "/orders"),
    ("get", "/orders/{}"),
    ("post", "/orders/{}/cancel"),
    ("get", "/stocks/{}/price"),
    ("get", "/stocks/{}/book"),
    ("get", "/balance"),
    ("get", "/health"),
    ("get", "/metrics"),
    ("get", "/docs"),
    ("get", "/openapi.json"),
    ("get", "/"),
    ("post", "/debug/reset"),
    ("get", "/debug/trade-count"),
}


class Description:
    """The OpenAPI document, and whether replies keep to it."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def check(self, method: str, path: str, reply: Reply) -> None:
        """Raise AssertionError unless the reply is one that is described."""
        operation = self.document["paths"][path][method]
        content = operation["responses"][str(reply.status)].get("content")
        if content is None:
            assert reply.json is None or "/" not in path.removeprefix("/")
        else:
            self.check_value(reply.json, content["application/json"]["schema"])

    def check_value(self, value: Any, schema: dict[str, Any]) -> None:
        if "$ref" in schema:
            _, *steps = schema["$ref"].split("/")
            target: Any = self.document
            for step in steps:
                target = target[step]
            self.check_value(value, target)
        elif "anyOf" in schema:
            assert any(self._fits(value, option) for option in schema["anyOf"]), (value, schema)
        elif "enum" in schema:
            assert value in schema["enum"]
        elif schema["type"] == "object":
            assert set(schema.get("required", ())) <= value.keys() <= schema["properties"].keys()
            for name, part in value.items():
                self.check_value(part, schema["properties"][name])
        elif schema["type"] == "array":
            for part in value:
                self.check_value(part, schema["items"])
        else:
            kinds = {"string": str, "integer": int, "null": type(None)}
            assert type(value) is kinds[schema["type"]], (value, schema)

    def _fits(self, value: Any, schema: dict[str, Any]) -> bool:
        try:
            self.check_value(value, schema)
        except AssertionError:
            return False
        return True


@pytest.fixture
def description(service: Service) -> Description:
    reply = service.client.request("GET", "/openapi.json")
    assert reply.status == 200
    return Description(reply.json)


def test_every_route_is_described_and_every_description_is_served(
    service: Service, description: Description
) -> None:
    document = description.document
    assert document["openapi"].startswith("3.1")
    described = {
        (method, re.sub(r"{\w+}", "{}", path))
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert described == SERVED
    for method, path in described:
        reply = service.client.request(method.upper(), path.replace("{}", "x"))
        assert reply.status in (200, 401)


def test_every_reference_in_the_description_leads_somewhere(description: Description) -> None:
    schemas = description.document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(description.document)))
    assert references
    assert references <= schemas.keys()


def test_every_reply_keeps_to_its_description(service: Service, description: Description) -> None:
    broker, other = service.register("Alice"), service.register("Bob")
    order_id = broker.place("ask", 5, 10)
    other.place("bid", 2, 10)
    market_id = other.place("ask", 1)
    admin, client = service.admin_key, service.client
    order, cancel = "/orders/{order_id}", "/orders/{order_id}/cancel"
    price, book = "/stocks/{symbol}/price", "/stocks/{symbol}/book"
    replies = [
        ("post", "/register", client.request("POST", "/register", {"name": "x"}, admin)),
        ("post", "/register", client.request("POST", "/register", {}, admin)),
        ("post", "/orders", broker.order()),
        ("post", "/orders", broker.order(order_type="market")),
        ("post", "/orders", broker.order(price=0)),
        ("post", "/orders", broker.request("POST", "/orders", b"{")),
        ("post", "/orders", broker.request("POST", "/orders", b" " * 20_000)),
        ("post", "/orders", client.request("POST", "/orders")),
        ("get", "/orders", broker.orders("limit=1")),
        ("get", "/orders", other.orders()),
        ("get", "/orders", broker.orders("status=x")),
        ("get", order, broker.show(order_id)),
        ("get", order, other.show(market_id)),
        ("get", order, other.show(order_id)),
        ("get", order, broker.show("x")),
        ("post", cancel, broker.cancel(order_id)),
        ("post", cancel, other.cancel(order_id)),
        ("get", price, broker.price()),
        ("get", price, broker.price("NEVER1")),
        ("get", book, broker.book()),
        ("get", "/balance", broker.balance()),
        ("put", "/balance", client.request("PUT", "/balance")),
    ]
    for method, path, reply in replies:
        described_method = method if method != "put" else "get"
        description.check(described_method, path, reply)
    assert {reply.status for *_, reply in replies} >= {
        *(200, 201, 204, 400, 401, 403, 404, 405, 413, 422)
    }


def test_what_the_description_demands_of_an_order_is_what_is_accepted(
    service: Service, description: Description
) -> None:
    schemas = description.document["components"]["schemas"]
    post = description.document["paths"]["/orders"]["post"]
    name = post["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schema = schemas[name]
    body = order_body(order_type="limit", client_order_id="1")
    assert schema["properties"].keys() == body.keys()
    assert schema["properties"]["order_type"]["default"] == "limit"
    assert schema["properties"]["valid_until"]["format"] == "date-time"
    assert {"document_number", "side", "symbol", "quantity"} <= set(schema["required"])
    assert "Required for a limit order" in schema["properties"]["price"]["description"]
    assert "Required for a limit order" in schema["properties"]["valid_until"]["description"]
    assert post["security"]
    broker, pattern = service.register("x"), schema["properties"]["symbol"]["pattern"]
    for symbol in ("A", "petr4", "A" * 12, "A" * 13, "", "A-B", "Ä", "A\n"):
        accepted = broker.order(symbol=symbol).status == 201
        assert accepted == bool(re.search(pattern.replace("$", r"\Z"), symbol)), symbol


def test_the_docs_are_one_page_that_needs_nothing_else(service: Service) -> None:
    reply = service.client.request("GET", "/docs")
    assert reply.status == 200
    assert reply.headers.get_content_type() == "text/html"
    for _, path in SERVED:
        assert re.search(re.escape(path).replace(r"\{\}", r"{\w+}"), reply.json), path
    assert "Required for a limit order, forbidden for a market order." in reply.json
    assert "<script" not in reply.json
    assert "http://" not in reply.json
    assert "https://" not in reply.json
