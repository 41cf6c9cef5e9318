"""What the hosts of a team pass on to each other, as plain data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.collectives.test_schedules import fold
from tests.collectives.twin import Rank, Ranks
from umem.collectives.links import CAME, MADE, NUM_ROOMS, RESULT, chain, chain_steps, hosts_of, slabs, star
from umem.collectives.schedules import DST, SRC

ROOM_BYTES = 16


@pytest.mark.parametrize(
    ("names", "hosts"),
    [
        ("aabb", [range(2), range(2, 4)]),
        ("abbbc", [range(1), range(1, 4), range(4, 5)]),
        ("abab", []),  # the sum would go to and fro
        ("abc", []),  # nobody shares a host
        ("aaa", []),  # all do
    ],
)
def test_hosts_follow_each_other(names, hosts):
    assert hosts_of(names) == hosts


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 5), st.integers(0, 6), st.integers(0, 1 << 30), st.data())
def test_a_chain_adds_in_the_order_of_the_hosts(num_hosts, num_chunks, seed, data):
    rng = np.random.default_rng(seed)
    takers = data.draw(st.sets(st.integers(0, num_hosts - 1), min_size=1))
    sizes = rng.integers(1, ROOM_BYTES + 1, num_chunks).tolist()
    inputs = [[rng.integers(0, 256, size, np.uint8) for size in sizes] for _ in range(num_hosts)]
    rooms = [np.zeros(NUM_ROOMS * ROOM_BYTES, np.uint8) for _ in range(num_hosts)]
    results: list[dict[int, np.ndarray]] = [{} for _ in range(num_hosts)]

    def room(host, index, size):
        return rooms[host][index * ROOM_BYTES :][:size]

    for step in chain_steps(num_chunks, num_hosts):
        schedules = [chain(host, num_hosts, step, sizes, takers, ROOM_BYTES) for host in range(num_hosts)]
        ranks = [Rank(made, {SRC: rooms[host]}) for host, made in enumerate(schedules)]
        Ranks(ranks, fold).run(lambda n: int(rng.integers(n)))
        for host in range(num_hosts):
            done, here, is_last = step - num_hosts, step - host, host == num_hosts - 1
            if done >= 0 and host in takers:
                results[host][done] = room(host, MADE if is_last else RESULT, sizes[done]).copy()
            if 0 <= here < num_chunks:
                own, size = inputs[host][here], sizes[here]
                came = [room(host, CAME, size)] if host else []
                room(host, MADE, size)[:] = fold([*came, own])
    for host in takers:
        assert len(results[host]) == num_chunks
        for chunk, result in results[host].items():
            np.testing.assert_array_equal(result, fold([inputs[h][chunk] for h in range(num_hosts)]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 3), min_size=2, max_size=5), st.integers(0, 1 << 30))
def test_slabs_and_stars_reach_all_hosts(sizes, seed):
    rng, length = np.random.default_rng(seed), 5
    ends = np.cumsum(sizes).tolist()
    hosts = [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    whole = rng.integers(0, 256, ends[-1] * length, np.uint8)
    root = int(rng.integers(len(hosts)))
    held = [np.zeros_like(whole) for _ in hosts]
    for mates, own in zip(hosts, held, strict=True):
        mine = slice(mates.start * length, mates.stop * length)
        own[mine] = whole[mine]
    ranks = [Rank(slabs(host, hosts, length), {DST: held[host]}) for host in range(len(hosts))]
    Ranks(ranks, fold).run(lambda n: int(rng.integers(n)))
    assert all((own == whole).all() for own in held)
    held = [whole.copy() if host == root else np.zeros_like(whole) for host in range(len(hosts))]
    ranks = [Rank(star(host, len(hosts), root, 2, 3), {DST: held[host]}) for host in range(len(hosts))]
    Ranks(ranks, fold).run(lambda n: int(rng.integers(n)))
    assert all((own[2:5] == whole[2:5]).all() for own in held)
