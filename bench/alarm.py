"""Wake an event loop at an instant, to the microsecond where the system can.

Timers of the event loop tick at 1 ms. On Linux a timerfd that the loop watches like a socket is
exact to some ten microseconds; elsewhere the loop's own timer has to do. Who is woken thousands of
times a second does better to go round at a fixed pace.
"""

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_TFD_NONBLOCK_CLOEXEC = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)


class Alarm(Protocol):
    """Calls back when it is due. The callback must ``set`` it again or ``close`` it."""

    def set(self, instant_s: float) -> None:
        """Ring at ``instant_s`` on the clock of ``time.monotonic``; at once if it is past."""

    def close(self) -> None:
        """Never ring again; closing twice does no harm."""


class _Itimerspec(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class TimerfdAlarm:
    """The exact one, on Linux."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._at = _Itimerspec()
        self._at_reference = ctypes.byref(self._at)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, callback)

    def set(self, instant_s: float) -> None:
        at = self._at
        # The clock starts at boot, so a float holds its nanoseconds to well below a microsecond.
        at.at_s = int(instant_s)
        # All zero would disarm the timer instead of ringing at once.
        at.at_ns = int((instant_s - at.at_s) * 1e9) or 1
        # Setting it also clears what has rung, so the file need never be read.
        self._libc.timerfd_settime(self._file, _TFD_TIMER_ABSTIME, self._at_reference, None)

    def close(self) -> None:
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1


class LoopAlarm:
    """The one of the event loop, exact to about a millisecond."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def set(self, instant_s: float) -> None:
        self.close()
        self._handle = self._loop.call_at(instant_s, self._callback)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


class Rounds:
    """Looks at the clock once in ``pause_s``, in which the event loop does nothing.

    What is due or has come meanwhile is then taken in one go, as a network card does that has to
    interrupt too often: one wake-up instead of one for each.
    """

    def __init__(self, callback: Callable[[], None], pause_s: float) -> None:
        self._callback = callback
        self._pause_s = pause_s
        self._instant_s = float("inf")
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Handle | None = self._loop.call_soon(self._round)

    def set(self, instant_s: float) -> None:
        self._instant_s = instant_s

    def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next = None

    def _round(self) -> None:
        self._next = self._loop.call_soon(self._round)
        time.sleep(self._pause_s)
        if time.monotonic() >= self._instant_s:
            self._callback()


def new_alarm(callback: Callable[[], None]) -> Alarm:
    """The best alarm this system has; needs a running event loop."""
    return TimerfdAlarm(callback) if sys.platform == "linux" else LoopAlarm(callback)
