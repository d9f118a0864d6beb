"""What can go wrong, each with a stable code.

The exchange raises these and knows nothing about HTTP; ``common/handlers.py`` alone maps them to
statuses. Anything else that escapes is a bug and stays a logged 500.
"""


class ExchangeError(Exception):
    """A request that cannot be done. ``detail`` says what is wrong and what is expected."""

    code = "error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class MalformedBody(ExchangeError):
    """The body is not a JSON document."""

    code = "malformed_json"


class InvalidField(ExchangeError):
    """A field, named in ``detail``, is wrong."""

    code = "invalid_field"


class Unauthorized(ExchangeError):
    """No key, or a key that nobody holds."""

    code = "unauthorized"


class Forbidden(ExchangeError):
    """The order belongs to another broker."""

    code = "forbidden"


class NotFound(ExchangeError):
    """Nothing is known under this name."""

    code = "not_found"


class MethodNotAllowed(ExchangeError):
    """The path is there, but not for this method."""

    code = "method_not_allowed"

    def __init__(self, allowed: list[str]) -> None:
        super().__init__(f"allowed here: {', '.join(allowed)}")
        self.allowed = allowed


class IdReused(ExchangeError):
    """The broker has used the ``client_order_id`` for another order."""

    code = "client_order_id_reused"


class TooLarge(ExchangeError):
    """The body is longer than any that makes sense."""

    code = "body_too_large"


class TooSlow(ExchangeError):
    """The body does not arrive in time."""

    code = "request_timeout"


class Unavailable(ExchangeError):
    """The exchange cannot take this now; the same request may succeed in ``retry_after_s``."""

    code = "unavailable"

    def __init__(self, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Overloaded(Unavailable):
    """A bound on waiting work is reached."""

    code = "overloaded"


class StartError(Exception):
    """The service cannot start. The message is one line that says what to do about it."""


class Displaced(Exception):
    """Another exchange has taken the database over, so nothing of this one can be stored."""


def one_line(error: Exception) -> str:
    """The last part of the first line: psycopg and libpq put where they connected before it."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line.rpartition("failed: ")[2].strip()
