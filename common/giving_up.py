"""The end of a process that can no longer keep what it has promised."""

import logging
import os
from typing import NoReturn

from common.errors import Displaced

log = logging.getLogger(__name__)


def give_up(what: str, error: BaseException) -> NoReturn:
    """Say why, and end the process at once, so that nothing more is acknowledged.

    What is not known to be stored is lost, or found again by the next start, as after a crash.
    """
    expected = isinstance(error, OSError | Displaced)
    log.critical("%s (%s): the exchange ends", what, error, exc_info=None if expected else error)
    os._exit(os.EX_IOERR)
