"""``python -m bench pgbench``: what PostgreSQL alone does with the statements of casev1.

The statements are those of the product, in scripts for pgbench: an order that rests, one that
trades, a cancel and the four reads, in the shares of B3's average day. Each transaction travels as
one pipeline, and nobody decides anything between its statements. So this is what a database-only
exchange could reach at most if its own code took no time.

It is a closed loop: each of the clients sends its next transaction when the last one is answered.
Afterwards the database must hold what the transactions should have left in it.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import psycopg

from bench import records, service
from bench.exchange_client import HarnessError
from bench.options import INTERRUPTED, Parser, add_place, between, stop_on_signals
from bench.report import table
from bench.traffic import PROFILES, Kind
from common.channel import Statement
from common.database import PLANNING, prepare_schema
from common.model import Side
from common.postgres import binary
from common.queries import accounts, market_data, matching, own_orders, writing

PROFILE = PROFILES["average"]
# One of five orders trades, with one maker; of the average day's 13 % do, with 1.4 makers.
TRADING_SHARE = 0.2
WARMUP_S = 3
FILE = "pgbench.json"
_BROKERS, _SYMBOLS, _RESTING = 100, 450, 18_000
# The books: asks from 1,001 up and bids from 1,000 down, an order each, so that nothing crosses.
FILL = f"""
    INSERT INTO brokers
    SELECT md5('broker' || n)::uuid, 'broker', NULL, decode(md5('key' || n), 'hex'), now()
    FROM generate_series(0, {_BROKERS - 1}) n;
    INSERT INTO orders
    SELECT md5('order' || n)::uuid, n, md5('broker' || n % {_BROKERS})::uuid, '1',
           CASE n % 2 WHEN 0 THEN 'bid' ELSE 'ask' END, 'limit', 'S' || n / 2 % {_SYMBOLS},
           CASE n % 2 WHEN 0 THEN 1000 - n / {2 * _SYMBOLS} ELSE 1001 + n / {2 * _SYMBOLS} END,
           1000000, 1000000, NULL, now() + interval '1 day', now(), NULL
    FROM generate_series(0, {_RESTING - 1}) n;
    ANALYZE;
"""  # noqa: S608
_VARIABLES = f"""\
\\set broker random(0, {_BROKERS - 1})
\\set maker random(0, {_RESTING - 1})
\\set symbol :maker / 2 % {_SYMBOLS}
\\set best_ask 2 * :symbol + 1
\\set other random(0, {_BROKERS - 1})
"""
_NOW_US = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_KEY = "decode(md5('key' || :broker), 'hex')"
_ARRAY = "'{{' || {} || '}}'"
# What each parameter of the statements is, as SQL with the variables of pgbench.
_VALUES = {
    "known_until": "NULL",
    "key_hash": _KEY,
    "symbol": "'S' || :symbol",
    "price": "1000",
    "limit": "8",
    "depth": "10",
    "trades": "50",
    "order_id": "md5('new' || :last)",
    "id": "md5('new' || :last)",
    "sequence": ":last::bigint % 1000000000",
    "broker_id": "md5('broker' || :broker)",
    "document_number": "'1'",
    "side": "'bid'",
    "order_type": "'limit'",
    "quantity": "100",
    "remaining_quantity": "100",
    "close_reason": "NULL",
    "valid_until": f"{_NOW_US} + 86400000000",
    "created_at": _NOW_US,
    "closed_at": "NULL",
}
_MAKER = {
    "order_id": "md5('order' || :best_ask)",
    "remaining": "999900",
    "reason": "NULL",
    "closed": "NULL",
}
_TRADE = {
    "id": _ARRAY.format("md5('trade' || :last)"),
    "sequence": _ARRAY.format(":last::bigint % 1000000000"),
    "symbol": _ARRAY.format("'S' || :symbol"),
    "price": "'{1000}'",
    "quantity": "'{100}'",
    "taker_side": "'{bid}'",
    "maker_order_id": _ARRAY.format("md5('order' || :best_ask)"),
    "taker_order_id": _ARRAY.format("md5('new' || :last)"),
    "maker_broker_id": _ARRAY.format("md5('broker' || :other)"),
    "taker_broker_id": _ARRAY.format("md5('broker' || :broker)"),
    "executed_at": _ARRAY.format(_NOW_US),
}
_BOTH = "'{{' || {0} || ',' || {1} || '}}'"
_CASH = {
    "broker_id": _BOTH.format(
        "md5('broker' || :broker)", f"md5('broker' || (:broker + 1) % {_BROKERS})"
    ),
    "symbol": _BOTH.format("'S' || :symbol", "'S' || :symbol"),
    "cash": "'{-100000,100000}'",
}
BEST_ASK = "1001"
_MARKET = {"remaining_quantity": "0", "close_reason": "'filled'", "closed_at": _NOW_US}


def written(statement: Statement, values: dict[str, str] | None = None) -> str:
    """A statement of the product as a line of a script, its parameters filled in."""
    known = _VALUES | (values or {})
    text = re.sub(
        r"\$(\d+)", lambda found: f"({known[statement.parameters[int(found[1]) - 1]]})",
        statement.text,
    )  # fmt: skip
    return f"{' '.join(text.split())};"


def transaction(*lines: str) -> str:
    """Statements that travel together and are committed together."""
    return "\n".join(["\\startpipeline", "BEGIN;", *lines, "COMMIT;", "\\endpipeline", ""])


def scripts() -> dict[str, tuple[float, str]]:
    """By name: the share of all requests, and the script."""
    shares = dict(zip(Kind, PROFILE.kind_shares(), strict=True))
    # The last order of a client, and whose it is: what its next cancel closes.
    draw = f"{_VARIABLES}\\set last random(1, 1000000000000000)\n\\set owner :broker\n"

    def accepted(price: str) -> tuple[str, str]:
        return written(matching.ACCEPT), written(matching.MAKERS[Side.BID], {"price": price})

    rests = transaction(*accepted("999"), written(writing.INSERT_ORDER))
    trades = transaction(
        *accepted(BEST_ASK),
        written(writing.INSERT_ORDER, _MARKET),
        written(writing.UPDATE_ORDER, _MAKER),
        written(writing.INSERT_TRADES, _TRADE),
        written(writing.ADD_CASH, _CASH),
    )
    cancel = transaction(
        written(matching.CANCEL), written(own_orders.ORDER_OWNER), written(accounts.AUTHENTICATE)
    )

    def read(statement: Statement, values: dict[str, str] | None = None) -> str:
        return _VARIABLES + transaction(written(accounts.AUTHENTICATE), written(statement, values))

    return {
        "order that rests": (shares[Kind.ORDER] * (1 - TRADING_SHARE), draw + rests),
        "order that trades": (shares[Kind.ORDER] * TRADING_SHARE, draw + trades),
        "cancel": (shares[Kind.CANCEL], "\\set broker :owner\n" + cancel),
        "order status": (
            shares[Kind.STATUS],
            read(own_orders.ORDER_DETAIL, {"order_id": "md5('order' || :maker)"}),
        ),
        "price": (shares[Kind.PRICE], read(market_data.PRICE)),
        "book": (shares[Kind.BOOK], read(market_data.BOOK)),
        "balance": (shares[Kind.BALANCE], read(accounts.BALANCE)),
    }


def parser() -> Parser:
    """All options with their defaults."""
    made = Parser(prog="python -m bench pgbench", description=__doc__)
    made.add_argument("--duration", type=between(1, 3600, int), default=30, metavar="S")
    made.add_argument("--clients", type=between(1, 64, int), default=8, metavar="N")
    add_place(made)
    return made


class Transactions(msgspec.Struct, frozen=True):
    """Those of one kind."""

    count: int
    mean_ms: float


class Reached(msgspec.Struct, frozen=True):
    """pgbench.json: what PostgreSQL did."""

    clients: int
    duration_s: int
    transactions_per_s: float
    percent_of_b3: float
    transactions: dict[str, Transactions]


def main(given: Sequence[str]) -> int:
    """Exit code 0, 1 with one line, or 130 (interrupted)."""
    asked = parser().parse_args(given)
    stop_on_signals()
    try:
        records.check_writable(asked.out)
        reached = measure(asked.clients, asked.duration, asked.pins)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    print("\n".join(lines_of(reached)))
    command = shlex.join(["python", "-m", "bench", "pgbench", *given])
    directory = records.write_run(asked.out, FILE, reached, records.meta(command, {}))
    print(f"\nresults in {os.path.relpath(directory)}")
    return 0


def measure(clients: int, duration_s: int, pins: dict[str, int]) -> Reached:
    """What was done in a run on a fresh database. Raises HarnessError."""
    with service.database(pins) as database, tempfile.TemporaryDirectory() as place:
        prepare_schema(database.url)
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute(FILL.encode())
        files = []
        for name, (share, script) in scripts().items():
            file = Path(place) / f"{name.replace(' ', '-')}.sql"
            file.write_text(script)
            files += ["-f", f"{file}@{max(round(share * 1000), 1)}"]
        options = ["-n", "-M", "prepared", "-D", "last=1", "-D", "owner=0"]
        options += ["-c", str(clients), "-j", "1"]
        command = [str(binary("pgbench")), *options, *files]
        core = pins.get("service")
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        settings = " ".join(f"-c {setting}" for setting in PLANNING)
        for seconds in (WARMUP_S, duration_s):
            before = stored(database.url)
            done = subprocess.run(
                [*pinned, *command, "-T", str(seconds), database.url],
                capture_output=True,
                text=True,
                check=False,
                env=os.environ | {"PGOPTIONS": settings, "LC_ALL": "C"},
            )
            if done.returncode:
                raise HarnessError(done.stderr.strip().splitlines()[0])
        done_there = stored(database.url) - before
    counts = counted(done.stdout)
    check(counts, done_there)
    return parsed(done.stdout, counts, clients, duration_s)


def newest(results: Path) -> Path | None:
    """The newest run that is recorded there."""
    runs = sorted(file.parent for file in results.glob(f"*/{FILE}"))
    return runs[-1] if runs else None


def read(run: Path) -> Reached:
    """What a run recorded. Raises HarnessError."""
    return records.read_json(run / FILE, Reached)


def stored(url: str) -> Counter[str]:
    """How many orders, trades and cancelled orders the database holds."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE close_reason = 'cancelled'),"
            " (SELECT count(*) FROM trades) FROM orders"
        ).fetchone()
    assert row is not None
    return Counter(orders=row[0], cancelled=row[1], trades=row[2])


def counted(said: str) -> dict[str, int]:
    """How many transactions of each kind pgbench says it has made."""
    counts = re.findall(r"^ - (\d+) transactions \(", said, re.MULTILINE)
    return dict(zip(scripts(), map(int, counts), strict=True))


def check(counts: Mapping[str, int], done: Mapping[str, int]) -> None:
    """Raise HarnessError unless the transactions have left in the database what they should.

    A cancel may find its order closed already; most do not.
    """
    orders, trades = counts["order that rests"], counts["order that trades"]
    if (done["orders"], done["trades"]) != (orders + trades, trades):
        raise HarnessError(f"pgbench made {counts}, and the database holds {dict(done)} of it")
    if not counts["cancel"] / 3 <= done["cancelled"] <= counts["cancel"]:
        raise HarnessError(f"of {counts['cancel']} cancels {done['cancelled']} closed an order")


def parsed(said: str, counts: Mapping[str, int], clients: int, duration_s: int) -> Reached:
    """What pgbench says."""
    per_s = float(re.findall(r"^tps = ([\d.]+)", said, re.MULTILINE)[0])
    means_ms = re.findall(r"^ - latency average = ([\d.]+) ms", said, re.MULTILINE)
    transactions = {
        name: Transactions(count, float(mean_ms))
        for (name, count), mean_ms in zip(counts.items(), means_ms, strict=True)
    }
    percent = 100.0 * per_s / PROFILE.requests_per_s
    return Reached(clients, duration_s, per_s, percent, transactions)


def lines_of(reached: Reached) -> list[str]:
    """A table and a sentence."""
    made = sum(each.count for each in reached.transactions.values())
    rows = [
        (name, f"{each.count:,}", f"{100.0 * each.count / made:.1f}", f"{each.mean_ms:.2f}")
        for name, each in reached.transactions.items()
    ]
    return [
        *table(("transaction", "count", "% of all", "mean ms"), rows),
        "",
        f"{reached.transactions_per_s:,.0f} transactions/s with {reached.clients} clients: "
        f"{reached.percent_of_b3:.0f} % of B3, if the exchange's own code took no time and its "
        "latency did not matter.",
    ]
