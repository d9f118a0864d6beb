"""The processes that the harness starts."""

import os
import signal
import sys

import psutil  # type: ignore[import-untyped]
import pytest

from bench.service import child


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing runs around the fork")
def test_ctrl_c_while_a_process_is_started_is_not_lost_and_leaves_none() -> None:
    # The hook runs where Python would swallow an exception: in the parent, right after the fork.
    armed = [True]

    def interrupt() -> None:
        if armed:
            armed.clear()
            os.kill(os.getpid(), signal.SIGINT)

    before = set(psutil.Process().children())
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    os.register_at_fork(after_in_parent=interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            child([sys.executable, "-c", "input()"], signal.SIGKILL)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        armed.clear()
        signal.signal(signal.SIGINT, handler)
    assert set(psutil.Process().children()) == before
