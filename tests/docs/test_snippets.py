"""Every block of code in README.md and docs/ runs, or says here why it does not."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from typer.main import get_command

from tests.docs.snippets import IN_A_RANK, run_in_rank, snippets
from umem.cli import app
from umem.coherence.load import check_protocol, load_protocol
from umem.files.users import run_file
from umem.world.launcher import launch

PYTHON = {snippet.place: snippet for snippet in snippets("python")}
PLAIN = {snippet.place: snippet for snippet in snippets("")}

FIRST = ("README.md", "import umem")
KERNEL = ("README.md", "from umem.kernels import cpu_kernel, fetch_add_i64, load_acquire_i64, pause")
TORCH = ("README.md", "with umem.init() as space:")
STACK = (
    "model-checking.md",
    "from umem.kernels import compare_swap_i64, load_acquire_i64, load_relaxed_i64, store_relaxed_i64",
)
EXPLORE = ("model-checking.md", "from umem.verify import Result, explore, replay, walk")
PROTOCOL = ("protocol.md", "from umem.coherence.protocol import *")
DEVICE = ("gpu.md", "import umem")
TEAM = ("collectives.md", "import numpy as np")
EXPERTS = ("moe.md", "import numpy as np")
TABLE = ("embedding.md", "import numpy as np")
GROUP = ("distributed.md", "import torch")
LITMUS = ("litmus.md", "test MP: message passing, data and then a flag")

BY_THEMSELVES = {
    FIRST,
    KERNEL,
    TORCH,
    STACK,
    EXPLORE,
    PROTOCOL,
    DEVICE,
    TEAM,
    EXPERTS,
    GROUP,
    TABLE,
}  # each has a test below
COMMANDS = {  # only their names and options are looked at
    ("README.md", "make bench"): "minutes",
    ("README.md", "umem info"): "a list of all commands, with SCRIPT and CASE to fill in",
    ("coherence.md", "umem bench coherence"): "minutes",
    ("collectives.md", "umem bench collective --peers mpi,gloo"): "minutes; tests/bench runs the cases",
    ("litmus.md", "umem verify litmus"): "a minute; the test of one's own is played below",
    ("protocol.md", "umem verify model"): "a minute; tests/verify searches the same",
    ("worlds.md", "umem run -n 4 script.py"): "tests/worlds starts worlds in each of these ways",
}
NO_CODE = {  # output, pictures, files that have a test of their own
    ("README.md", "$ umem verdict"),
    (
        "architecture.md",
        "BASE = 0x2000_0000_0000, reserved in every process (no memory, no access) when a space opens",
    ),
    ("coherence.md", "0x200000400080"),
    ("protocol.md", ""),
}


def test_every_block_is_run_or_has_its_reason():
    assert set(PYTHON) == BY_THEMSELVES | set(IN_A_RANK)
    assert set(PLAIN) == set(COMMANDS) | NO_CODE | {LITMUS}
    assert {snippet.language for snippet in snippets(None)} == {"", "python"}


def test_the_first_example_is_a_program(tmp_path):
    script = tmp_path / "example.py"
    script.write_text(PYTHON[FIRST].text)
    command = [sys.executable, str(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)
    assert (done.returncode, done.stdout) == (0, "3.5\n"), done.stderr


def test_the_kernel_runs():
    names = {}
    PYTHON[KERNEL].run(names)
    counter = np.zeros(1, np.int64)
    assert names["arrive"](counter.ctypes.data, 1) == 0
    assert counter[0] == 1


MODEL = """
import torch
import umem
import umem.torch

class MyModel(torch.nn.Linear):
    def __init__(self):
        super().__init__(8, 4)

def train(model):
    model(torch.ones(2, 8)).sum().backward()

"""


def test_the_example_under_torch_runs_as_it_stands(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")
    script = tmp_path / "script.py"
    script.write_text(MODEL + PYTHON[TORCH].text)
    command = [sys.executable, "-m", "umem", "run", "-n", "2", "--segment", "64M", str(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2


def test_the_kernel_of_any_device_runs():
    names = {}
    PYTHON[DEVICE].run(names)
    assert launch(names["work"], ranks=2, segment="32M", results="all") == [None, None]


def test_the_first_collectives_run():
    names = {}
    PYTHON[TEAM].run(names)
    assert launch(names["work"], ranks=2, segment="32M").tolist() == [[3.0] * 5] * 2


def test_the_experts_run():
    names = {}
    PYTHON[EXPERTS].run(names)
    assert launch(names["work"], ranks=2, segment="32M").shape == (100, 64)


def test_the_first_table_runs():
    names = {}
    PYTHON[TABLE].run(names)
    assert launch(names["work"], ranks=2, segment="32M").tolist() == [[1.0] * 64] * 2


def test_the_first_group_runs(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")
    script = tmp_path / "group.py"
    script.write_text(
        PYTHON[GROUP].text + "print(dist.get_backend(), model.module)\ndist.destroy_process_group()\n"
    )
    rank = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", str(script)]
    done = subprocess.run([sys.executable, *rank], check=True, capture_output=True, text=True, timeout=110)
    assert done.stdout.startswith("umem Linear(")


def test_fragments_run_in_ranks():
    printed = launch(run_in_rank, ranks=2, segment="1G")
    assert set(printed) == set(IN_A_RANK)
    assert any("hits" in text for text in printed.values())


def test_the_stack_is_checked_and_explored(tmp_path, capsys):
    file = tmp_path / "stack.py"
    file.write_text(PYTHON[STACK].text)
    assert app.main(["verify", "kernel", str(file)]) == 1
    verdicts = re.findall(r"^(\w+) +(?:sequential|weak) +(\w+)", capsys.readouterr().out, re.MULTILINE)
    assert set(verdicts) == {("two_pops", "exhausted"), ("reuse", "bug")}
    names = run_file(file)
    assert "compare_swap" in PYTHON[EXPLORE].run(names)


def test_the_protocol_of_ones_own_is_sound(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(PYTHON[PROTOCOL].text)
    check_protocol(load_protocol(str(file)))


def test_the_litmus_test_of_ones_own_passes(tmp_path):
    file = tmp_path / "my.litmus"
    file.write_text(PLAIN[LITMUS].text)
    assert app.main(["verify", "litmus", str(file), "--model"]) == 0


def commands():
    """Lines of console blocks that call umem, each also without what explains it."""
    lines = [line for place in COMMANDS for line in PLAIN[place].text.splitlines()]
    return [(line.partition("  ")[0], line) for line in lines if line.startswith("umem ")]


@pytest.mark.parametrize(("command", "line"), commands())
def test_commands_and_their_options_exist(command, line):
    words = shlex.split(command)[1:]
    found = get_command(app.app)
    while words and hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    if found.name == "run":  # parses its own line, in umem/world/command.py
        return
    known = {option for parameter in found.params for option in parameter.opts}
    assert set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line.partition("umem.")[0])) <= known
