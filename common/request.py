"""A request, as a service needs it, and a short way to most of them.

aiohttp's parser makes some thirty objects for a request: a mapping of its headers, a URL, a stream
for its body. Nearly all requests are one piece that a regular expression matches as a whole, at
less than half the cost. It matches only what can be read in one way; whatever else comes is
aiohttp's.
"""

import re

import msgspec
from aiohttp.http import RawRequestMessage

BODY_MAX_BYTES = 16 * 1024
# As much as aiohttp takes for a single line, and less than as many headers.
_HEAD_MAX_BYTES, _HEADERS_MAX = 8_190, 50


class Request(msgspec.Struct, frozen=True, gc=False):
    """``path`` and ``query`` as they were sent; what is not there is empty."""

    method: str
    path: str
    query: str
    authorization: str
    body: bytes


def request_of(message: RawRequestMessage, body: bytes) -> Request:
    """What aiohttp has parsed."""
    target = message.path
    if target[:1] != "/":  # a request by way of a proxy names the whole URL
        target = message.url.raw_path_qs
    path, _, query = target.partition("?")
    query = query.partition("#")[0]
    return Request(message.method, path, query, message.headers.get("Authorization", ""), body)


def path_asked(first: bytes) -> str:
    """What the first bytes of a request ask for, whatever follows; empty if that is not there."""
    line = first[:_HEAD_MAX_BYTES].split(b" ", 2)
    return line[1].partition(b"?")[0].decode("latin-1") if len(line) == 3 else ""


def whole_request(data: bytes) -> Request | None:
    """The one plain request that these bytes surely are, on a connection that stays.

    None wherever a parser might see more, less or something else in them.
    """
    found = _WHOLE.match(data)
    if found is None:
        return None
    method, path, query, host, key, length = found.group(1, 2, 3, 4, 5, 6)
    end = found.end()
    size = len(data) - end
    if host is None or end > _HEAD_MAX_BYTES or size > BODY_MAX_BYTES or int(length or 0) != size:
        return None
    return Request(
        method.decode(),
        path.decode(),
        query.decode() if query else "",
        key.strip().decode() if key else "",
        data[end:],
    )


def _spelled(name: str) -> str:
    """A header's name with capitals or without, as clients write it."""
    return re.sub("[A-Z]", lambda letter: f"[{letter[0]}{letter[0].lower()}]", name)


def _once(number: int, name: str, value: str = "[ -~]*+") -> str:
    """A header that may stand there once: not again where the group of its value is set.

    That group stands behind the question for it, so it has a number and no name.
    """
    return rf"(?({number})(?!)|{_spelled(name)}: ?+({value}))"


# There is one way only to read a header (``?+`` and ``*+`` give nothing back, and no two begin
# alike), so this takes linear time. All headers together may be tried again: Python before 3.11.5
# gets a possessive repeat of more than a letter wrong.
_WHOLE = re.compile(
    rb"(GET|POST) (/[\w/.~%%:@+,-]*+)(?:\?([\w/.~%%:@+,=&-]*+))? HTTP/1\.1\r\n"
    rb"(?:(?:%b)\r\n){0,%d}\r\n"
    % (
        "|".join(
            (
                _once(4, "Host"),
                _once(5, "Authorization"),
                _once(6, "Content-Length", r"\d{1,5}"),
                _once(7, "Content-Type"),
                _once(8, "User-Agent"),
                _spelled("Accept(?:-Encoding|-Language)?: ?+[ -~]*+"),
                _spelled("Connection: ?+Keep-Alive"),
                _spelled(r"X-[\w-]++: ?+[ -~]*+"),
            )
        ).encode(),
        _HEADERS_MAX,
    )
)
