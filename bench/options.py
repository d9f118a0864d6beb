"""What the command lines of the harness share: checks that say in one line what is wrong."""

import argparse
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bench import records, service

SCALE_MIN, SCALE_MAX = 1.0, 10_000.0
DURATION_MIN_S, DURATION_MAX_S = 1.0, 3600.0
SEED_MAX = 2**32 - 1
INTERRUPTED = 130  # what a shell says of a command that Ctrl-C has ended


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and ends with the exit code ``wrong_usage``."""

    wrong_usage = 2

    def error(self, message: str) -> NoReturn:
        self.exit(self.wrong_usage, f"{message.removeprefix('argument ')}\n")


def parsed(made: Parser, given: Sequence[str], *beside: str) -> argparse.Namespace:
    """What is asked for. With ``--resume`` or ``--renew`` only these options may be given besides,
    by name."""
    asked = made.parse_args(given)
    for alone, why in _ALONE.items():
        if getattr(asked, alone, None) is None:
            continue
        # A default fills only what is not there yet, so what is given differs from None.
        bare = argparse.Namespace(**dict.fromkeys(vars(asked)))
        others = [
            f"--{name.replace('_', '-')}"
            for name, value in vars(made.parse_args(given, bare)).items()
            if value is not None and name not in (alone, *beside)
        ]
        if others:
            made.error(f"--{alone}: {why}; leave out {', '.join(others)}")
    return asked


_ALONE = {"resume": "goes on as the run was begun", "renew": "measures nothing"}


def stop_on_signals() -> None:
    """Ctrl-C and SIGTERM both end a run in order, also one that a shell has put in the background,
    where it ignores Ctrl-C unless told otherwise."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def one_of(allowed: Sequence[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in allowed:
            raise _wrong(text, ", ".join(allowed))
        return text

    return check


def between(
    least: float, most: float, number: type[int] | type[float] = float
) -> Callable[[str], Any]:
    def check(text: str) -> float:
        try:
            value = number(text)
        except ValueError:
            value = number(-1)
        if not least <= value <= most:
            raise _wrong(text, f"{least:.10g} to {most:.10g}")
        return value

    return check


def pins_of(text: str) -> dict[str, int]:
    if text == "none":
        return {}
    pins = {}
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    for part in text.split(","):
        role, _, core = part.partition("=")
        known = role in service.ROLES and role not in pins
        if not known or not core.isdigit() or int(core) not in cores:
            names = ", ".join(map(str, sorted(cores))) or "none on this system"
            roles = f"{', '.join(service.ROLES)}, each once,"
            raise _wrong(text, f"none, or ROLE=CORE,… of {roles} on the cores {names}")
        pins[role] = int(core)
    return pins


def add_place(made: Parser) -> None:
    """The options ``--pins`` and ``--out``: where to measure, and where to keep what was found."""
    made.add_argument(
        "--pins",
        type=pins_of,
        default=service.default_pins(),
        metavar="PINS",
        help="which core each has: none, or such as service=0,generator=1,postgres=1",
    )
    made.add_argument(
        "--out",
        default=records.DEFAULT_DIRECTORY,
        type=Path,
        metavar="DIR",
        help="where the directory of the run is made (results/)",
    )


def _wrong(text: str, allowed: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{text!r} is not possible; allowed: {allowed}")
