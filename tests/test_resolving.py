"""Name look-up with a name server that does not answer: who waits for it, and who does not."""

import asyncio
import gc
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from threading import Event
from typing import Any

import pytest
from client import HOST, eventually

from common import webhooks
from common.resolving import Resolver
from common.webhooks import Notice, Webhooks

MANY = 50  # more than any event loop has threads


class Names:
    """A name server: nothing about ``silent…`` before the end, ``unknown`` nobody knows."""

    def __init__(self) -> None:
        self.asked = Counter[str]()
        self.ended = Event()

    def __call__(self, host: str, port: int, *_: object, **__: object) -> list[Any]:
        self.asked[host] += 1
        if host.startswith("silent"):
            assert self.ended.wait(60)
        if host == "unknown":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (HOST, port))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.ended.set()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Webhooks that try again soon."""
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(webhooks, "BACKOFF_S", 0.01)


async def test_a_name_is_looked_up_while_many_others_have_no_answer(names: Names) -> None:
    resolver = Resolver()
    silent = [asyncio.create_task(resolver.resolve(f"silent{n}", 80)) for n in range(MANY)]
    async with asyncio.timeout(10):
        [found] = await resolver.resolve("good", 80)
    assert found["host"] == HOST
    assert not any(task.done() for task in silent)
    names.ended.set()
    await asyncio.gather(*silent)


async def test_look_ups_without_an_answer_take_no_thread_of_the_event_loop(names: Names) -> None:
    resolver = Resolver()
    silent = [asyncio.create_task(resolver.resolve(f"silent{n}", 80)) for n in range(MANY)]
    async with asyncio.timeout(10):
        assert await asyncio.to_thread(int) == 0
        assert await asyncio.get_running_loop().getaddrinfo("good", 80)
    names.ended.set()
    await asyncio.gather(*silent)


async def test_a_look_up_beyond_the_bound_fails_at_once(names: Names) -> None:
    resolver = Resolver(look_ups_max=2)
    silent = [asyncio.create_task(resolver.resolve(f"silent{n}", 80)) for n in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="good: too many look-ups have no answer yet"):
        await resolver.resolve("good", 80)
    names.ended.set()
    await asyncio.gather(*silent)
    assert await resolver.resolve("good", 80)


async def test_who_stops_waiting_leaves_the_look_up_in_its_bound(names: Names) -> None:
    resolver = Resolver(look_ups_max=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await resolver.resolve("silent", 80)
    with pytest.raises(OSError, match="too many look-ups"):
        await resolver.resolve("good", 80)


@pytest.mark.usefixtures("impatient")
async def test_a_target_whose_name_has_no_answer_is_looked_up_once_for_all_tries(
    names: Names,
) -> None:
    notice = Notice("http://silent:1/", b"{}")
    async with Webhooks(private_allowed=True, queue_max=100).opened() as opened:
        opened.enqueue([notice] * 5)
        await asyncio.to_thread(eventually, lambda: opened.figures()["webhooks_failed"] == 5)
    assert names.asked == {"silent": 1}


@pytest.mark.usefixtures("names")
async def test_a_name_that_nobody_knows_leaves_nothing_to_collect() -> None:
    resolver = Resolver()
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            with suppress(socket.gaierror):
                await resolver.resolve("unknown", 80)
        assert gc.collect() < 50
    finally:
        gc.enable()


async def test_an_address_of_one_link_keeps_the_number_of_the_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    info = (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("fe80::1", 80, 0, 7))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [info])
    [found] = await Resolver().resolve("here", 80)
    assert (found["host"], found["port"], found["family"]) == ("fe80::1%7", 80, socket.AF_INET6)
