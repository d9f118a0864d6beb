"""``python -m bench COMMAND``: what the harness does besides ``perf_realistic.py``."""

import argparse
import sys
from pathlib import Path

from bench.exchange_client import HarnessError
from bench.tables import newest, write_all


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    charts = commands.add_parser("charts", help="draw the charts of runs again, from raw data")
    charts.add_argument(
        "directory", type=Path, nargs="*", help="runs below results/ (the newest of each case)"
    )
    commands.add_parser("tables", help="renew the measured sections of the READMEs")
    options = parser.parse_args(arguments)
    if options.command == "tables":
        files = write_all()
    else:
        from bench.charts import draw  # noqa: PLC0415 - matplotlib takes a second to import

        try:
            runs = options.directory or newest().values()
            files = [file for run in runs for file in draw(run)]
        except HarnessError as error:
            print(f"charts: {error}", file=sys.stderr)
            return 1
    for file in files:
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
