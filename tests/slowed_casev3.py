"""casev3 that burns 100 µs of CPU more for each request: what the gate must find.

It stands here because the product has no switch for it. ``python -m tests.slowed_casev3``
"""

import time

from aiohttp import web

from casev3.app import STATELESS, open_exchange
from common.api import Api
from common.server import main

BURNT_S = 100e-6

answer = Api.__call__


async def slowly(self: Api, request: web.BaseRequest) -> web.StreamResponse:
    until_s = time.thread_time() + BURNT_S
    while time.thread_time() < until_s:
        pass
    return await answer(self, request)


if __name__ == "__main__":
    Api.__call__ = slowly  # type: ignore[method-assign]
    main(open_exchange, stateless=STATELESS)
