"""The staged path delivers slices, tells the time of each step, and refuses what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from umem.errors import FabricError
from umem.fabric.staged import STEPS, Staged

ROWS, ROW_BYTES, STRIDE = 64, 200, 256


def exchange_slices(space):
    """Each rank sends a slice to the next, and gets one from the one before."""
    staged = Staged(space.fabric, max_bytes=1 << 20)
    own, got = np.full((ROWS, STRIDE), space.rank, np.uint8), np.full((ROWS, STRIDE), 255, np.uint8)
    following, preceding = (space.rank + 1) % space.num_ranks, (space.rank - 1) % space.num_ranks
    for sender in range(space.num_ranks):
        if space.rank == sender:
            staged.send(following, own.ctypes.data, ROWS, ROW_BYTES, STRIDE)
        if space.rank == (sender + 1) % space.num_ranks:
            staged.recv(preceding, got.ctypes.data, ROWS, ROW_BYTES, STRIDE)
        space.barrier()
    with pytest.raises(FabricError, match="do not fit"):
        staged.send(following, own.ctypes.data, 1 << 20, 2, 2)
    if space.rank == 0:
        staged.send(following, own.ctypes.data, 1, ROW_BYTES, STRIDE)
    if space.rank == 1:
        with pytest.raises(FabricError, match="another shape"):
            staged.recv(preceding, got.ctypes.data, 2, ROW_BYTES, STRIDE)
    space.barrier()
    return got[:, :ROW_BYTES].tolist(), got[:, ROW_BYTES:].tolist(), dict(staged.step_ns)


def test_staged(run_world, world_kind):
    results = run_world(exchange_slices, ranks=3, world=world_kind, segment="64M")
    for rank, (rows, between, steps) in enumerate(results):
        assert rows == [[(rank - 1) % 3] * ROW_BYTES] * ROWS
        assert between == [[255] * (STRIDE - ROW_BYTES)] * ROWS
        assert set(steps) == set(STEPS) and all(step_ns > 0 for step_ns in steps.values()), steps
