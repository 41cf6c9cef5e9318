"""Each program in examples/ runs as it stands, checks what it says, and says it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PRINTED = {
    "hello": "hello from 2 ranks: the sum is 3",
    "coherent_counter": "2 ranks counted to 2000 in cached memory",
    "own_kernel": "tickets [0, 1] were each given out once",
    "any_device": "each of 2 ranks halved 1000 elements on its device",
    "near_operation": "rows 7, 0 and 99 begin with [28.0, 0.0, 396.0]",
    "torch_pool": "a product of tensors in the memory of rank 1: 64 everywhere",
    "torch_ddp": "2 ranks have learnt to add: the loss is below 0.001: True",
    "collectives": "the average of ranks [0, 1] is 0.5",
    "own_protocol": "under the protocol 'mine' two ranks made 3",
}
UMEM_RUN = ["-m", "umem", "run", "-n", "2"]
TORCHRUN = [
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--local-addr",
    "127.0.0.1",
    "--nproc-per-node",
    "2",
]
# The others launch their ranks themselves.
LAUNCHERS = {"hello": UMEM_RUN, "torch_pool": UMEM_RUN, "collectives": UMEM_RUN, "torch_ddp": TORCHRUN}


def test_every_example_is_run():
    assert {file.stem for file in EXAMPLES.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_checked(name):
    if name.startswith("torch") and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed: scripts/setup torch")
    launcher = LAUNCHERS.get(name, [])
    command = [sys.executable, *launcher, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)
    assert (done.returncode, done.stdout.strip().removeprefix("[0] ")) == (0, PRINTED[name]), done.stderr
