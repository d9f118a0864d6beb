from common.server import main

from .app import open_exchange

if __name__ == "__main__":
    main(open_exchange)
