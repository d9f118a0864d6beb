"""What wakes the load generator: never before a request is due, and each one once."""

import asyncio
import sys
import time
from collections.abc import Callable
from functools import partial

import pytest
import uvloop

from bench.alarm import Alarm, LoopAlarm, Rounds, TimerfdAlarm

PAUSE_S = 0.002
MAKERS: dict[str, Callable[[Callable[[], None]], Alarm]] = {
    "loop": LoopAlarm,
    "rounds": partial(Rounds, pause_s=PAUSE_S),
}
if sys.platform == "linux":
    MAKERS["timerfd"] = TimerfdAlarm


async def rung(maker: Callable[[Callable[[], None]], Alarm], gaps_s: list[float]) -> list[float]:
    """How late the alarm rang for each of these instants, which follow each other."""
    instants_s = [time.monotonic()]
    for gap_s in gaps_s:
        instants_s.append(instants_s[-1] + gap_s)
    late_s, done = list[float](), asyncio.get_running_loop().create_future()

    def ring() -> None:
        now_s = time.monotonic()
        while len(late_s) < len(instants_s) and instants_s[len(late_s)] <= now_s:
            late_s.append(now_s - instants_s[len(late_s)])
        if len(late_s) < len(instants_s):
            alarm.set(instants_s[len(late_s)])
        else:
            alarm.close()
            done.set_result(None)

    alarm = maker(ring)
    alarm.set(instants_s[0])
    await done
    alarm.close()
    return late_s


@pytest.mark.parametrize("kind", MAKERS)
def test_an_alarm_rings_for_every_instant_and_never_before_it(kind: str) -> None:
    late_s = uvloop.run(rung(MAKERS[kind], [0.0, 0.001, 0.0, 0.01, 0.0002, 0.0005]))
    assert len(late_s) == 7
    assert min(late_s) >= 0


def test_what_is_due_in_one_pause_is_taken_in_one_round() -> None:
    late_s = uvloop.run(rung(MAKERS["rounds"], [PAUSE_S / 100] * 20))
    assert len({round(late + n * PAUSE_S / 100, 9) for n, late in enumerate(late_s)}) <= 2


async def _rounds_after_close() -> tuple[int, int]:
    rings, rang = list[None](), asyncio.Event()

    def ring() -> None:
        rings.append(None)
        rang.set()

    alarm = Rounds(ring, PAUSE_S)
    alarm.set(0.0)
    await rang.wait()
    alarm.close()
    at_close = len(rings)
    await asyncio.sleep(5 * PAUSE_S)
    return at_close, len(rings)


def test_a_closed_alarm_goes_round_no_more() -> None:
    at_close, later = uvloop.run(_rounds_after_close())
    assert at_close == later
