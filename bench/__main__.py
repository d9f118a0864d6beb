"""``python -m bench COMMAND``: what the harness does besides ``perf_realistic.py``."""

import argparse
import importlib
import sys
from pathlib import Path

from bench import sensitivity, traffic_command, trials
from bench.exchange_client import HarnessError
from bench.records import layout_of
from bench.tables import newest_runs, write_all

# Commands that need more packages than the others have a module and a parser of their own.
_APART = {
    "capacity": ("bench.capacity_cli", "search the largest stable load"),
    "sensitivity": ("bench.sensitivity_cli", "search under each profile of traffic"),
    "notebook": ("bench.notebook_cli", "execute a notebook in place"),
    "generator": ("bench.generator_test", "show what the load generator can do"),
}


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
    # Late, because matplotlib takes a second to import.
    from bench import capacity_charts, charts, sensitivity_charts  # noqa: PLC0415

    files = []
    for run in directories or newest_runs():
        if (run / trials.FILE).exists():
            files += capacity_charts.draw(run)
        elif layout_of(run) == sensitivity.LAYOUT:
            files += sensitivity_charts.draw(run)
        else:
            files += charts.draw(run)
    return files


if __name__ == "__main__":
    sys.exit(main())
