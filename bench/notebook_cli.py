"""``python -m bench notebook``: execute a notebook from top to bottom and keep what it shows."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from bench.options import INTERRUPTED, Parser
from bench.service import ROOT

NOTEBOOK = ROOT / "notebooks" / "capacity.ipynb"
PATIENCE_S = 120  # for one cell
# What nbformat says of files that hold something else.
_NO_NOTEBOOK = (
    nbformat.reader.NotJSONError,
    nbformat.ValidationError,
    UnicodeDecodeError,
    AttributeError,
)


def main(given: Sequence[str]) -> int:
    """Exit code 0, 1 (a cell failed, or there is no such notebook) or 130 (interrupted)."""
    made = Parser(prog="python -m bench notebook", description=__doc__)
    made.add_argument("file", nargs="?", default=NOTEBOOK, type=Path, metavar="FILE")
    file = made.parse_args(given).file
    try:
        execute(file)
    except OSError as error:
        print(f"FILE: cannot use {file} ({error.strerror})", file=sys.stderr)
        return 1
    except _NO_NOTEBOOK:
        print(f"FILE: {file} is no notebook", file=sys.stderr)
        return 1
    except CellExecutionError as error:
        print(f"{file}: {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    except (CellTimeoutError, DeadKernelError) as error:
        print(f"{file}: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def execute(file: Path) -> None:
    """Run all cells in the notebook's directory, and write it if none fails.

    Raises OSError, one of ``_NO_NOTEBOOK`` or an error of nbclient; the file is then as it was.
    """
    notebook = nbformat.read(file, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=PATIENCE_S,
        resources={"metadata": {"path": str(file.resolve().parent)}},
        record_timing=False,  # the same results give the same file
        extra_arguments=["--log-level=ERROR"],  # no warning that it listens on loopback
    )
    # What cells print comes as messages; this is what the kernel's own threads say while it ends.
    client.execute(stderr=subprocess.DEVNULL)
    nbformat.write(notebook, file)
