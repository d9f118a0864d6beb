"""``python -m bench generator``: when a rate was not held, and what is recorded."""

import json
from pathlib import Path

import pytest
from bench_records import HEALTHY
from msgspec.structs import replace

from bench import generator_test
from bench.figures import GeneratorHealth
from bench.generator_test import Reached


@pytest.mark.parametrize(
    ("unanswered", "health", "reason"),
    [
        (0.0, HEALTHY, None),
        (0.005, HEALTHY, None),
        (0.3, HEALTHY, "the server left 30% unanswered"),
        (0.0, replace(HEALTHY, send_lag_ms_p99=None), "the server kept all connections busy"),
        (0.0, replace(HEALTHY, not_sent=7), "7 of 10000 requests were never sent"),
        (0.0, replace(HEALTHY, send_lag_ms_p99=2.5), "send lag p99 2.50 ms (limit 2 ms)"),
        (0.0, replace(HEALTHY, send_lag_ms_p99=2.5, steal=0.1), "send lag"),
    ],
)
def test_a_rate_is_held_if_all_was_sent_in_time_and_answered(
    unanswered: float, health: GeneratorHealth, reason: str | None
) -> None:
    assert Reached(1000.0, 1, 30.0, unanswered, health).ended_by == reason


@pytest.mark.alone
@pytest.mark.parametrize("generators", [1, 2])
def test_what_was_offered_to_the_null_server_is_shown_and_recorded(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    generators: int,
) -> None:
    monkeypatch.setattr(generator_test, "WARMUP_S", 0.5)
    monkeypatch.setattr(generator_test, "DURATION_S", 1.0)
    number = ["--generators", str(generators)]
    asked = ["--aiohttp", "--rate", "200", *number, "--out", str(tmp_path)]
    assert generator_test.main(asked) == 0
    assert "200/s  sent" in capsys.readouterr().out
    [directory] = tmp_path.iterdir()
    [recorded] = json.loads((directory / "generator.json").read_text())
    assert (recorded["generators"], recorded["unanswered"]) == (generators, 0.0)
    assert recorded["health"]["sent"] == recorded["health"]["scheduled"] > 0
    assert "--aiohttp --rate 200" in json.loads((directory / "meta.json").read_text())["command"]
