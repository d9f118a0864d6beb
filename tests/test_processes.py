"""What keeps several processes together: they start as one and end as one."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import StartError
from common.server import check_free
from common.settings import read_settings

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


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_a_port_is_found_taken_or_free_in_each_family(host: str, family: int) -> None:
    with socket.socket(family) as server:
        try:
            server.bind((host, 0))
        except OSError:
            pytest.skip("there is no IPv6 here")
        server.listen()
        taken = {"EXCHANGE_HOST": host, "EXCHANGE_PORT": str(server.getsockname()[1])}
        with pytest.raises(StartError, match="is in use"):
            check_free(read_settings(taken))
    check_free(read_settings(taken))


def test_a_host_that_is_not_known_is_said_to_be_so() -> None:
    with pytest.raises(StartError, match=r"cannot serve on no\.such\.host\.invalid"):
        check_free(read_settings({"EXCHANGE_HOST": "no.such.host.invalid"}))
