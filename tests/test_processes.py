"""What keeps several processes together: they start as one and end as one."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A program that supervises itself: as a child it takes SIGTERM once, and a second one kills it, as
# it does with a service whose event loop is closed already.
PROGRAM = """
import os, signal, sys, time
from common.processes import supervise

def once(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(0.3)
    sys.exit(int(os.environ["ENDS_WITH"]))

if "ENDS_WITH" not in os.environ:
    sys.exit(supervise(3, os.environ | {"ENDS_WITH": sys.argv[1]}))
signal.signal(signal.SIGTERM, once)
os.write(1, b"ready\\n")  # in one piece: the three share the pipe
signal.pause()
"""


@contextmanager
def supervised(ends_with: int) -> Iterator[subprocess.Popen[str]]:
    """Three children that are ready, and their supervisor."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(ends_with)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout
            assert [process.stdout.readline() for _ in range(3)] == ["ready\n"] * 3
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_each_child_is_told_once_to_stop(number: signal.Signals) -> None:
    with supervised(0) as process:
        process.send_signal(number)
        process.send_signal(number)
        assert process.wait(20) == 0


def test_a_child_that_does_not_end_well_is_not_hidden() -> None:
    with supervised(3) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 1
