"""Files that users name: what is wrong in theirs is told by line, and results are known to fit before they are made."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from umem.errors import ConfigError
from umem.files.users import TRIAL_BYTES, require_writable, run_file


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a = 1\nb = a / 0\n", "line 2: ZeroDivisionError"),
        ("def broken():\n    raise KeyError('x')\n\nbroken()\n", "line 2: KeyError"),
        ("import json\njson.loads('{')\n", "line 2: JSONDecodeError"),
        ("a = (\n", "line 1: SyntaxError"),
        ("raise ValueError('no') from None\n", "line 1: ValueError: no"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_by_its_line(tmp_path: Path, source: str, text: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(ConfigError, match=text) as caught:
        run_file(file)
    assert str(file) in str(caught.value)


def test_what_a_file_assigns_is_returned(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("number = 3\n")
    assert run_file(file)["number"] == 3


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_files_that_can_be_written_are_left_as_they_are(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("what stood there")
    before = open_files()
    require_writable(old, None, new)
    assert open_files() == before
    assert old.read_text() == "what stood there" and list(tmp_path.iterdir()) == [old]


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        require_writable(tmp_path / "nowhere" / "rows.json")
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        require_writable(tmp_path)


def test_a_disk_without_room_is_refused_before_the_work(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (TRIAL_BYTES - 1, limits[1])
    )  # as far as a full disk lets it come
    try:
        with pytest.raises(ConfigError, match=r"rows\.json cannot be written"):
            require_writable(tmp_path / "rows.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
