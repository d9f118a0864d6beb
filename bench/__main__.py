"""``python -m bench COMMAND``: what the harness does besides ``perf_realistic.py``."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from bench import (
    clients_cli,
    crash_cli,
    day_cli,
    flame_cli,
    growth_cli,
    overload_cli,
    pauses_cli,
    sensitivity,
    traffic_command,
    trials,
)
from bench.exchange_client import HarnessError
from bench.micro.report import RAW
from bench.records import DEFAULT_DIRECTORY, layout_of
from bench.tables import newest_runs, write_all

# Commands that need more packages than the others have a module and a parser of their own.
_APART = {
    "capacity": ("bench.capacity_cli", "search the largest stable load"),
    "check": ("bench.check_command", "compare a short measurement with the baseline"),
    "sensitivity": ("bench.sensitivity_cli", "search under each profile of traffic"),
    "notebook": ("bench.notebook_cli", "execute a notebook in place"),
    "crash": ("bench.crash_cli", "kill a case under load and count what is lost"),
    "overload": ("bench.overload_cli", "offer a case far more than it can answer"),
    "clients": ("bench.clients_cli", "measure beside clients that keep the service waiting"),
    "growth": ("bench.growth_cli", "ask a case again and again as its history grows"),
    "day": ("bench.day_cli", "send millions of orders and compare the last with the first"),
    "flame": ("bench.flame_cli", "draw where a case spends its time (needs py-spy)"),
    "pauses": ("bench.pauses_cli", "show how long the garbage collector stops a case"),
    "generator": ("bench.generator_test", "show what the load generator can do"),
    "pgbench": ("bench.pgbench", "run the statements of casev1 without casev1"),
    "micro": ("bench.micro.cli", "measure the parts of the cases, and how their costs grow"),
}
# What draws a run of this layout, or one that has this file.
_RECORDING = (clients_cli, crash_cli, day_cli, flame_cli, growth_cli, overload_cli, pauses_cli)
_OF_LAYOUT = {each.KIND.layout: each.KIND.report for each in _RECORDING} | {
    sensitivity.LAYOUT: "bench.sensitivity_charts"
}
_DRAWING = {trials.FILE: "bench.capacity_charts", RAW: "bench.micro.charts"}


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or another one with one line that says what is wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, summary) in _APART.items():
        commands.add_parser(name, help=summary, add_help=False)
    charts = commands.add_parser("charts", help="draw the charts of runs again, from raw data")
    charts.add_argument(
        "directory", type=Path, nargs="*", help="runs below results/ (the newest of each kind)"
    )
    commands.add_parser("tables", help="renew the measured sections of the READMEs")
    traffic_command.add_options(
        commands.add_parser("traffic", help="show what a profile's traffic looks like")
    )
    if given and given[0] in _APART:
        # Late, because to measure needs the packages of the service, and a notebook its own.
        module, _ = _APART[given[0]]
        code: int = importlib.import_module(module).main(given[1:])
        return code
    options = parser.parse_args(given)
    if options.command == "traffic":
        return traffic_command.run(options)
    try:
        files = write_all() if options.command == "tables" else draw_all(options.directory)
    except HarnessError as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 1
    for file in files:
        print(file)
    return 0


def draw_all(directories: list[Path]) -> list[Path]:
    """Draw the charts of runs of any kind; the files. Raises HarnessError."""
    files = []
    for run in directories or _newest_runs():
        files += _module_of(run).draw(run)
    return files


def _module_of(run: Path) -> Any:
    """What draws a run; without a sign of another kind it is one at fixed loads."""
    layout = layout_of(run)
    if layout in _OF_LAYOUT:
        name = _OF_LAYOUT[layout]
    else:
        names = (module for file, module in _DRAWING.items() if (run / file).exists())
        name = next(names, "bench.charts")
    # Late, because matplotlib takes a second to import.
    return importlib.import_module(name)


def _newest_runs() -> list[Path]:
    runs = newest_runs()
    if not runs:
        raise HarnessError(f"no run below {DEFAULT_DIRECTORY.name}/ yet; name a directory")
    return runs


if __name__ == "__main__":
    sys.exit(main())
