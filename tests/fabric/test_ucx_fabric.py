"""put, get, atomics, messages and barriers over shared memory and tcp do what they promise."""

from __future__ import annotations

import os

import numpy as np
import pytest

from umem.errors import AddressError, AlignmentError, ConfigError, FabricError
from umem.kernels.build.compile import cpu_kernel
from umem.kernels.intrinsics.scalar import fetch_add_u64

from ..leftovers import files_left, shared_memory_files
from .ucx_ranks import Rank, run_ranks

SIZES = (1, 7, 8, 4095, (64 << 10) + 1, (8 << 20) + 3)
U64 = 1 << 64
pytestmark = [pytest.mark.parametrize("transport", ["posix", "tcp"]), pytest.mark.timeout(60)]


@cpu_kernel("void(int64, int64)")
def add_locally(address, times):
    """The home's own side of a contended counter."""
    while times > 0:
        fetch_add_u64(address, 0, 1)
        times -= 1


def pattern(num_bytes: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, num_bytes, np.uint8)


def idle(me: Rank, num_bytes: int = 4096) -> None:
    """A home whose main thread takes no part."""
    me.open(num_bytes)
    me.exchange("done", b"")
    me.close()


def test_put_and_get_move_exactly_the_bytes_asked_for(transport):
    def user(me: Rank) -> None:
        fabric = me.open(1 << 12)
        for seed, num_bytes in enumerate(SIZES):
            src = pattern(num_bytes, seed)
            whole = np.zeros(num_bytes + 32, np.uint8)
            fabric.put(1, me.addresses[1] + 16, src.ctypes.data, num_bytes)
            fabric.get(1, me.addresses[1], whole.ctypes.data, whole.size)
            assert np.array_equal(whole[16 : 16 + num_bytes], src)
            assert not whole[:16].any()
            assert not whole[16 + num_bytes :].any()
            zeros = np.zeros(num_bytes, np.uint8)
            fabric.put(1, me.addresses[1] + 16, zeros.ctypes.data, num_bytes)
        fabric.put(1, me.addresses[1], 0, 0)
        me.exchange("done", b"")
        me.close()

    run_ranks([user, lambda me: idle(me, SIZES[-1] + 4096)], transport)


@pytest.mark.parametrize("num_bytes", [4, 8])
def test_atomics_return_what_stood_there_and_touch_only_their_word(transport, num_bytes):
    limit = 1 << 8 * num_bytes

    def user(me: Rank) -> None:
        fabric, word = me.open(4096), me.addresses[1] + 64
        assert fabric.fetch_add(1, word, limit - 1, num_bytes) == 0
        assert fabric.fetch_add(1, word, 3, num_bytes) == limit - 1
        assert fabric.exchange(1, word, limit - 7, num_bytes) == 2
        assert fabric.compare_swap(1, word, 1, 5, num_bytes) == limit - 7
        assert fabric.compare_swap(1, word, limit - 7, 5, num_bytes) == limit - 7
        assert fabric.fetch_add(1, word, 0, num_bytes) == 5
        around = np.zeros(128, np.uint8)
        fabric.get(1, me.addresses[1], around.ctypes.data, around.size)
        assert np.flatnonzero(around).tolist() == [64]
        me.exchange("done", b"")
        me.close()

    run_ranks([user, idle], transport)


def test_atomics_of_two_peers_and_of_the_home_itself_lose_no_update(transport):
    num_remote, num_local = 3000, 300_000

    def user(me: Rank) -> None:
        fabric = me.open(4096)
        me.exchange("start", b"")
        for _ in range(num_remote):
            fabric.fetch_add(2, me.addresses[2], 1, 8)
        me.exchange("done", b"")
        me.close()

    def home(me: Rank) -> int:
        me.open(4096)
        me.exchange("start", b"")
        add_locally(me.memory.ctypes.data, num_local)
        me.exchange("done", b"")
        me.close()
        return int(me.memory.view(np.uint64)[0])

    add_locally.load()
    assert run_ranks([user, user, home], transport)[2] == 2 * num_remote + num_local


def test_messages_arrive_in_order_with_their_length(transport):
    lengths = (8, 0, 5000, 1 << 20)

    def sender(me: Rank) -> None:
        fabric = me.open(4096)
        for seed, num_bytes in enumerate(lengths):
            src = pattern(num_bytes, seed)
            fabric.send(1, src.ctypes.data, num_bytes, tag=7)
        me.close()

    def receiver(me: Rank) -> None:
        fabric, dst = me.open(4096), np.zeros(2 << 20, np.uint8)
        for seed, num_bytes in enumerate(lengths):
            assert fabric.recv(0, dst.ctypes.data, dst.size, tag=7) == num_bytes
            assert np.array_equal(dst[:num_bytes], pattern(num_bytes, seed))
        me.close()

    run_ranks([sender, receiver], transport)


def test_messages_are_told_apart_by_tag_and_sender(transport):
    def sender(me: Rank) -> None:
        fabric, word = me.open(4096), np.zeros(1, np.int64)
        for tag in (1, 2):
            word[0] = 10 * me.rank + tag
            fabric.send(2, word.ctypes.data, 8, tag)
        me.close()

    def receiver(me: Rank) -> list[int]:
        fabric, word, seen = me.open(4096), np.zeros(1, np.int64), []
        for rank, tag in ((1, 2), (0, 2), (0, 1), (1, 1)):
            fabric.recv(rank, word.ctypes.data, 8, tag)
            seen.append(int(word[0]))
        me.close()
        return seen

    assert run_ranks([sender, sender, receiver], transport)[2] == [12, 2, 1, 11]


def test_a_message_longer_than_its_buffer_is_an_error_with_ucx_own_words(transport):
    def sender(me: Rank) -> None:
        fabric, src = me.open(4096), np.ones(64, np.uint8)
        fabric.send(1, src.ctypes.data, 64)
        me.close()

    def receiver(me: Rank) -> None:
        fabric, dst = me.open(4096), np.zeros(64, np.uint8)
        with pytest.raises(FabricError, match=r"recv with rank 0 .*Message truncated \(-9\)"):
            fabric.recv(0, dst.ctypes.data, 8)
        me.close()

    run_ranks([sender, receiver], transport)


def test_no_rank_leaves_a_barrier_before_all_have_entered(transport):
    rounds = 30

    def member(me: Rank) -> None:
        fabric, own = me.open(4096), me.memory.view(np.int64)
        seen = np.zeros(1, np.int64)
        for number in range(1, rounds + 1):
            own[0] = number
            fabric.barrier()
            for peer in range(me.num_ranks):
                if peer != me.rank:
                    fabric.get(peer, me.addresses[peer], seen.ctypes.data, 8)
                    assert seen[0] >= number
        fabric.barrier()
        me.close()

    run_ranks([member] * 3, transport)


def test_bad_arguments_are_typed_errors_with_their_values(transport):
    def user(me: Rank) -> None:
        fabric, word = me.open(4096), np.zeros(1, np.int64)
        with pytest.raises(AlignmentError, match="not 8-byte aligned"):
            fabric.fetch_add(1, me.addresses[1] + 4, 1, 8)
        with pytest.raises(ConfigError, match="2 bytes"):
            fabric.exchange(1, me.addresses[1], 1, 2)
        with pytest.raises(AddressError, match="registered memory of rank 1"):
            fabric.get(1, me.addresses[1] + 4092, word.ctypes.data, 8)
        with pytest.raises(ConfigError, match="message tag -1"):
            fabric.send(1, word.ctypes.data, 8, tag=-1)
        me.exchange("done", b"")
        me.close()

    run_ranks([user, idle], transport)


def test_settings_of_ucx_do_not_leak_into_the_environment(transport):
    def user(me: Rank) -> list[str]:
        me.open(4096)
        me.close()
        return [name for name in os.environ if name.startswith("UCX_")]

    assert run_ranks([user], transport) == [[name for name in os.environ if name.startswith("UCX_")]]


def test_nothing_is_left_in_shared_memory_folders(transport):
    before = shared_memory_files()

    def killed(me: Rank) -> None:
        fabric = me.open(4096)
        fabric.barrier()
        os.kill(os.getpid(), 9)

    run_ranks([killed, killed], transport)
    assert not files_left(before)
