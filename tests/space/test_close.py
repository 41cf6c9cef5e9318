"""How a space ends, and what a process may do after it: open another, and be refused without a crash."""

from __future__ import annotations

import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests.launching import SCRIPT_TIMEOUT_S
from umem.space.named import ZERO_STEP_BYTES, Named

BEGIN = """
import gc
import numpy as np
import umem
from umem.errors import UmemError
from umem.world import WorldSpec
spec = WorldSpec.of(1, segment="64M")
"""
# What is run, and what it prints.
SCRIPTS = {
    "checks before the close, the latest first": (
        """
        with umem.init(spec) as space:
            space.before_close(lambda is_forced: print("first", is_forced))
            space.before_close(lambda is_forced: print("second", is_forced))
        """,
        "second False\nfirst False\n",
    ),
    "a space that cannot be made leaves its world": (
        """
        try:
            umem.init(WorldSpec.of(1, segment="900T"))
        except UmemError as error:
            print(type(error).__name__)
        with umem.init(spec) as space:
            print(space.num_ranks)
        """,
        "SegmentTooLarge\n1\n",
    ),
    "views that only a cycle holds do not keep the memory": (
        """
        gc.disable()
        for number in range(2):
            with umem.init(spec) as space:
                held = [space.view(space.alloc(64), 64)]
                held.append(held)
                del held
            print(number)
        """,
        "0\n1\n",
    ),
    "views outlive their space, and then there is no other": (
        """
        with umem.init(spec) as space:
            view = space.empty(16, "int64").numpy()
            view[:] = 3
        print(view.sum())
        for _ in range(2):  # and not: in a world already
            try:
                umem.init()
            except UmemError as error:
                print("can open no other space" in str(error))
        """,
        "48\nTrue\nTrue\n",
    ),
    "a closed space refuses what it had cached": (
        """
        with umem.init(spec) as space:
            array = space.empty(8, "int64", cache="back")
            array.write(np.arange(8))
        words = np.zeros(8, np.int64)
        calls = {
            "get": lambda: space.get(words, array.address),
            "put": lambda: space.put(array.address, words),
            "copy": lambda: space.copy(array.address, array.address + 32, 32),
            "load": lambda: space.load(array.address, "int64"),
            "view": lambda: space.view(array.address, 64),
            "free": lambda: space.free(array.address),
        }
        for name, call in calls.items():
            try:
                call()
            except UmemError as error:
                print(name, type(error).__name__)
        """,
        "".join(f"{name} WorldError\n" for name in ("get", "put", "copy", "load", "view", "free")),
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_goes_on_behind_its_space(script, name):
    source, printed = SCRIPTS[name]
    lines = [BEGIN, *(line[8:] for line in source.splitlines())]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        check=False,
        capture_output=True,
        text=True,
        timeout=SCRIPT_TIMEOUT_S,
    )
    assert (done.returncode, done.stdout) == (0, printed), done.stderr


class Zeroed(Named):
    """Memory of a shared array, and what lies around it."""

    def __init__(self, num_bytes: int) -> None:
        self.memory = np.ones(num_bytes, np.uint8)

    def put(self, address: int, src: np.ndarray) -> None:
        assert address + src.nbytes <= self.memory.nbytes
        self.memory[address : address + src.nbytes] = src


@pytest.mark.parametrize("num_bytes", [1, ZERO_STEP_BYTES, ZERO_STEP_BYTES + 1, 3 * ZERO_STEP_BYTES - 7])
def test_a_shared_array_is_zeroed_and_nothing_beside_it(num_bytes):
    space = Zeroed(num_bytes + 2 * ZERO_STEP_BYTES)
    space._zero(64, num_bytes)
    assert space.memory[:64].all() and space.memory[64 + num_bytes :].all()
    assert not space.memory[64 : 64 + num_bytes].any()


def test_find_waits_as_long_as_it_is_told():
    asked = []
    space = Zeroed(64)
    space.timeout_s = 60.0

    def get(key, timeout_s):
        asked.append((key, timeout_s))
        return pickle.dumps((0, (2,), np.dtype("int64")))

    space.world = SimpleNamespace(get=get)
    for timeout_s in (0, None, 1.5):
        assert space.find("mine", timeout_s).shape == (2,)
    assert asked == [("array/mine", 0), ("array/mine", 60.0), ("array/mine", 1.5)]
