"""``python -m bench COMMAND``: what the harness does besides ``perf_realistic.py``."""

import argparse
import sys
from pathlib import Path

from bench.exchange_client import HarnessError


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    charts = commands.add_parser("charts", help="draw the charts of a run again")
    charts.add_argument("directory", type=Path, help="a run below results/")
    options = parser.parse_args(arguments)
    from bench.charts import draw  # noqa: PLC0415 - matplotlib takes a second to import

    try:
        files = draw(options.directory)
    except HarnessError as error:
        print(f"charts: {error}", file=sys.stderr)
        return 1
    for file in files:
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
