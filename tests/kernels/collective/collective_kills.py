"""Kills a member of a team inside its collectives, under the faults build; run as a script by test_collective_kills.py.

Argument: the distance between the shared accesses at which it is killed. The others must complete what they complete
with the right sums, and end with the news of the death, never hang.
"""

from __future__ import annotations

import signal
import sys

import numpy as np

from tests.kernels.collective.team_memory import NUM_ELEMENTS, TeamMemory
from tests.kernels.forked import SharedWords, end_of, start_rank
from umem.kernels.collective import layout
from umem.kernels.intrinsics import faults
from umem.kernels.status import EPOCH_CHANGED, OK

SIZE, VICTIM = 3, 1
WRONG, FAILED = 3, 4  # exit codes
HANG_S = 20.0


def work(memory: TeamMemory, member: int) -> int:
    """Small and large operations in turn, each checked; 0 at the end, or once the death is known."""
    ones = np.arange(NUM_ELEMENTS, dtype=np.int64)
    for turn in range(2):
        for num in (1, 100, NUM_ELEMENTS):
            src, dst = ones[:num] + member + turn, np.zeros(num, np.int64)
            code = memory.call(layout.ALL_REDUCE, src, dst, 8 * num)
            if code != OK:
                return 0 if code == EPOCH_CHANGED else FAILED
            if (dst != SIZE * (ones[:num] + turn) + sum(range(SIZE))).any():
                return WRONG
        counts = np.array([[0, 3, 700], [900, 1, 0], [5, 0, 40]]) + turn
        rows = np.zeros((SIZE, layout.TABLE_ROW_WORDS), np.int64)
        rows[:, layout.TABLE_SEND] = 8 * counts[member]
        rows[:, layout.TABLE_SEND_AT] = 8 * (np.cumsum(counts[member]) - counts[member])
        rows[:, layout.TABLE_TAKE] = 8 * counts[:, member]
        rows[:, layout.TABLE_PUT_AT] = 8 * (np.cumsum(counts[:, member]) - counts[:, member])
        src, dst = np.full(NUM_ELEMENTS, member + 1), np.zeros(NUM_ELEMENTS, np.int64)
        code = memory.call(layout.ALL_TO_ALL_V, src, dst, 0, rows)
        if code != OK:
            return 0 if code == EPOCH_CHANGED else FAILED
        if (dst[: counts[:, member].sum()] != np.repeat(np.arange(SIZE) + 1, counts[:, member])).any():
            return WRONG
    return 0


def accesses(memory: TeamMemory) -> int:
    """Shared accesses of the victim in a run without deaths. AssertionError where that goes wrong."""
    found = SharedWords(1)

    def act(member: int) -> int:
        memory.act_for(member)
        before = faults.count()
        code = work(memory, member)
        if member == VICTIM:
            found.words[0] = faults.count() - before
        return code

    children = [start_rank(member, act) for member in range(SIZE)]
    assert [end_of(pid, HANG_S) for pid in children] == [0] * SIZE
    return found.words[0]


def kill_at(memory: TeamMemory, access: int) -> None:
    """A run whose victim dies before its `access`-th shared access, if it makes as many: how often it polls varies."""
    memory.begin_again()

    def act(member: int) -> int:
        memory.act_for(member)
        if member == VICTIM:
            faults.arm(access)
        return work(memory, member)

    children = [start_rank(member, act) for member in range(SIZE)]
    ended = end_of(children[VICTIM], HANG_S)
    memory.tell_of_a_death()
    others = [end_of(children[member], HANG_S) for member in range(SIZE) if member != VICTIM]
    assert ended in (0, -signal.SIGKILL) and others == [0] * (SIZE - 1), (access, ended, others)


def main() -> None:
    memory = TeamMemory(SIZE)
    total = accesses(memory)
    killed = range(1, total, int(sys.argv[1]))
    for access in killed:
        kill_at(memory, access)
    print(f"killed {len(killed)} of {total}")


main()
