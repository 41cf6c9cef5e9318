"""What ranks of test_groups.py do: groups of lanes of several ranks' devices put, wait and meet; litmus tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import group_kernels
import numpy as np
import pytest
from group_kernels import FLAGS, STATUS, WRONG

import umem
from umem.bench.parts.litmus_lanes import STRIDE_WORDS
from umem.errors import NotMappable
from umem.kernels.status import OK, WAIT_TIMEOUT

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
import gpu_kernels

BLOCKS, THREADS = 2, 5
NUM_PAIRS = 8
BOTH_ROLES = -1


def words_of_all(space: umem.Space, name: str, count: int = 2 * FLAGS) -> Any:
    """Words that the devices of all ranks reach."""
    return space.shared(name, count, "int64", home=where(space))


def where(space: umem.Space) -> int | str:
    """HBM of rank 0 where all ranks work on GPUs, else host memory."""
    kinds = space.world.exchange("where", str(int(space.segments.gpu is not None)).encode())
    return 0 if all(int(kind) for kind in kinds) else "host"


def groups_of_ranks_meet(space):
    """Two cooperative blocks a GPU rank, one lane a CPU rank, of which each is a group."""
    blocks = BLOCKS if space.segments.gpu is not None else 1
    counts = [int(blob) for blob in space.world.exchange("groups", str(blocks).encode())]
    base = words_of_all(space, "met")
    flags = space.barrier_flags("flags", sum(counts), home=where(space))
    threads = 1 if 1 in counts else THREADS
    first = sum(counts[: space.rank])
    given = base, flags, 10, first, sum(counts)
    space.launch(group_kernels.groups_meet, blocks, threads, *given, cooperative=True)
    space.synchronize()
    space.barrier()
    assert space.load(base.address + 8 * WRONG, "int64") == 0
    assert all(flags.read()[::16] == 20)


def puts_reach_the_other_rank(space):
    """Role 0 puts with a signal what role 1 waits for; the words lie at rank 0, then the roles are changed."""
    for turn in (0, 1):
        base = words_of_all(space, f"put-{turn}")
        space.launch(group_kernels.puts_of_role, 1, 40, base, 30, (space.rank + turn) % 2)
        space.synchronize()
        space.barrier()
        assert space.load(base.address + 8 * WRONG, "int64") == 0


def a_rank_that_does_not_come_is_a_status(space):
    """Rank 0 times out, by its own clock; the same epoch is OK when rank 1 has come."""
    base, flags = words_of_all(space, "alone"), space.barrier_flags("alone-flags", home=where(space))
    if space.rank == 0:
        space.launch(group_kernels.waits_for_nobody, 1, THREADS, base, flags, 2, 0, 1)
        space.synchronize()
        assert base.read()[STATUS : STATUS + 2].tolist() == [WAIT_TIMEOUT] * 2
    space.barrier()
    if space.rank == 1:
        space.launch(group_kernels.comes_back, 1, THREADS, base, flags, 2, 1, 1)
        space.synchronize()
        assert base.read()[STATUS] == OK
    space.barrier()
    if space.rank == 0:
        space.launch(group_kernels.comes_back, 1, THREADS, base, flags, 2, 0, 1)
        space.synchronize()
        assert base.read()[STATUS] == OK


def flags_out_of_reach_are_refused(space):
    if where(space) == 0:
        return
    with pytest.raises(NotMappable, match=r'out of reach .* home="host"'):
        space.barrier_flags("far", home=0)


CHECKS = (
    groups_of_ranks_meet,
    puts_reach_the_other_rank,
    a_rank_that_does_not_come_is_a_status,
    flags_out_of_reach_are_refused,
)


def run_all(space):
    """Every check that has passed, in turn."""
    passed = []
    for check in CHECKS:
        check(space)
        space.barrier()
        passed.append(check.__name__)
    return passed


def litmus(space):
    """Ends of every litmus test, by name and by which rank has role 0: {(name, turn): counts of 2 * r0 + r1}."""
    num = int(os.environ["LITMUS_INSTANCES"])
    names = os.environ["LITMUS_TESTS"].split(",")
    return {
        (name, turn): ends(space, test_of(name), num, turn)
        for name in names
        for turn in range(space.num_ranks)
    }


def test_of(name: str) -> gpu_kernels.Litmus:
    return gpu_kernels.UNORDERED[name] if name in gpu_kernels.UNORDERED else gpu_kernels.LITMUS[name]


def ends(space: umem.Space, test: gpu_kernels.Litmus, num: int, turn: int) -> list[int]:
    """One rank: pairs of blocks of its device. Two: a lane each, x in the HBM of one and y in the other's, or both in
    host memory where one works on the CPU."""
    is_alone = space.num_ranks == 1
    pairs = NUM_PAIRS if is_alone else 1
    each = num // pairs
    far = where(space)
    title = f"{test.kernel.entry.__name__} {turn}"
    homes = {"x": far, "y": (space.num_ranks - 1 if far == 0 else far), "out": far, "meetings": far}
    sizes = {"x": num * STRIDE_WORDS, "y": num * STRIDE_WORDS, "out": 2 * num, "meetings": 2 * pairs * 16}
    made = {key: space.shared(f"{title} {key}", sizes[key], "int64", home=homes[key]) for key in sizes}
    arguments = [made[key] for key in ("x", "y", "out", "meetings")]
    role = BOTH_ROLES if is_alone else (space.rank + turn) % 2
    blocks = 2 * pairs if is_alone else 1
    for count in (0, each):  # first compiled only: then none waits for the other's compiler
        space.launch(test.kernel.entry, blocks, 1, *arguments, role, count, cooperative=is_alone)
        space.synchronize()
        space.barrier()
    met = made["meetings"].read()[1::16]
    assert (met == each).all(), f"{title}: lanes met at {met} of {each} instances"
    of_role_0, of_role_1 = made["out"].read().reshape(2, -1)
    seen = 2 * of_role_0 + of_role_1 if test.is_of_both else of_role_1
    space.barrier()  # nobody reads or makes anything under another's read
    if space.rank == 0:
        for array in made.values():
            array.free()
    return np.bincount(seen, minlength=4).tolist()
