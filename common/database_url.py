"""What to say when EXCHANGE_DATABASE_URL does not work."""

import re
import shlex

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from common.errors import one_line

_PORT = "5432"  # libpq's own choice
# psycopg knows no SQLSTATE of a refused connection (3.3), so the words of the server decide.
_REFUSALS = {
    "password authentication failed": "28P01",
    "no password supplied": "28P01",
    r"role .* does not exist": "28000",
    r"database .* does not exist": "3D000",
    "too many (clients|connections)": "53300",
    "connection slots are reserved": "53300",
}
_UNREACHABLE = "Is the server running|failed to resolve|could not translate|timeout expired"


def connection_error_line(url: str, error: psycopg.Error) -> str:
    """One line that says why connecting to EXCHANGE_DATABASE_URL failed and what to do.

    It never shows the password of ``url``.
    """
    parameters = _parse(url)
    if parameters is None:
        return (
            "EXCHANGE_DATABASE_URL is malformed; expected "
            "postgresql://user:password@host:port/database, special characters percent-encoded"
        )
    return f"EXCHANGE_DATABASE_URL: {_explain(parameters, error)}"


def _parse(url: str) -> dict[str, str] | None:
    """What libpq makes of the URL and its defaults; None if that cannot be what was meant."""
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except psycopg.ProgrammingError:
        return None
    # An '@' or '/' in the password shifts its end into the host, the port or the database.
    misread = any("@" in given.get(name, "") for name in ("host", "port", "dbname"))
    if misread or not given.get("port", _PORT).replace(",", "").isdigit():
        return None
    defaults = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.get_defaults() if o.val}
    return defaults | given


def _explain(parameters: dict[str, str], error: psycopg.Error) -> str:
    host, port = parameters.get("host", ""), parameters.get("port", _PORT)
    user = parameters.get("user", "")
    database = parameters.get("dbname", user)
    # Without a host libpq takes its own socket directory.
    place = f"{host}:{port}" if host and host[0] != "/" else f"socket {host} port {port}"
    said = _without_passwords(one_line(error), parameters)
    match error.sqlstate or _sqlstate_of(str(error)):
        case "28P01" | "28000":
            return f'PostgreSQL at {place} does not accept user "{user}" ({said})'
        case "3D000":
            words = [*(("-h", host) if host else ()), "-p", port, "-U", user, database]
            return f'no database "{database}" at {place}; make it: createdb {shlex.join(words)}'
        case "53300":
            return (
                f"PostgreSQL at {place} has too many connections; "
                "close others or raise its max_connections"
            )
    if re.search(_UNREACHABLE, str(error)):
        return (
            f"no PostgreSQL at {place}; "
            "start PostgreSQL there or unset EXCHANGE_DATABASE_URL to use the embedded one"
        )
    return f"cannot connect to PostgreSQL at {place}: {said}"


def _sqlstate_of(message: str) -> str | None:
    return next((state for words, state in _REFUSALS.items() if re.search(words, message)), None)


def _without_passwords(text: str, parameters: dict[str, str]) -> str:
    for name in ("password", "sslpassword"):
        if secret := parameters.get(name):
            text = text.replace(secret, "***")
    return text
