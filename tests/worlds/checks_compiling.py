"""What a rank that compiles costs the others: time, and no deadline. Checks of test_space.py."""

from __future__ import annotations

import threading

import pytest

from umem.errors import WaitTimeout
from umem.kernels.build.compile import compiling

SHORT_S = 0.05


def no_deadline_passes_while_a_rank_compiles(space):
    """Rank 1 compiles for as long as others wait: they hear of it before, and their waits would be over long since."""
    if space.num_ranks == 1:
        return
    begun = space.shared("compiling", 1, "int64")
    if space.rank == 1:
        with compiling():
            space.store(begun.address, 1, "int64")
            threading.Event().wait(4 * SHORT_S)
            space.publish("compiled", begun)
            space.barrier()
    else:
        while not space.load(begun.address, "int64"):
            pass
        space.find("compiled", timeout_s=SHORT_S)
        space.barrier(timeout_s=SHORT_S)
    space.barrier()
    with pytest.raises(WaitTimeout):
        space.find("never published", timeout_s=SHORT_S)
