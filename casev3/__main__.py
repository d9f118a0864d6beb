from common.server import main

from .app import STATELESS, open_exchange

if __name__ == "__main__":
    main(open_exchange, stateless=STATELESS)
