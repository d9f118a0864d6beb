"""What is written reaches the disk soon, as long as somebody keeps the kernel at it."""

import ctypes
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
from client import eventually

from common import writeback


def test_the_file_system_is_written_out_until_the_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Mock()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(writeback, "EVERY_S", 0.01)
    threads = set(threading.enumerate())
    with writeback.spread(tmp_path):
        eventually(lambda: library.syncfs.call_count >= 3)
    assert set(threading.enumerate()) <= threads


def test_it_is_done_by_a_call_that_the_system_has(tmp_path: Path) -> None:
    with writeback.spread(tmp_path):
        pass


def test_what_is_no_directory_is_not_accepted(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writeback.spread(tmp_path / "nothing"):
        pass
