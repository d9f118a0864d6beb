"""What limits a case follows from figures, and from nothing else."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from bench.attribution import (
    FLUSHES,
    LOCKS,
    PYTHON,
    READS,
    WRITES,
    Knee,
    bottleneck,
    mean_of,
    utilisations,
)
from bench.cpu import role_of
from bench.observe import busy_with

IDLE = Knee(
    rate=300.0,
    cpu_share={"service": 0.3, "postgres backends": 0.2, "generator": 0.1},
    service_cores=1.0,
    shares_generator=True,
    busy={"write CPU": 0.2},
    loop_lag_ms_p99=2.0,
    pool_wait_ms_per_request=0.0,
)


def cpu(**shares: float) -> Mapping[str, float]:
    return {name.replace("_", " "): share for name, share in shares.items()}


@pytest.mark.parametrize(
    ("knee", "resource"),
    [
        (replace(IDLE, cpu_share=cpu(service=0.97, postgres_backends=0.4)), PYTHON),
        (replace(IDLE, busy={"write Lock:advisory": 6.0, "write CPU": 1.0}), LOCKS),
        (replace(IDLE, busy={"write IO:WalSync": 3.0, "write LWLock:WALWrite": 4.0}), FLUSHES),
        (
            replace(
                IDLE,
                cpu_share=cpu(service=0.6, postgres_backends=0.7, generator=0.25),
                busy={"read CPU": 3.0, "write CPU": 1.0},
            ),
            READS,
        ),
        (
            replace(
                IDLE,
                cpu_share=cpu(service=0.6, postgres_backends=0.95),
                busy={"read CPU": 1.0, "write CPU": 3.0},
            ),
            WRITES,
        ),
    ],
)
def test_the_resource_that_is_used_up_is_named(knee: Knee, resource: str) -> None:
    found = bottleneck("v9", knee)
    assert found.resource == resource
    assert found.exhausted
    assert resource in found.sentence
    assert found.as_predicted is None


def test_the_generator_s_work_is_not_the_database_s() -> None:
    both = replace(IDLE, cpu_share=cpu(service=0.8, postgres_backends=0.57, generator=0.25))
    assert utilisations(both)[WRITES] == pytest.approx(0.57 / 0.75)
    assert bottleneck("v2", both).resource == PYTHON
    apart = replace(both, shares_generator=False)
    assert utilisations(apart)[WRITES] == pytest.approx(0.57)
    alone = replace(both, cpu_share=cpu(service=0.1, postgres_backends=0.05, generator=0.9))
    assert not bottleneck("v2", alone).exhausted


def test_nothing_is_named_the_limit_when_nothing_is_used_up() -> None:
    found = bottleneck("v3", IDLE)
    assert not found.exhausted
    assert found.as_predicted is False
    assert "exhausts nothing" in found.sentence


def test_a_prediction_is_right_or_wrong_by_the_figures() -> None:
    busy_service = replace(IDLE, cpu_share=cpu(service=0.97))
    assert bottleneck("v3", busy_service).sentence.endswith("Predicted was Python CPU: right.")
    assert bottleneck("v1", busy_service).sentence.endswith("Predicted was database locks: wrong.")


def test_a_transaction_that_waits_for_the_service_is_not_the_database_s_work() -> None:
    waiting = replace(IDLE, busy={"write Client:ClientRead": 7.0, "write Lock:advisory": 1.0})
    assert utilisations(waiting)[LOCKS] == 1.0


def test_a_lock_that_is_rarely_waited_for_is_no_limit() -> None:
    rarely = replace(IDLE, busy={"write Lock:advisory": 0.1})
    assert utilisations(rarely)[LOCKS] == pytest.approx(0.1)


def test_a_case_in_two_processes_may_use_two_cores() -> None:
    knee = replace(IDLE, cpu_share=cpu(service=0.97), service_cores=2.0)
    assert utilisations(knee)[PYTHON] == pytest.approx(0.485)


def test_means_leave_out_trials_without_figures() -> None:
    assert mean_of([{"a": 1.0}, {}, {"a": 3.0, "b": 2.0}]) == {"a": 2.0, "b": 1.0}
    assert mean_of([]) == {}


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("postgres: checkpointer ", "checkpointer"),
        ("postgres: walwriter ", "WAL writer"),
        ("postgres: io worker 0", "I/O workers"),
        ("postgres: autovacuum worker exchange", "autovacuum"),
        ("postgres: exchange trial [local] idle", "backends"),
    ],
)
def test_postgresql_processes_are_known_by_their_titles(title: str, role: str) -> None:
    assert role_of(title) == role


@pytest.mark.parametrize(
    ("query", "work"),
    [
        ("SELECT price FROM trades", "read"),
        ("\n select 1", "read"),
        ("SELECT id FROM orders FOR UPDATE", "write"),
        ("SELECT pg_advisory_xact_lock(7)", "write"),
        ("INSERT INTO trades VALUES (1)", "write"),
        ("COMMIT", "write"),
    ],
)
def test_a_statement_reads_or_writes(query: str, work: str) -> None:
    assert busy_with(query) == work
