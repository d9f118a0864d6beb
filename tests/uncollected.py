"""A case whose garbage collector is off, and which says at the end what it would have found.

``TEST_CASE=casev3 python -m tests.uncollected``
"""

import gc
import importlib
import os

from common import garbage
from common.server import main

if __name__ == "__main__":
    app = importlib.import_module(f"{os.environ['TEST_CASE']}.app")
    garbage.YOUNG_OBJECTS = 0
    try:
        main(app.open_exchange, stateless=app.STATELESS)
    finally:
        print(f"garbage: {gc.collect()} objects")
