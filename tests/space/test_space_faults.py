"""A dead rank becomes an error for those who need it, soon, and for nobody else; a wait hears Ctrl-C."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

import umem
from umem.errors import RankLost, UmemError, WaitTimeout, WorldError

SOON_S = 5.0  # detection takes 4-20 ms; what is tested is that no deadline of 60 s is waited for


def survive_a_death(space, victim):
    """The victim kills itself; each survivor's view of the world afterwards."""
    array = space.shared("kept", 8, "int64", home=(victim + 1) % space.num_ranks)
    lost = space.shared("lost", 8, "int64", home=victim)
    space.store(array.address_of(space.rank), 7, "int64")
    space.barrier()
    if space.rank == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(RankLost) as barrier_error:
        space.barrier()
    seen = {"barrier": barrier_error.value.rank, "elapsed_s": time.monotonic() - begin}
    seen["kept"] = space.load(array.address_of(space.rank), "int64")
    if not space.world.may_map(victim):
        with pytest.raises(RankLost):
            space.load(lost.address, "int64")
        with pytest.raises(RankLost):
            space.fetch_add(lost.address, 1)
    with pytest.raises(RankLost):
        space.alloc(64, home=victim)
    seen["alloc"] = space.load(space.alloc(64), "int8") is not None
    space.world.set(f"done-{space.rank}", b"")
    for rank in range(space.num_ranks):
        if rank != victim:
            space.world.get(f"done-{rank}")  # a rank that leaves takes its memory with it, like one that dies
    return seen


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_death_is_told_to_those_who_need_the_dead(run_world, world_kind, ranks):
    victim = ranks - 1
    results = run_world(
        survive_a_death, ranks, world_kind, args=(victim,), on_failure="continue", segment="64M"
    )
    for rank, seen in enumerate(results):
        if rank == victim:
            assert isinstance(seen, UmemError)
            continue
        assert not isinstance(seen, BaseException), seen
        assert seen["barrier"] == victim and seen["kept"] == 7 and seen["alloc"]
        assert seen["elapsed_s"] < SOON_S


def go_on_without_one_that_left(space, fifo):
    """Rank 1 leaves by an error and lives on; 0 has nothing more to do; what 2 hears and reads after that."""
    array = space.shared("kept", 8, "int64", home=0)
    if space.rank == 0:
        return 42
    if space.rank == 1:
        with pytest.raises(ValueError), space:
            raise ValueError("only rank 1 fails")
        fifo.read_text()  # until rank 2 has written
        raise ValueError("only rank 1 fails")
    told = []
    begin = time.monotonic()
    for call in (
        space.barrier,
        lambda: space.shared("later", 8, "int64"),
        lambda: space.recv(1),
        lambda: space.world.exchange("needs all", b""),
    ):
        with pytest.raises(RankLost) as caught:
            call()
        told.append(
            (caught.value.rank, "left its world by ValueError: only rank 1 fails" in str(caught.value))
        )
    elapsed_s = time.monotonic() - begin
    space.world.get("close/0")  # rank 0 has met that rank 1 is lost, and waits for this one
    space.store(array.address, 7, "int64")
    fifo.write_text("done")
    return told, elapsed_s, space.load(array.address, "int64")


def test_healthy_ranks_learn_who_left_and_why_and_keep_their_results(run_world, world_kind, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    first, second, third = run_world(
        go_on_without_one_that_left, 3, world_kind, args=(fifo,), on_failure="continue", segment="64M"
    )
    assert first == 42 and isinstance(second, ValueError)
    assert not isinstance(third, BaseException), third
    told, elapsed_s, value = third
    assert told == [(1, True)] * 4 and elapsed_s < SOON_S and value == 7


def wait_alone(space):
    """Rank 0 waits at a barrier that rank 1 never comes to; how the wait ends, and after how long."""
    if space.rank == 1:
        space.world.get("done", 30.0)
        return None
    begin = time.monotonic()
    with pytest.raises(WaitTimeout, match="no end after"):
        space.barrier(timeout_s=0.3)
    timeout_s = time.monotonic() - begin

    def interrupt(_signum, _frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    lateness_s = []
    for _ in range(5):  # the best counts: others may want this core
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        begin = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            space.barrier()
        lateness_s.append(time.monotonic() - begin - 0.05)
    space.world.set("done", b"")
    return timeout_s, min(lateness_s)


def test_a_wait_ends_at_its_deadline_and_at_a_signal(run_world, world_kind):
    timeout_s, lateness_s = run_world(wait_alone, 2, world_kind, segment="64M")[0]
    assert 0.3 <= timeout_s < SOON_S
    assert 0 <= lateness_s < 0.1


def open_twice(space):
    with pytest.raises(WorldError):
        umem.init()
    address = space.alloc(64)
    space.barrier()
    space.close()
    space.close()
    for use in (
        lambda: space.load(address, "int64"),
        lambda: space.store(address, 1, "int8"),
        lambda: space.fetch_add(address, 1),
        lambda: space.put(address, np.zeros(8)),
        lambda: space.view(address, 8),
        lambda: space.alloc(8),
        lambda: space.free(address),
        space.barrier,
        space.fence,
        lambda: space.send(1, 0),
        lambda: space.recv(0),
    ):
        with pytest.raises(WorldError):
            use()
    return True


def test_one_space_a_process_and_closing_twice_is_harmless(run_world):
    assert run_world(open_twice, 2, segment="64M") == [True, True]


def test_a_process_alone_can_open_one_space_after_another():
    for _ in range(2):
        with umem.init(umem.WorldSpec.of(segment="64M")) as space:
            address = space.alloc(64)
            space.store(address, 5, "int64")
            assert space.load(address, "int64") == 5
