"""The barrier holds everyone until all have come, for any number of ranks; a wait can be cut and resumed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.ranks import SLEEP_AT_ONCE, SPIN, Pages, run_threads
from umem.kernels import cpu_kernel, load_i64, store_i64
from umem.kernels.build.cuda import cuda_cubin, cuda_ptx
from umem.kernels.page import barrier as kernels
from umem.kernels.page import control as layout
from umem.kernels.status import AGAIN, EPOCH_CHANGED, INTERRUPTED, OK

LONG_NS = 30_000_000_000
world_barrier = kernels.world_barrier


def arrive(pages: Pages, rank: int, epoch: int = 0) -> int:
    """One look at the world's barrier."""
    return kernels.cpu_world_barrier(pages.control(rank), epoch, 0)


def complete_round(pages: Pages, order: list[int]) -> None:
    """Let the ranks come in `order`, then look again until all have left; none may leave before all came."""
    for rank in order[:-1]:
        assert arrive(pages, rank) == AGAIN
    waiting = set(order)
    for _ in order:
        waiting = {rank for rank in waiting if arrive(pages, rank) != OK}
        if not waiting:
            return
    raise AssertionError(f"ranks {sorted(waiting)} of {len(order)} never left")


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5, 15, 16, 17, 31, 40, 257, 512])
def test_nobody_leaves_before_all_have_come(num_ranks):
    pages, rng = Pages(num_ranks, SLEEP_AT_ONCE), np.random.default_rng(num_ranks)
    for _ in range(2 if num_ranks > 100 else 5):
        complete_round(pages, list(rng.permutation(num_ranks)))


def test_who_asks_again_is_not_counted_twice():
    pages = Pages(3, SLEEP_AT_ONCE)
    assert [arrive(pages, rank) for rank in (0, 0, 1, 0, 1, 1)] == [AGAIN] * 6
    assert [arrive(pages, rank) for rank in (2, 0, 1)] == [OK] * 3
    assert arrive(pages, 2) == AGAIN  # the next round has begun


def test_a_rank_may_be_one_round_ahead():
    pages = Pages(2, SLEEP_AT_ONCE)
    assert [arrive(pages, 0), arrive(pages, 1), arrive(pages, 1)] == [AGAIN, OK, AGAIN]
    assert [arrive(pages, 0), arrive(pages, 0), arrive(pages, 1)] == [OK, OK, OK]


@cpu_kernel("int64(int64, int64, int64, int64)")
def count_together(control, counters, rank, num_rounds):
    """Count rounds; how often somebody's counter was not this round's, or the next, after a barrier."""
    num_ranks = load_i64(control, layout.CONTROL_NUM_RANKS)
    wrong = 0
    i = 1
    while i <= num_rounds:
        store_i64(counters, 8 * rank, i)
        if world_barrier(control, 0, LONG_NS) != OK:
            return -1
        peer = 0
        while peer < num_ranks:
            if load_i64(counters, 8 * peer) < i or load_i64(counters, 8 * peer) > i + 1:
                wrong += 1
            peer += 1
        i += 1
    return wrong


@pytest.mark.parametrize(("num_ranks", "spin_rounds"), [(2, SPIN), (2, 0), (3, 0), (8, 20), (17, 0), (40, 0)])
def test_what_was_stored_before_is_seen_after_by_all(num_ranks, spin_rounds):
    pages = Pages(num_ranks, spin_rounds)
    count_together.load()
    results = run_threads(
        num_ranks, lambda rank: count_together(pages.control(rank), pages.scratch, rank, 100)
    )
    assert results == [0] * num_ranks


def test_a_death_ends_the_wait_and_the_living_go_on_in_a_group():
    pages = Pages(3, SLEEP_AT_ONCE)
    assert arrive(pages, 0) == arrive(pages, 1) == AGAIN
    pages.words[:2, layout.CONTROL_EPOCH] = 1
    assert arrive(pages, 0) == arrive(pages, 1) == EPOCH_CHANGED
    assert arrive(pages, 0, epoch=1) == AGAIN  # rank 2 is still missing
    living = np.array([0, 1])
    assert member_arrives(pages, 1, living, 0, epoch=1) == AGAIN
    assert member_arrives(pages, 1, living, 1, epoch=1) == OK
    assert member_arrives(pages, 1, living, 0, epoch=1) == OK


def test_a_closing_space_ends_the_wait():
    pages = Pages(2, SLEEP_AT_ONCE)
    pages.words[0, layout.CONTROL_STOP] = 1
    assert arrive(pages, 0) == INTERRUPTED


def member_arrives(pages: Pages, group: int, members: np.ndarray, position: int, epoch: int = 0) -> int:
    control = pages.control(int(members[position]))
    return kernels.cpu_barrier(control, group, members.ctypes.data, members.size, position, epoch, 0)


def test_groups_do_not_wait_for_each_other():
    pages = Pages(6, SLEEP_AT_ONCE)
    even, odd = np.array([4, 0, 2]), np.array([5, 3])
    for _ in range(3):
        assert member_arrives(pages, 1, even, 0) == AGAIN
        assert member_arrives(pages, 2, odd, 1) == AGAIN
        assert member_arrives(pages, 1, even, 2) == AGAIN
        assert [member_arrives(pages, 2, odd, position) for position in (0, 1)] == [OK, OK]
        assert [member_arrives(pages, 1, even, position) for position in (1, 0, 2)] == [OK] * 3
    complete_round(pages, [3, 5, 1, 0, 2, 4])


def test_groups_of_all_numbers_fit_their_region():
    last_line = kernels.flag_offset(kernels.NUM_GROUPS - 1, kernels.GROUP_LINES - 1)
    assert last_line + 8 * kernels.FLAG_LINE_WORDS <= layout.CONTROL_BYTES
    assert kernels.RADIX ** (kernels.GROUP_LINES - 1) >= layout.MAX_RANKS


def test_barrier_as_plain_python():
    pages = Pages(3, SLEEP_AT_ONCE)
    results = [kernels.world_barrier(pages.control(rank), 0, 0) for rank in (2, 0, 1, 2, 0)]
    assert results == [AGAIN, AGAIN, OK, OK, OK]


cuda_barrier = kernels.cuda_barrier


def cuda_user(out, control):
    """A kernel whose first lane takes part in a barrier of four ranks."""
    store_i64(out, 0, cuda_barrier(control, 0, 0, 4, 1, 0, 1000))


@pytest.mark.parametrize("cc", [(8, 0), (9, 0), (10, 0)])
def test_barrier_assembles_for_cuda(cc):
    ptx, _ = cuda_ptx(cuda_user, "void(int64, int64)", cc=cc)
    assert "atom.acq_rel.sys" in ptx
    assert cuda_cubin(ptx, cc)
