"""Ranks that die while others hold, send or want tensors in their memory."""

from __future__ import annotations

import os
import pickle
import time
from multiprocessing.reduction import ForkingPickler

import pytest

pytest.importorskip("torch", reason="torch is not installed: scripts/setup torch")

import torch

import umem
from umem.errors import RankLost
from umem.torch import home, install, send, use_pool
from umem.torch.pool import installed

from . import steps


def until(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def the_survivor(space):
    """Rank 0's part; rank 1 has died with its tensors, and with one of rank 0's on its way to it."""
    install(space)
    outcomes = {}
    told = pickle.loads(space.world.get("told", 20.0))
    with use_pool(home=0):
        mine = torch.ones(1000)
    send(mine, 1)
    address = mine.data_ptr()
    del mine
    with use_pool(home=1, spill=(0,)) as context:
        theirs = torch.full((1000,), 5.0)
    space.world.set("go", b"")
    until(lambda: 1 in space.page.dead_ranks())
    outcomes["in flight to the dead"] = installed().flights.collect()
    outcomes["freed"] = freed(space, address)
    outcomes["own tensor at the dead home"] = float(theirs.sum())
    with context:
        outcomes["spill"] = home(torch.ones(10))
    try:
        use_pool(home=1)
    except RankLost as error:
        outcomes["use_pool"] = error.rank
    try:
        pickle.loads(told)
    except RankLost as error:
        outcomes["from the dead"] = error.rank
    del theirs
    outcomes["live"] = installed().num_live()
    return outcomes


def freed(space, address):
    try:
        return space.heap.find(address).address != address
    except umem.errors.NotAllocated:
        return True


def work(space):
    if space.rank == 0:
        return the_survivor(space)
    install(space)
    with use_pool(home=0):
        mine = torch.ones(1000)
    space.world.set("told", pickle.dumps(bytes(ForkingPickler.dumps(mine))))
    space.world.get("go", 20.0)
    os._exit(7)


@pytest.mark.timeout(200)
def test_what_the_dead_had_is_an_error_or_free_and_the_rest_goes_on():
    outcomes = umem.launch(
        work,
        ranks=2,
        segment="32M",
        timeout_s=30.0,
        on_failure="continue",
        results="all",
        preload=steps.PRELOAD,
    )[0]
    assert outcomes == {
        "in flight to the dead": 0,
        "freed": True,
        "own tensor at the dead home": 5000.0,
        "spill": 0,
        "use_pool": 1,
        "from the dead": 1,
        "live": 0,
    }
