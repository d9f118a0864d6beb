"""The limit of a database-only design: the statements of the product, as pgbench runs them."""

import json
import re
from pathlib import Path

import psycopg
import pytest
from conftest import NewDatabase

from bench import pgbench
from bench.exchange_client import HarnessError
from common.database import prepare_schema
from common.model import Side
from common.queries import market_data, matching


def test_the_shares_are_those_of_the_average_day() -> None:
    shares = {name: share for name, (share, _) in pgbench.scripts().items()}
    assert sum(shares.values()) == pytest.approx(1.0)
    orders = shares["order that rests"] + shares["order that trades"]
    assert orders == pytest.approx(700.0 / pgbench.PROFILE.requests_per_s)
    assert shares["cancel"] == pytest.approx(245.0 / pgbench.PROFILE.requests_per_s)


def test_a_statement_is_written_with_all_its_parameters_filled_in() -> None:
    for statement in (
        matching.ACCEPT,
        matching.MAKERS[Side.BID],
        matching.CANCEL,
        market_data.BOOK,
    ):
        line = pgbench.written(statement)
        assert not re.search(r"\$\d", line)
        assert "\n" not in line
        assert line.startswith(" ".join(statement.text.split())[:20])


def test_every_statement_of_an_order_of_casev1_is_in_a_script() -> None:
    trading = pgbench.scripts()["order that trades"][1]
    for table in ("INTO orders", "UPDATE orders", "INTO trades", "INTO balances"):
        assert table in trading


COUNTS = {"order that rests": 40, "order that trades": 10, "cancel": 15}


def test_what_the_database_should_hold_passes() -> None:
    pgbench.check(COUNTS, {"orders": 50, "trades": 10, "cancelled": 12})


@pytest.mark.parametrize(
    "done",
    [
        {"orders": 49, "trades": 10, "cancelled": 12},
        {"orders": 50, "trades": 11, "cancelled": 12},
        {"orders": 50, "trades": 10, "cancelled": 4},
        {"orders": 50, "trades": 10, "cancelled": 16},
    ],
)
def test_a_run_that_did_not_do_what_it_says_is_none(done: dict[str, int]) -> None:
    with pytest.raises(HarnessError):
        pgbench.check(COUNTS, done)


def test_a_run_counts_and_records_every_kind_of_transaction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--duration", "2", "--clients", "2", "--out", str(tmp_path)]
    assert pgbench.main(asked) == 0
    said = capsys.readouterr().out
    [directory] = tmp_path.iterdir()
    recorded = json.loads((directory / "pgbench.json").read_text())
    assert list(recorded["transactions"]) == list(pgbench.scripts())
    for name, each in recorded["transactions"].items():
        [count] = re.findall(rf"^\| {name} +\| +([\d,]+) \|", said, re.MULTILINE)
        assert int(count.replace(",", "")) == each["count"] > 0
    assert f"with 2 clients: {recorded['percent_of_b3']:.0f} % of B3" in said


def test_an_order_that_trades_meets_the_one_maker_that_it_fills(new_database: NewDatabase) -> None:
    url = new_database()
    prepare_schema(url)
    makers = matching.MAKERS[Side.BID]
    asked = {"symbol": "S7", "price": int(pgbench.BEST_ASK), "limit": 8}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(pgbench.FILL.encode())
        [expected] = connection.execute("SELECT md5('order' || 2 * 7 + 1)::uuid")
        with psycopg.RawCursor(connection) as cursor:
            cursor.execute(makers.text.encode(), [asked[name] for name in makers.parameters])
            assert [row[:1] for row in cursor] == [expected]
