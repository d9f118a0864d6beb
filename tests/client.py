"""How tests talk to a service: real HTTP over real sockets, a real process, its real database."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psycopg

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 15.0
_POLL_S = 0.01

_T = TypeVar("_T")


def eventually(condition: Callable[[], _T], patience_s: float = PATIENCE_S) -> _T:
    """The first true value of ``condition``, asked again and again for a bounded time."""
    deadline_s = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"still {value!r} after {patience_s:g} s"
        time.sleep(_POLL_S)
    return value


def in_seconds(seconds: float) -> str:
    """The instant in so many seconds from now, as ``valid_until`` wants it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Reply(NamedTuple):
    """What came back. ``json`` is None without a body, and the text if it is no JSON."""

    status: int
    headers: Message
    json: Any


class Client:
    """Requests to one port, each on a connection of its own.

    ``reads_behind``: what was written is read only when it has been flushed.
    """

    def __init__(self, port: int, *, reads_behind: bool) -> None:
        self.port = port
        self.reads_behind = reads_behind

    def settle(self) -> None:
        """Wait until what was written can be read."""
        if self.reads_behind:
            eventually(lambda: self.request("GET", "/health").json["flush_pending"] == 0)

    def connect(self) -> HTTPConnection:
        return HTTPConnection(HOST, self.port, timeout=PATIENCE_S)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request. A ``body`` of bytes goes out as it is, anything else as JSON."""
        with closing(self.connect()) as connection:
            return send(connection, method, path, body, key, headers=headers)

    def raw(self, request: bytes) -> bytes:
        """Everything the server says to these bytes until it closes, which they should ask for."""
        with socket.create_connection((HOST, self.port), timeout=PATIENCE_S) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))


def send(
    connection: HTTPConnection,
    method: str,
    path: str,
    body: object = None,
    key: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One request on an open connection."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    all_headers = {"Authorization": f"Bearer {key}"} if key else {}
    connection.request(method, path, data, all_headers | dict(headers or {}))
    response = connection.getresponse()
    content = response.read()
    is_json = response.headers.get_content_type() == "application/json"
    parsed = json.loads(content) if content and is_json else content.decode() or None
    return Reply(response.status, response.headers, parsed)


def order_body(**fields: object) -> dict[str, object]:
    """A valid limit order with some fields changed; a field that is ``...`` is left out."""
    market = fields.get("order_type") == "market"
    limit = {"price": 1000, "valid_until": in_seconds(3600)}
    body = {"document_number": "12345678909", "side": "bid", "symbol": "PETR4", "quantity": 10}
    return {
        name: value
        for name, value in (body | ({} if market else limit) | fields).items()
        if value is not ...
    }


class Broker:
    """A registered broker, who sends requests with its own key, and reads what it has written."""

    def __init__(self, client: Client, name: str, broker_id: str, key: str) -> None:
        self.client = client
        self.name = name
        self.id = broker_id
        self.key = key

    def request(self, method: str, path: str, body: object = None) -> Reply:
        if method == "GET":
            self.client.settle()
        return self.client.request(method, path, body, self.key)

    def order(self, **fields: object) -> Reply:
        return self.request("POST", "/orders", order_body(**fields))

    def place(self, side: str, quantity: int, price: int | None = None, **fields: Any) -> str:
        """Send an order that must be accepted: limit with a price, else market. Its id."""
        kind = {"order_type": "market"} if price is None else {"price": price}
        reply = self.order(side=side, quantity=quantity, **kind, **fields)
        assert reply.status == 201, reply
        return str(reply.json["order_id"])

    def place_all(self, orders: Iterable[Mapping[str, object]]) -> list[dict[str, Any]]:
        """Send many that must be accepted, all over one connection. Their receipts."""
        with closing(self.client.connect()) as connection:
            replies = [
                send(connection, "POST", "/orders", order_body(**fields), self.key)
                for fields in orders
            ]
        assert {reply.status for reply in replies} == {201}
        return [reply.json for reply in replies]

    def cancel(self, order_id: str) -> Reply:
        return self.request("POST", f"/orders/{order_id}/cancel")

    def show(self, order_id: str) -> Reply:
        return self.request("GET", f"/orders/{order_id}")

    def detail(self, order_id: str) -> dict[str, Any]:
        """An order that must be there."""
        reply = self.show(order_id)
        assert reply.status == 200, reply
        assert isinstance(reply.json, dict)
        return reply.json

    def orders(self, query: str = "") -> Reply:
        return self.request("GET", f"/orders?{query}")

    def listed(self, query: str = "", limit: int = 500) -> list[dict[str, Any]]:
        """All pages of a listing."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            reply = self.orders(f"{query}&limit={limit}{cursor}")
            assert reply.status == 200, reply
            found += reply.json["orders"]
            if reply.json["next_cursor"] is None:
                return found
            cursor = f"&cursor={reply.json['next_cursor']}"

    def price(self, symbol: str = "PETR4", query: str = "") -> Reply:
        return self.request("GET", f"/stocks/{symbol}/price?{query}")

    def book(self, symbol: str = "PETR4", query: str = "") -> Reply:
        return self.request("GET", f"/stocks/{symbol}/book?{query}")

    def balance(self) -> Reply:
        return self.request("GET", "/balance")

    def cash(self) -> int:
        return int(self.balance().json["balance"])


class Service:
    """One case as a process of its own. It is not ready before ``wait_until_ready`` returns.

    ``module`` is run in place of the case's own.
    """

    def __init__(
        self,
        case: str,
        log: Path,
        database_url: str | None,
        settings: Mapping[str, str | None],
        *,
        reads_behind: bool,
        module: str | None = None,
    ) -> None:
        self.case = case
        self.log = log
        self.database_url = database_url
        self.admin_key = secrets.token_urlsafe(16)
        self.client = Client(free_port(), reads_behind=reads_behind)
        defaults: dict[str, str | None] = {
            "EXCHANGE_PORT": str(self.client.port),
            "EXCHANGE_DATABASE_URL": database_url,
            "EXCHANGE_ADMIN_API_KEY": self.admin_key,
            "EXCHANGE_DEBUG": "1",
            "EXCHANGE_WEBHOOK_PRIVATE": "1",
        }
        chosen = {
            name: value for name, value in {**defaults, **settings}.items() if value is not None
        }
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("EXCHANGE_", "PG"))
        }
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module or case],
                cwd=ROOT,
                env=inherited | {"TMPDIR": str(log.parent)} | chosen,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.text()
        try:
            return self.client.request("GET", "/health").status == 200
        except OSError:
            return False

    def text(self) -> str:
        """The log so far."""
        return self.log.read_text()

    def send_signal(self, how: signal.Signals) -> None:
        self.process.send_signal(how)

    def exit_code(self) -> int:
        """Wait for the end of the process, which leaves no other process behind."""
        code = self.process.wait(60)
        eventually(self._is_alone)
        return code

    def _is_alone(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """A graceful stop."""
        self.send_signal(how)
        self.expect_good_end()

    def expect_good_end(self) -> None:
        """Exit code 0, and nothing in the log that should not be there."""
        assert self.exit_code() == 0, self.text()
        assert_no_error(self.text())

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        assert self.exit_code() == -signal.SIGKILL

    def running(self) -> bool:
        return self.process.poll() is None

    def health(self) -> dict[str, Any]:
        figures = self.client.request("GET", "/health").json
        assert isinstance(figures, dict)
        return figures

    def register(self, name: str = "broker", **fields: object) -> Broker:
        reply = self.client.request("POST", "/register", {"name": name, **fields}, self.admin_key)
        assert reply.status == 201, reply
        return Broker(self.client, name, reply.json["broker_id"], reply.json["api_key"])

    def again(self, broker: Broker) -> Broker:
        """The same broker at this service, which another one has registered."""
        return Broker(self.client, broker.name, broker.id, broker.key)

    def reset(self) -> None:
        reply = self.client.request("POST", "/debug/reset", key=self.admin_key)
        assert reply.status == 200, reply

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows of one statement on the database of the service."""
        assert self.database_url is not None
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def locked(service: Service, table: str, mode: str = "EXCLUSIVE") -> Iterator[None]:
    """Nobody else can write to the table meanwhile; reading goes on, but not in every mode."""
    assert service.database_url is not None
    with psycopg.connect(service.database_url) as connection:
        connection.execute(f"LOCK TABLE {table} IN {mode} MODE".encode())
        yield
        connection.rollback()


def assert_no_error(log: str) -> None:
    """The log tells of no exception and of no error."""
    assert "Traceback" not in log, log
    assert " ERROR " not in log, log
