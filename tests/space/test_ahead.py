"""What is loaded before a rank's first line: what the opening of a space needs, once for all ranks, and no more."""

from __future__ import annotations

import json

from tests.launching import RunScript
from umem.space import ahead
from umem.world.spec import MAPPED

WHERE_A_RANK_IS_LATE = {
    "umem.fabric.ucx.operations.resume"
}  # a barrier by messages that takes longer than a slice
SCRIPT = """
import json
import sys
import umem
from umem.kernels.build.compile import REGISTRY, CpuKernel, Lazy

def names(kernels):
    return sorted(f"{lazy.__module__}.{lazy.__qualname__}" for lazy in kernels)

def loaded():
    return [lazy for lazy in REGISTRY if lazy.is_loaded]

asked = set()

def load(lazy):
    asked.add(lazy)
    return lazy_load(lazy)

def noted(kernel):
    target = kernel._target
    def call(*arguments):
        asked.add(kernel)
        return target(*arguments)
    return call

lazy_load, Lazy.load = Lazy.load, load
before = loaded()
for kernel in before:
    if isinstance(kernel, CpuKernel):
        kernel._target = noted(kernel)
with umem.init() as space:
    space.barrier()
print(json.dumps([names(before), names(loaded()), names(asked)]))
"""


def test_a_rank_that_only_opens_its_space_finds_what_it_needs_and_nothing_else(
    run_script: RunScript, world_kind: str
) -> None:
    """Red: a kernel is loaded at every start, by the parent or by each rank, that one who needs it could load."""
    done = run_script(SCRIPT, "-n", 2, "--world", world_kind, for_space=True)
    assert done.returncode == 0, done.stderr
    groups = ahead.kernel_groups(world_kind == MAPPED)
    kernels = [lazy for lazy in ahead.kernels_of_start(world_kind) if lazy.group in groups]
    expected = sorted(f"{lazy.__module__}.{lazy.__qualname__}" for lazy in kernels)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        found, at_the_end, asked = json.loads(line.partition("] ")[2])
        assert found == expected
        assert at_the_end == expected
        assert set(expected) - set(asked) <= WHERE_A_RANK_IS_LATE
