"""Where webhooks may go: public hosts only, in whatever form an address is written."""

import socket
from collections.abc import AsyncIterator
from typing import NoReturn

import pytest

from common.errors import InvalidField
from common.webhooks import PublicResolver, Webhooks, is_public

PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "0:0:0:0:0:0:0:1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
]
# IPv6 addresses that stand for a private IPv4 address, or for this site.
PRIVATE_IN_DISGUISE = [
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::1",
    "2002:a00:1::1",
    "::127.0.0.1",
    "fec0::1",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_no_public_host_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PRIVATE_IN_DISGUISE)
def test_a_private_address_in_disguise_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "2130706433", "example.com"])
def test_what_is_no_address_is_neither(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        is_public(text)


# ---- URLs ----


def webhooks(*, private_allowed: bool = False) -> Webhooks:
    return Webhooks(private_allowed=private_allowed, queue_max=1)


async def refusal(url: str, *, private_allowed: bool = False) -> str:
    with pytest.raises(InvalidField) as caught:
        await webhooks(private_allowed=private_allowed).check_target(url)
    assert caught.value.detail.startswith("webhook_url: ")
    return caught.value.detail


async def is_let_through(url: str, *, private_allowed: bool = False) -> bool:
    try:
        await webhooks(private_allowed=private_allowed).check_target(url)
    except InvalidField:
        return False
    return True


@pytest.fixture
def nobody_knows_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look-up fails, as without a network."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that every name has, to be filled in by the test."""
    found: list[str] = []

    def look_up(_host: object, port: object, *_: object, **__: object) -> list[object]:
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return found


@pytest.mark.parametrize("address", [address for address in PRIVATE if "%" not in address])
async def test_a_private_address_is_refused(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    assert "expected a public host" in await refusal(f"http://{host}:8080/hook")


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "127.0.0.1.",
        "%31%32%37.0.0.1",
        "localhost.",
        "0",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "[fe80::1%25eth0]",
        "localhost",
        "LOCALHOST",
    ],
)
async def test_a_private_host_is_refused_in_every_spelling(host: str) -> None:
    assert "expected a public host" in await refusal(f"http://{host}/")


@pytest.mark.usefixtures("nobody_knows_names")
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:10.0.0.1]"])
async def test_a_private_address_is_refused_even_without_a_name_service(host: str) -> None:
    assert "expected a public host" in await refusal(f"http://{host}/")


@pytest.mark.parametrize(
    "url",
    ["http://8.8.8.8", "https://8.8.8.8:8443/a?b=c", "HTTP://8.8.8.8/", "http://[2606:4700::1]/"],
)
async def test_a_public_address_is_let_through(url: str) -> None:
    assert await is_let_through(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "8.8.8.8",
        "//8.8.8.8/",
        "/hook",
        "http:8.8.8.8",
        "http://",
        "http:///hook",
        "http://:80/",
        "http://[]/",
        "http://[::1",
        "http://8.8.8.8:99999/",
        "http://8.8.8.8:x/",
        "http://8.8.8.8/\n",
        "http://8.8.8.8/\0",
        "http://8.8.8.8\\@127.0.0.1/",
        "ftp://8.8.8.8/",
        "file:///etc/passwd",
        "gopher://8.8.8.8/",
        "ws://8.8.8.8/",
        "javascript:alert(1)",
        "http://xn--/",
    ],
)
@pytest.mark.parametrize("private_allowed", [False, True])
async def test_what_is_no_http_url_is_refused(url: str, private_allowed: bool) -> None:
    detail = await refusal(url, private_allowed=private_allowed)
    assert "expected an http:// or https:// URL" in detail


@pytest.mark.parametrize("user", ["user", "user:password", ":password", "8.8.8.8%2F"])
async def test_a_url_with_user_or_password_is_refused(user: str) -> None:
    assert "without user and password" in await refusal(f"http://{user}@8.8.8.8/")


@pytest.mark.usefixtures("nobody_knows_names")
async def test_a_name_that_nobody_knows_now_is_let_through() -> None:
    assert await is_let_through("https://hooks.example.com/trades")


async def test_a_name_of_a_public_address_is_let_through(answers: list[str]) -> None:
    answers.extend(["8.8.8.8", "2606:4700::1"])
    assert await is_let_through("https://hooks.example.com/trades")


async def test_a_name_with_one_private_address_is_refused(answers: list[str]) -> None:
    answers.extend(["8.8.8.8", "10.0.0.1"])
    assert "expected a public host" in await refusal("https://hooks.example.com/trades")


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "localhost", "[::1]", "169.254.169.254"])
async def test_a_private_target_is_allowed_by_the_flag(host: str) -> None:
    assert await is_let_through(f"http://{host}:9000/", private_allowed=True)


# ---- the look-up at delivery ----


@pytest.fixture
async def resolver() -> AsyncIterator[PublicResolver]:
    resolver = PublicResolver()
    yield resolver
    await resolver.close()


async def test_the_look_up_refuses_a_name_of_a_private_address(resolver: PublicResolver) -> None:
    with pytest.raises(OSError, match="localhost has no public address"):
        await resolver.resolve("localhost", 80)


async def test_the_look_up_refuses_a_number_that_is_a_private_address(
    resolver: PublicResolver,
) -> None:
    with pytest.raises(OSError, match="no public address"):
        await resolver.resolve("2130706433", 80)


async def test_the_look_up_gives_public_addresses_only(
    resolver: PublicResolver, answers: list[str]
) -> None:
    answers.extend(["10.0.0.1", "8.8.8.8", "127.0.0.1"])
    assert [found["host"] for found in await resolver.resolve("example.com", 80)] == ["8.8.8.8"]
