"""What a resting order takes of memory."""

import tracemalloc
from itertools import count

import pytest

from bench.micro.books import BASE_PRICE, resting_orders
from bench.micro.measuring import Benchmark, decades, measure, name
from common.engine import Engine
from common.ledger import Ledger

WITH_LEDGER = "engine and ledger"


@pytest.mark.parametrize("size", decades(100, 100_000))
@pytest.mark.parametrize("keeper", ["engine", WITH_LEDGER])
def bench_memory(benchmark: Benchmark, size: int, keeper: str) -> None:
    """The memory that a resting order takes, itself included; its time is of no use."""

    def nothing() -> tuple[Engine, Ledger]:
        tracemalloc.start()
        return Engine(), Ledger(closed_age_max_us=0, closed_count_max=0)

    def fill(kept: tuple[Engine, Ledger]) -> None:
        engine, ledger = kept
        for order in resting_orders("TEST", BASE_PRICE, size, count(1)):
            engine.rest(order)
            if keeper == WITH_LEDGER:
                ledger.add(order)

    def check(kept: tuple[Engine, Ledger]) -> None:
        engine, ledger = kept
        in_use, _ = tracemalloc.get_traced_memory()
        benchmark.extra_info["bytes_per_order"] = in_use / size
        engine.check()
        assert engine.open_count == size
        assert len(ledger.orders) == (size if keeper == WITH_LEDGER else 0)

    name(benchmark, "memory", keeper, size)
    try:
        measure(benchmark, nothing, fill, check, rounds=1, warmup_rounds=0)
    finally:
        tracemalloc.stop()
