"""``python -m bench traffic``: show what a profile's traffic looks like, before any run."""

import argparse
import sys
from pathlib import Path

from bench import options as limits
from bench.exchange_client import HarnessError
from bench.report import table
from bench.traffic import PROFILES

_SUFFIXES = (".png", ".svg")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The same names, ranges and defaults as those of ``perf_realistic.py``."""
    parser.add_argument("--profile", default="average", help=", ".join(PROFILES))
    parser.add_argument("--scale", default=100.0, type=float, metavar="PERCENT", help="(100)")
    parser.add_argument("--duration", default=60.0, type=float, metavar="S", help="seconds (60)")
    parser.add_argument("--seed", default=1, type=int, help="of the tape (1)")
    parser.add_argument(
        "--plot",
        nargs="?",
        const="",
        metavar="FILE",
        help="draw it as well, as .png or .svg (traffic-PROFILE.png)",
    )


def run(options: argparse.Namespace) -> int:
    """Print the stated and the realised figures, and draw them if asked. Exit code 0, 1 or 2."""
    try:
        _check(options)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 2
    # Late, because they take a second to import and a wrong option needs none of it.
    from bench.traffic_statistics import Offer, kind_rates, statistics  # noqa: PLC0415

    offer = Offer.of(PROFILES[options.profile], options.seed, options.scale, options.duration)
    figures, kinds = statistics(offer), kind_rates(offer)
    print(offer.title)
    for headers, rows in (("statistic", figures), ("requests/s by kind", kinds)):
        cells = [row.cells() for row in rows]
        print("", *table((headers, "stated", "realised"), cells), sep="\n")
    if options.plot is None:
        return 0
    from bench.traffic_plot import draw  # noqa: PLC0415

    file = Path(options.plot or f"traffic-{options.profile}.png")
    try:
        draw(offer, figures, kinds, file)
    except OSError as error:
        print(f"--plot: cannot write {file}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"\n{file}")
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.profile not in PROFILES:
        raise _wrong("--profile", options.profile, ", ".join(PROFILES))
    for name, least, most in (
        ("scale", limits.SCALE_MIN, limits.SCALE_MAX),
        ("duration", limits.DURATION_MIN_S, limits.DURATION_MAX_S),
        ("seed", 0, limits.SEED_MAX),
    ):
        value = getattr(options, name)
        if not least <= value <= most:
            raise _wrong(f"--{name}", f"{value:.10g}", f"{least:.10g} to {most:.10g}")
    if options.plot and Path(options.plot).suffix not in _SUFFIXES:
        raise _wrong("--plot", options.plot, f"a file that ends in {' or '.join(_SUFFIXES)}")


def _wrong(option: str, value: str, allowed: str) -> HarnessError:
    return HarnessError(f"{option}: {value!r} is not possible; allowed: {allowed}")
