"""Child processes that end when their owner does."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping

_PR_SET_PDEATHSIG = 1
_STOP_PATIENCE_S = 60


def tie_to_owner(cores: Collection[int] | None = None) -> Callable[[], None] | None:
    """What a new process does before its program starts: end with its owner, keep to ``cores``.

    For ``preexec_fn``; None where the platform has nothing of the kind. It runs between fork and
    exec, so it makes system calls and nothing else. The kernel sends SIGINT, a request for a tidy
    end, when the *thread* that forked ends: fork from the main one.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    owner_pid = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != owner_pid:
            os._exit(1)  # the owner ended before we could ask
        if cores is not None:
            os.sched_setaffinity(0, cores)

    return tie


def supervise(count: int, environment: Mapping[str, str]) -> int:
    """Run this program ``count`` times with ``environment`` until a signal or until one ends.

    The others are then stopped too. Returns an exit code: 0 when a signal asked for the end and
    all ended tidily.
    """
    stopping = False
    children: list[subprocess.Popen[bytes]] = []
    untold: list[subprocess.Popen[bytes]] = []

    def stop(*_: object) -> None:
        """Tell each child once: at its very end it no longer catches signals."""
        nonlocal stopping
        stopping = True
        while untold:
            untold.pop().send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for _ in range(count):
        child = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            # A Ctrl-C in the terminal is for this process, which passes it on once.
            start_new_session=True,
            preexec_fn=tie_to_owner(),  # noqa: PLW1509 (no thread yet)
        )
        children.append(child)
        untold.append(child)
    if stopping:  # the signal came before they all were there
        stop()
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    asked = stopping
    stop()
    codes = [child.wait(_STOP_PATIENCE_S) for child in children]
    # One that was told before it could listen has served nobody yet.
    return 0 if asked and not set(codes) - {0, -signal.SIGTERM} else 1
