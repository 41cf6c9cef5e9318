"""`umem verify kernel`: what it prints, and its exit codes; the tutorial's file does what the tutorial says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from umem.cli import app

TUTORIAL = Path(__file__).parents[2] / "docs" / "model-checking.md"
RIGHT = """
from umem.kernels import fetch_add_i64
from umem.verify import Program
both = Program(lanes=[(fetch_add_i64, 64, 0, 1)] * 2, memory={64: 0})
"""


@pytest.fixture
def file(tmp_path):
    def write(source):
        path = tmp_path / "programs.py"
        path.write_text(source)
        return str(path)

    return write


def test_the_tutorial_finds_its_bug(file, capsys):
    source = re.search(r"```python\n(.*?)```", TUTORIAL.read_text(), re.DOTALL).group(1)
    assert app.main(["verify", "kernel", file(source)]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"two_pops +sequential +exhausted", printed)
    assert re.search(r"two_pops +weak +exhausted", printed)
    assert (
        re.search(r"reuse +sequential +bug", printed) and "node 192 was taken and is on the stack" in printed
    )
    assert re.search(r"lane 1 +compare_swap acq_rel TOP .* line \d+ of programs.py", printed)
    assert "again: replay(" in printed


def test_exhausted_is_0_and_a_limit_is_no_pass(file, capsys):
    path = file(RIGHT)
    assert app.main(["verify", "kernel", path]) == 0
    long = RIGHT + "from tests.verify.test_kernels import barrier, store_release_i64, load_acquire_i64\n"
    long += "lanes, memory, _ = barrier(store_release_i64, load_acquire_i64)\n"
    long += "slow = Program(lanes, memory)\n"
    assert app.main(["verify", "kernel", file(long), "--limit-s", "0"]) == 3
    assert "limit" in capsys.readouterr().out


def test_a_file_without_programs_is_refused(file, capsys):
    assert app.main(["verify", "kernel", file("x = 1")]) == 2
    assert "assigns no Program" in capsys.readouterr().err
    assert app.main(["verify", "kernel", "/nonsense.py"]) == 2
    assert "no file '/nonsense.py'" in capsys.readouterr().err
