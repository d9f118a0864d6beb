"""How a benchmark is measured: prepared, timed and checked, round by round."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from common.garbage import Collector

T = TypeVar("T")


class Benchmark(Protocol):
    """The part of pytest-benchmark's fixture that is used here."""

    extra_info: dict[str, Any]

    def pedantic(
        self,
        target: Callable[..., object],
        *,
        setup: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]],
        teardown: Callable[..., None],
        rounds: int,
        warmup_rounds: int,
    ) -> object: ...


def decades(least: int, most: int) -> list[int]:
    """The powers of ten from one of them to another one."""
    return [10**power for power in range(10) if least <= 10**power <= most]


def name(benchmark: Benchmark, curve: str, series: str, size: int) -> None:
    """Say which point of which curve of ``bench/micro/report.py`` is measured."""
    benchmark.extra_info |= {"curve": curve, "series": series, "size": size}


def measure(
    benchmark: Benchmark,
    prepare: Callable[[], T],
    action: Callable[[T], None],
    check: Callable[[T], None],
    *,
    rounds: int,
    operations: int = 1,
    warmup_rounds: int = 1,
) -> None:
    """Time ``action``, which does ``operations`` of them, on what ``prepare`` gives.

    ``check`` sees afterwards whether all is as it should be, and may undo it. Neither is timed.
    Raises AssertionError.
    """
    benchmark.extra_info["operations"] = operations
    benchmark.pedantic(
        action,
        setup=lambda: ((prepare(),), {}),
        teardown=check,
        rounds=rounds,
        warmup_rounds=warmup_rounds,
    )


@contextmanager
def as_in_service() -> Iterator[None]:
    """The garbage collector as a service has it once it serves, and then as it was before."""
    thresholds, callbacks = gc.get_threshold(), list(gc.callbacks)
    Collector().spare()
    try:
        yield
    finally:
        gc.callbacks[:] = callbacks
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        gc.collect()
