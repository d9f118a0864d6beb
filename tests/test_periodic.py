"""What is done again and again goes on, whatever goes wrong with it once."""

import asyncio
import logging

import pytest

from common.errors import Unavailable
from common.periodic import every

PATIENCE_S = 30.0


def test_where_a_failure_must_not_be_passed_over_it_is_told_and_nothing_is_done_again() -> None:
    times, told, over = list[int](), list[tuple[str, BaseException]](), asyncio.Event()
    error = KeyError("a bug")

    async def work() -> None:
        times.append(len(times))
        raise error

    def failed(what: str, error: BaseException) -> None:
        told.append((what, error))
        over.set()

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S), every(0.001, work, failed):
            await over.wait()

    asyncio.run(run())
    assert told == [("what is done every 0.001 s failed", error)]
    assert times == [0]


@pytest.mark.parametrize(
    ("error", "is_told"), [(Unavailable("the database is gone"), False), (KeyError("a bug"), True)]
)
def test_work_that_fails_once_is_done_again(
    error: Exception, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    times, again = list[int](), asyncio.Event()

    async def work() -> None:
        times.append(len(times))
        if len(times) == 1:
            raise error
        again.set()

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S), every(0.001, work):
            await again.wait()

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert ("is tried again" in caplog.text) is is_told
