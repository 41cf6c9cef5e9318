"""What a request asks for is done at its home, once, and the answer is the handler's."""

from __future__ import annotations

import numpy as np
import pytest

from umem.agent import Operation, Request, layout
from umem.errors import ConfigError, HandlerError, UnknownOperation
from umem.kernels import status
from umem.kernels.build.compile import cpu_kernel
from umem.kernels.intrinsics.scalar import fetch_add_u32, fetch_add_u64

from . import handlers
from .ranks import Rank, get, needs_ucx, put, run_ranks, start

needs_ucx()
pytestmark = [pytest.mark.parametrize("transport", ["posix", "tcp"]), pytest.mark.timeout(60)]

PAYLOAD_BYTES = (0, 1, 8, 64, 65, 4096, 8200, (64 << 10) + 3, layout.MAX_PAYLOAD_BYTES - 64)


@cpu_kernel("void(int64, int64, int64)")
def add_locally(address, times, num_bytes):
    """The home's own side of a contended counter."""
    while times > 0:
        if num_bytes == 8:
            fetch_add_u64(address, 0, 1)
        else:
            fetch_add_u32(address, 0, 1)
        times -= 1


def home(me: Rank) -> dict[str, int]:
    """A rank whose main thread takes no part."""
    agent = start(me)
    me.close()
    return agent.counters()


def test_payloads_of_every_size_go_and_come_back(transport: str) -> None:
    def user(me: Rank) -> None:
        agent = start(me)
        for seed, num_bytes in enumerate(PAYLOAD_BYTES):
            sent = np.random.default_rng(seed).integers(0, 256, num_bytes, np.uint8)
            assert agent.call(1, Operation.PING, sent.tobytes()) == sent.tobytes()
            words = num_bytes // 8 * 8
            doubled = (2 * sent[:words].view(np.int64)).tobytes() + sent[words:].tobytes()
            arguments = tuple(range(seed % (layout.MAX_ARGUMENTS + 1)))
            answer = agent.call(1, handlers.DOUBLE, memoryview(sent.data), arguments)
            assert answer == doubled + np.array([2 * a for a in arguments], np.int64).tobytes()
            assert (
                agent.call(1, handlers.FILL, arguments=(num_bytes, 3))[:num_bytes]
                == ((3 * np.arange((num_bytes + 7) // 8)).tobytes()[:num_bytes])
            )
        # value: the handler's context; its payload, four arguments, nobody has room for
        assert agent.client.request(1, handlers.DOUBLE) == (layout.REPLY_TOO_LARGE, 1001, 32)
        me.close()

    _, counters = run_ranks([user, home], transport)
    assert counters["dropped"] == counters["send_errors"] == counters["failed"] == 0


@pytest.mark.parametrize("num_bytes", [4, 8])
def test_atomics_return_what_stood_there_and_touch_only_their_word(transport: str, num_bytes: int) -> None:
    limit = 1 << 8 * num_bytes

    def user(me: Rank) -> None:
        remote, word = start(me).remote, me.word(1, 8)
        assert remote.fetch_add(1, word, limit - 1, num_bytes) == 0
        assert remote.fetch_add(1, word, 3, num_bytes) == limit - 1
        assert remote.exchange(1, word, limit - 7, num_bytes) == 2
        assert remote.compare_swap(1, word, 1, 5, num_bytes) == limit - 7
        assert remote.compare_swap(1, word, limit - 7, 5, num_bytes) == limit - 7
        assert remote.fetch_add(1, word, 0, num_bytes) == 5
        around = np.zeros(17, np.int64)
        remote.get(1, me.word(1), around.ctypes.data, around.nbytes)
        assert np.flatnonzero(around).tolist() == [8]
        assert around[8] == 5
        me.close()

    run_ranks([user, home], transport)


@pytest.mark.parametrize("num_bytes", [4, 8])
def test_no_update_is_lost_between_peers_and_the_home_itself(transport: str, num_bytes: int) -> None:
    num_remote, num_local = 400, 400_000

    def user(me: Rank) -> list[int]:
        remote = start(me).remote
        olds = [remote.fetch_add(0, me.word(0), 1, num_bytes) for _ in range(num_remote)]
        me.close()
        return olds

    def busy_home(me: Rank) -> int:
        start(me)
        add_locally(me.word(0), num_local, num_bytes)
        me.close()
        return int(me.words()[0])

    total, first, second, third = run_ranks([busy_home, user, user, user], transport)
    assert total == num_local + 3 * num_remote
    assert len({*first, *second, *third}) == 3 * num_remote
    assert first == sorted(first)


def test_reads_and_writes_move_exactly_the_bytes_asked_for(transport: str) -> None:
    def user(me: Rank) -> None:
        start(me)
        base = me.word(1)
        for seed, num_bytes in enumerate([1, 2, 3, 4, 8, 63, 70_001, 2 * layout.MAX_PAYLOAD_BYTES + 5]):
            for offset in (16, 17):
                sent = np.random.default_rng(seed).integers(1, 256, num_bytes, np.uint8)
                put(me, 1, base + offset, sent)
                got = np.zeros(num_bytes + 32, np.uint8)
                get(me, 1, base, got)
                assert np.array_equal(got[offset : offset + num_bytes], sent)
                assert not got[:offset].any()
                assert not got[offset + num_bytes :].any()
                zeros = np.zeros(num_bytes, np.uint8)
                put(me, 1, base + offset, zeros)
        me.close()

    run_ranks([user, home], transport)


def test_a_striped_address_is_served_by_its_home_alone(transport: str) -> None:
    def user(me: Rank) -> None:
        remote, plan = start(me).remote, me.segments.map
        for block in range(plan.num_ranks):
            address = plan.striped_base + block * plan.block_bytes + 8
            assert remote.fetch_add(plan.home(address), address, 10 + block, 8) == 0
            other = 1 - plan.home(address)
            with pytest.raises(HandlerError, match="OUT_OF_RANGE"):
                remote.fetch_add(other, address, 1, 8)
        me.close()

    def owner(me: Rank) -> int:
        start(me)
        me.close()
        return int(me.segments.view(me.segments.map.home_view(1), 16).view(np.int64)[1])

    assert run_ranks([user, owner], transport)[1] == 11


def test_what_a_handler_refuses_is_an_error_with_its_status(transport: str) -> None:
    def user(me: Rank) -> None:
        agent = start(me)
        remote, word = agent.remote, me.word(1)
        with pytest.raises(UnknownOperation, match=r"operation 227 .* agent of rank 1: .*register"):
            agent.call(1, handlers.MISSING)
        with pytest.raises(HandlerError, match="NO_MEMORY") as caught:
            agent.call(1, handlers.REFUSE, arguments=(status.NO_MEMORY,))
        assert (caught.value.rank, caught.value.status) == (1, status.NO_MEMORY)
        with pytest.raises(HandlerError, match="BAD_REQUEST"):
            remote.fetch_add(1, word + 2, 1, 4)
        for address in (word - 8, word + me.segments.map.linear_bytes, 0, me.word(0)):
            with pytest.raises(HandlerError, match="OUT_OF_RANGE"):
                remote.fetch_add(1, address, 1, 8)
        with pytest.raises(HandlerError, match="OUT_OF_RANGE"):
            remote.get(1, word + me.segments.map.linear_bytes - 4, word, 8)
        with pytest.raises(HandlerError, match="no room for a reply of 100 bytes"):
            agent.call(1, handlers.FILL, arguments=(100, 1), max_reply_bytes=99)
        with pytest.raises(ConfigError, match="split it"):
            agent.call(1, Operation.PING, bytes(layout.MAX_PAYLOAD_BYTES + 1))
        with pytest.raises(ConfigError, match="9 arguments"):
            agent.call(1, Operation.PING, arguments=(0,) * 9)
        for rank in (-1, 2):
            with pytest.raises(ConfigError, match="no such rank"):
                agent.call(rank, Operation.PING)
        with pytest.raises(ConfigError, match="has a handler already"):
            agent.register(handlers.DOUBLE, handlers.refuse)
        with pytest.raises(ConfigError, match="not between 0 and 255"):
            agent.register(256, handlers.refuse)
        assert remote.fetch_add(1, word, 1, 8) == 0  # and the agent serves on
        me.close()

    run_ranks([user, home], transport)


def test_a_rank_may_ask_its_own_agent(transport: str) -> None:
    def alone(me: Rank) -> None:
        agent = start(me)
        assert agent.call(0, Operation.PING, bytes(5000)) == bytes(5000)
        assert me.agent.remote.fetch_add(0, me.word(0), 7, 8) == 0
        assert me.words()[0] == 7
        me.close()

    run_ranks([alone], transport)


def test_a_pending_request_is_continued_while_others_are_served(transport: str) -> None:
    def user(me: Rank) -> None:
        client, word = start(me).client, me.word(1)
        waiting = client.post(Request(1, handlers.WAIT_FOR_WORD, (word, 5)))
        for expected in range(5):
            assert me.agent.remote.fetch_add(1, word, 1, 8) == expected
        reply = client.finish(waiting)
        assert reply.status == status.OK
        assert reply.value > 1
        me.close()

    run_ranks([user, home], transport)
