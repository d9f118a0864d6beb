"""casev3 that burns 100 µs of CPU more for each request: what the gate must find.

It stands here because the product has no switch for it. ``python -m tests.slowed_casev3``
"""

import time

from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web import BaseRequest

from casev3.app import STATELESS, open_exchange
from common.api import Api
from common.reply import Reply
from common.server import main

BURNT_S = 100e-6

answer = Api.answer


async def slowly(
    self: Api,
    message: RawRequestMessage,
    content: StreamReader,
    request: BaseRequest | None = None,
) -> Reply:
    until_s = time.thread_time() + BURNT_S
    while time.thread_time() < until_s:
        pass
    return await answer(self, message, content, request)


if __name__ == "__main__":
    Api.answer = slowly  # type: ignore[method-assign]
    main(open_exchange, stateless=STATELESS)
