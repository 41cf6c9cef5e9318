"""Teams by levels in every rank of a world of several hosts: run by test_levels.py."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from tests.worlds.checks_collectives import OPERATIONS, same, values
from umem.collectives import Team
from umem.errors import CollectiveMismatch, RankLost


def check_death_between_levels(space):
    """A member that dies when all have begun: also those that wait for others of their own host know of it."""
    team = Team(space)
    assert team.semantics == "levels"
    last = space.num_ranks - 1
    if space.rank == last:
        heads = team._part._all
        announce = heads.announce

        def announce_and_die(*call):
            announce(*call)
            os.kill(os.getpid(), signal.SIGKILL)

        heads.announce = announce_and_die
    with pytest.raises(RankLost) as caught:
        team.all_reduce(np.ones(300_000))
    assert caught.value.rank == last
    with pytest.raises(RankLost):
        team.barrier()
    rest = Team(space, range(last))
    rest.all_reduce(data := np.ones(300_000))
    assert (data == last).all()


def check_levels(space, dtypes):
    """Where some members share a host, results are the same to the bit as by messages alone, in pieces and at once."""
    levels, plain = Team(space), Team(space, semantics="message")
    assert levels.semantics == "levels"
    n, me = levels.size, levels.position
    assert Team(space, [*range(1, n), 0]).semantics == "message"  # a host's members do not follow each other
    wrong = []
    for dtype in dtypes:
        for num in (262_144, 300_007):
            for op in OPERATIONS:
                if dtype == "bool" and op == "avg":
                    continue
                data = values(me, num, dtype, 7)
                if data.dtype.kind not in "iub":  # of these the smaller depends on their order
                    data[me::5], data[::3] = np.nan, (0.0, -0.0)[me % 2]
                results = [np.empty_like(data) for _ in range(3)]
                with np.errstate(all="ignore"):
                    plain.all_reduce(results[0], data, op)
                    levels.all_reduce(results[1], data, op)
                    for root in range(n):
                        levels.reduce(results[2] if root == me else None, data, op, root)
                    levels.all_reduce(data, op=op)
                if any(result.tobytes() != data.tobytes() for result in results):
                    wrong.append((dtype, op, num))
    for num in (262_144, 1_200_003):
        for root in range(n):
            levels.broadcast(got := values(me, num, "uint8"), root)
            if not same(got, values(root, num, "uint8")):
                wrong.append(("broadcast", num, root))
        gathered = np.empty(n * num, np.uint8)
        levels.all_gather(gathered, values(me, num, "uint8"))
        if not same(gathered, np.concatenate([values(rank, num, "uint8") for rank in range(n)])):
            wrong.append(("all_gather", num))
    with pytest.raises(CollectiveMismatch, match=r"all_reduce.*broadcast|broadcast.*all_reduce"):
        big = np.zeros(100_000)
        levels.broadcast(big) if me == n - 1 else levels.all_reduce(big)
    levels.close()
    assert not wrong, (len(wrong), wrong[:5])
