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
SLOW = (
    RIGHT
    + """
from tests.verify.test_kernels import barrier, store_release_i64, load_acquire_i64
lanes, memory, _ = barrier(store_release_i64, load_acquire_i64, 4)
slow = Program(lanes, memory)
"""
)


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
    assert app.main(["verify", "kernel", file(SLOW), "--limit-s", "0"]) == 3
    assert "limit" in capsys.readouterr().out


def test_walks_follow_a_search_that_has_no_time(file, capsys):
    arguments = ["verify", "kernel", file(SLOW), "--limit-s", "0", "--walks"]
    assert app.main([*arguments, "5"]) == 3
    printed = capsys.readouterr().out
    assert len(re.findall(r"slow +sequential +limit", printed)) == 2
    assert len(re.findall(r"slow +weak +limit", printed)) == 2


def test_again_names_all_that_replay_needs(file, capsys):
    source = """
from umem.kernels import load_acquire_i64
from umem.verify import Program
def reader():
    assert load_acquire_i64(64, 0) == load_acquire_i64(128, 0)
wrong = Program(lanes=[(reader,)], memory={64: 0}, constants={128: 1}, kills=1, mortal=())
"""
    assert app.main(["verify", "kernel", file(source)]) == 1
    assert "final, 'sequential', constants=constants)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("x = = 1", r"programs.py, line 1: SyntaxError"),
        ("x = 1\nimport nowhere", r"programs.py, line 2: ModuleNotFoundError: No module named 'nowhere'"),
        ("raise KeyError('x')", r"programs.py, line 1: KeyError: 'x'"),
    ],
)
@pytest.mark.parametrize("arguments", [["kernel"], ["model", "--protocol"]], ids=["kernel", "protocol"])
def test_a_file_that_cannot_be_run_is_named(file, capsys, arguments, source, told):
    assert app.main(["verify", *arguments, file(source)]) == 2
    printed = capsys.readouterr().err
    assert re.search(told, printed) and "Traceback" not in printed


def test_a_program_of_nothing_is_refused(file, capsys):
    source = "from umem.verify import Program\nnothing = Program(lanes=[], memory={})"
    assert app.main(["verify", "kernel", file(source)]) == 2
    assert "a Program without lanes leaves nothing to check" in capsys.readouterr().err


def test_a_file_without_programs_is_refused(file, capsys):
    assert app.main(["verify", "kernel", file("x = 1")]) == 2
    assert "assigns no Program" in capsys.readouterr().err
    assert app.main(["verify", "kernel", "/nonsense.py"]) == 2
    assert "no file '/nonsense.py'" in capsys.readouterr().err
