"""What is done again and again goes on, whatever goes wrong with it once."""

import asyncio
import logging

import pytest

from common.errors import Unavailable
from common.periodic import every

PATIENCE_S = 30.0


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
