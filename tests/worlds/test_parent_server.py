"""What tests/parent_server.py forks is, to a launch and to a program, what a new interpreter is."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import umem
from tests.launching import has_ended
from umem.errors import WorldError


def parents_command(space):
    return Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")[2]


def test_a_launch_of_a_test_has_a_forked_parent_unless_its_environment_is_its_own(monkeypatch):
    assert umem.launch(parents_command, ranks=1, segment="32M") == "tests.parent_server"
    monkeypatch.setenv("UMEM_HOST", "elsewhere")
    assert umem.launch(parents_command, ranks=1, segment="32M") == "umem.world.warm_parent"


def kill_the_parent(space, file):
    Path(file).write_text(str(os.getpid()))
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


def test_a_forked_parent_that_is_killed_takes_its_ranks_along_and_is_missed(tmp_path):
    file = tmp_path / "pid"
    with pytest.raises(WorldError, match=r"the ranks' parent was killed by SIGKILL and left no report"):
        umem.launch(kill_the_parent, ranks=1, segment="32M", args=(str(file),))
    assert has_ended(int(file.read_text()), 10)


def test_a_forked_program_ends_as_an_interpreter_does(parent_servers):
    done = parent_servers.run_program("import atexit; atexit.register(print, 'end'); exit(3)", (), 60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "end\n", "")
    done = parent_servers.run_program("print(__name__)\nspace = 1 / 0", (), 60)
    assert (done.returncode, done.stdout) == (1, "__main__\n") and "ZeroDivisionError" in done.stderr
