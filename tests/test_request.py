"""What is taken for one plain request is what aiohttp's parser would see, and nothing else is."""

import asyncio
from unittest.mock import Mock

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from hypothesis import example, given
from hypothesis import strategies as st
from raw_requests import get, post

from common.connection import is_plain
from common.request import BODY_MAX_BYTES, Request, request_of, whole_request


def parsed(data: bytes) -> Request:
    """What aiohttp's parser sees, which must be one plain request and nothing behind it."""
    loop = asyncio.new_event_loop()
    try:
        protocol = BaseProtocol(loop)
        protocol.transport = Mock()
        parser = HttpRequestParser(
            protocol, loop, 2**16, max_line_size=8190, max_headers=128, max_field_size=8190
        )
        [(message, content)], upgraded, tail = parser.feed_data(data)
        assert (upgraded, tail, content.is_eof(), is_plain(message)) == (False, b"", True, True)
        return request_of(message, content.read_nowait())
    finally:
        loop.close()


USUAL = post("/orders", b"{}", "Authorization: Bearer k")
CLIENTS = {
    "curl": post(
        "/orders", b"{}", "User-Agent: curl/7.88.1", "Accept: */*", "Authorization: Bearer k"
    ),
    "requests": b"\r\n".join(
        [
            b"POST /orders HTTP/1.1",
            b"Host: localhost:8000",
            b"User-Agent: python-requests/2.32.3",
            b"Accept-Encoding: gzip, deflate",
            b"Accept: */*",
            b"Connection: keep-alive",
            b"Authorization: Bearer k",
            b"Content-Length: 2",
            b"Content-Type: application/json",
            b"",
            b"{}",
        ]
    ),
    "aiohttp": get(
        "/orders?status=open&limit=10",
        "Authorization: Bearer k",
        "Accept: */*",
        "Accept-Encoding: gzip, deflate",
        "User-Agent: Python/3.11 aiohttp/3.14.5",
    ),
    "Go": b"\r\n".join(
        [
            b"POST /orders HTTP/1.1",
            b"Host: localhost:8000",
            b"User-Agent: Go-http-client/1.1",
            b"Content-Length: 2",
            b"Authorization: Bearer k",
            b"Content-Type: application/json",
            b"Accept-Encoding: gzip",
            b"",
            b"{}",
        ]
    ),
    "node": post("/orders", b"{}", "authorization: Bearer k", "user-agent: node", "accept: */*")
    .replace(b"Host", b"host")
    .replace(b"Content-Length", b"content-length"),
    "a proxy": get("/health", "X-Forwarded-For: 10.0.0.1", "X-Request-Id: 7"),
}


@pytest.mark.parametrize("data", CLIENTS.values(), ids=CLIENTS)
def test_the_requests_of_usual_clients_are_known_as_such(data: bytes) -> None:
    request = whole_request(data)
    assert request is not None
    assert request == parsed(data)


def test_all_that_a_service_needs_of_a_request_is_there() -> None:
    assert whole_request(USUAL) == Request("POST", "/orders", "", "Bearer k", b"{}")
    book = get("/stocks/PETR4/book?depth=3", "Authorization:  Bearer k ")
    assert whole_request(book) == Request("GET", "/stocks/PETR4/book", "depth=3", "Bearer k", b"")
    assert whole_request(get("/health")) == Request("GET", "/health", "", "", b"")


def test_a_request_by_way_of_a_proxy_asks_for_a_path_too() -> None:
    data = get("http://exchange:8000/stocks/A/price?trades=2", "Authorization: Bearer k")
    assert parsed(data) == Request("GET", "/stocks/A/price", "trades=2", "Bearer k", b"")


def test_what_stands_behind_a_number_sign_is_no_part_of_a_query() -> None:
    assert parsed(get("/orders?limit=10#x")) == Request("GET", "/orders", "limit=10", "", b"")
    assert parsed(get("http://x/orders?limit=10#x")).query == "limit=10"


NOT_ONE_PLAIN_REQUEST = {
    "nothing": b"",
    "the beginning of a head": get("/1")[:-1],
    "the beginning of a body": post("/1", b"{}")[:-1],
    "two requests": get("/1") + get("/2"),
    "a request and the beginning of another": post("/1", b"{}") + b"G",
    "a body that ends as the beginning of another": post("/1", b"GET") + b"GET",
    "an empty line before the request": b"\r\n\r\n" + get("/1"),
    "chunks": get("/1", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunks with a length": post("/1", b"0\r\n\r\n", "Transfer-Encoding: chunked"),
    "no HTTP": b"\x16\x03\x01\r\n\r\n",
    "two lengths": post("/1", b"{}", "Content-Length: 2"),
    "two keys": get("/1", "Authorization: Bearer a", "Authorization: Bearer b"),
    "two hosts": get("/1", "Host: y"),
    "no host": get("/1").replace(b"Host", b"X-Host"),
    "a client that waits before it sends the body": post("/1", b"{}", "Expect: 100-continue"),
    "a connection that is to be closed": get("/1", "Connection: close"),
    "HTTP/1.0": get("/1").replace(b"1.1", b"1.0"),
    "another method": get("/1").replace(b"GET", b"HEAD"),
    "another protocol": get("/1", "Connection: upgrade", "Upgrade: websocket"),
    "a header that nobody here knows": get("/1", "Content-Encoding: gzip"),
    "a line that goes on": get("/1", "X-A: b", " c"),
    "more than a body may have": post("/1", b" " * (BODY_MAX_BYTES + 1)),
    "a longer line than aiohttp takes": get("/1", "X-A: " + "b" * 8190),
    "more headers than aiohttp takes": get("/1", *["X-A: b"] * 129),
    "what is no letter in a header": get("/1", "X-A: \x00"),
    "a fragment": get("/1#2"),
}


@pytest.mark.parametrize("data", NOT_ONE_PLAIN_REQUEST.values(), ids=NOT_ONE_PLAIN_REQUEST)
def test_what_is_not_one_plain_request_is_left_to_aiohttp(data: bytes) -> None:
    assert whole_request(data) is None


lines = st.sampled_from(
    [
        b"Host: x",
        b"host:x",
        b"Authorization: Bearer k",
        b"authorization:  k",
        b"Authorization:",
        b"Connection: keep-alive",
        b"Connection: Keep-Alive",
        b"Connection: close",
        b"Proxy-Connection: close",
        b"connection: keep-alive, upgrade",
        b"Upgrade: websocket",
        b"Expect: 100-continue",
        b"Content-Length: 2",
        b"content-length: 4",
        b"Content-Length:  2",
        b"Content-Length: 02",
        b"Content-Length: +2",
        b"Content-Length: 2 ",
        b"Content-Length : 2",
        b"Content-Type: application/json",
        b"Transfer-Encoding: chunked",
        b"X-Long: content-length: 7",
        b"X-Long: a\tb",
        b"X-:",
        b"User-Agent: a",
        b"Accept:",
        b" folded: 2",
        b"X: \xff",
        b"X-A: \xff",
        b"X-A: \r",
        b"X-A: \n",
        b"no colon",
        b"",
    ]
)
starts = st.sampled_from(
    [
        b"GET /health HTTP/1.1",
        b"POST /orders HTTP/1.1",
        b"GET /orders?status=open&symbol=%50 HTTP/1.1",
        b"GET //x/y?? HTTP/1.1",
        b"GET /?a#b HTTP/1.1",
        b"DELETE /orders/1 HTTP/1.1",
        b"POST /orders HTTP/1.0",
        b"HEAD / HTTP/1.1",
        b"get / HTTP/1.1",
        b"GET / x HTTP/1.1",
        b"GET http://x/ HTTP/1.1",
    ]
)
built = st.builds(
    lambda start, headers, body: b"\r\n".join([start, *headers, b"", body]),
    starts,
    st.lists(lines, max_size=6),
    st.sampled_from([b"", b"{}", b"{}{}", b"2\r\n{}\r\n0\r\n\r\n", USUAL]),
)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A usual request in which some bytes were put in, left out or replaced."""
    data = draw(st.sampled_from([*CLIENTS.values(), USUAL]))
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(data)))
        end = begin + draw(st.integers(0, 2))
        data = data[:begin] + draw(st.binary(max_size=2)) + data[end:]
    return data


@given(built | changed() | st.sampled_from([*CLIENTS.values()]))
@example(get("/x", "Host: y"))
def test_what_is_taken_for_one_request_is_the_same_for_the_parser(data: bytes) -> None:
    request = whole_request(data)
    if request is not None:
        assert request == parsed(data)
