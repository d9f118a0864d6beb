"""casev3 that burns 100 µs of CPU more for each request: what the gate must find.

It stands here because the product has no switch for it. ``python -m tests.slowed_casev3``
"""

import time

from casev3.app import STATELESS, open_exchange
from common.api import Api
from common.call import BodyOf
from common.reply import Reply
from common.request import Request
from common.server import main

BURNT_S = 100e-6

answer = Api.answer


async def slowly(self: Api, request: Request, body_of: BodyOf | None = None) -> Reply:
    until_s = time.thread_time() + BURNT_S
    while time.thread_time() < until_s:
        pass
    return await answer(self, request, body_of)


if __name__ == "__main__":
    Api.answer = slowly  # type: ignore[method-assign]
    main(open_exchange, stateless=STATELESS)
