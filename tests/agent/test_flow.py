"""The two bounded queues: a full one pushes back, nothing is lost, and replies always get through."""

from __future__ import annotations

import resource
import time

import numpy as np
import pytest

from umem.agent import Operation, Request, layout
from umem.errors import ConfigError, WaitTimeout
from umem.kernels import status

from . import handlers
from .ranks import Rank, needs_ucx, run_ranks, start

needs_ucx()
pytestmark = [pytest.mark.parametrize("transport", ["posix", "tcp"]), pytest.mark.timeout(60)]

TINY = 2  # credits: slots of an agent for each rank
NS_PER_MS = 1_000_000


@pytest.mark.parametrize("credits", [1, TINY, layout.MAX_CREDITS])
def test_a_stream_of_any_length_passes_a_queue_of_any_size(transport: str, credits: int) -> None:
    num_requests = 300 if credits > 1 else 60  # of these each waits for the one before

    def everybody(me: Rank) -> dict[str, int]:
        agent = start(me, credits=credits)
        peers = [rank for rank in range(me.num_ranks) if rank != me.rank]
        room = np.zeros((num_requests, 16), np.int64)
        asked = (
            Request(
                peers[index % len(peers)],
                handlers.DOUBLE,
                (me.rank, index),
                dst=room[index].ctypes.data,
                capacity=room[index].nbytes,
            )
            for index in range(num_requests)
        )
        for index, (_, reply) in enumerate(agent.client.stream(asked)):
            assert reply == (status.OK, 1000 + peers[index % len(peers)], 16)
            assert room[index, :2].tolist() == [2 * me.rank, 2 * index]
        me.close()
        return agent.counters()

    for counters in run_ranks([everybody] * 4, transport):
        assert counters["served"] == num_requests
        assert counters["dropped"] == counters["send_errors"] == 0
        assert counters["max_ready"] <= 4 * credits


def test_large_payloads_both_ways_between_all_ranks_at_once(transport: str) -> None:
    """Both networks are full in both directions; nobody's main thread serves."""
    num_bytes, num_requests = layout.MAX_PAYLOAD_BYTES, 24

    def everybody(me: Rank) -> None:
        agent = start(me, credits=TINY)
        sent = np.random.default_rng(me.rank).integers(0, 256, num_bytes, np.uint8)
        room = np.zeros((num_requests, num_bytes), np.uint8)
        asked = (
            Request(
                (me.rank + 1 + index) % me.num_ranks,
                Operation.PING,
                (),
                sent.ctypes.data,
                num_bytes,
                room[index].ctypes.data,
                num_bytes,
            )
            for index in range(num_requests)
        )
        assert all(reply.status == status.OK for _, reply in agent.client.stream(asked))
        assert (room == sent).all()
        me.close()

    run_ranks([everybody] * 4, transport)


def test_what_ucx_keeps_for_a_request_is_given_back(transport: str) -> None:
    """100 MiB of payload through one agent leave its process no larger."""
    num_bytes, num_requests = layout.MAX_PAYLOAD_BYTES, 400

    def user(me: Rank) -> None:
        client, sent = start(me).client, np.ones(num_bytes, np.uint8)
        fields = (1, Operation.WRITE, (me.word(1),), sent.ctypes.data, num_bytes)
        for warm_up in (True, False):
            asked = [Request(*fields)] * (num_requests // (4 if warm_up else 1))
            assert all(reply.status == status.OK for _, reply in client.stream(asked))
            me.meet()
        me.close()

    def home(me: Rank) -> int:
        start(me)
        me.meet()
        before = resident_bytes()
        me.meet()
        grown = resident_bytes() - before
        me.close()
        return grown

    assert run_ranks([user, home], transport)[1] < num_requests * num_bytes // 4


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def test_ranks_that_wait_for_each_other_in_pending_handlers_still_answer(transport: str) -> None:
    """Every rank fills its window with requests that only a request in the other direction can end."""

    def everybody(me: Rank) -> None:
        client = start(me, credits=TINY).client
        other = 1 - me.rank
        waiting = client.post(Request(other, handlers.WAIT_FOR_WORD, (me.word(other), 1)))
        me.meet()  # both agents have, or will have, a request that cannot end yet
        me.agent.remote.fetch_add(other, me.word(other), 1, 8)
        assert client.finish(waiting).status == status.OK
        me.close()

    run_ranks([everybody] * 2, transport)


def test_one_request_beyond_the_window_waits_and_then_says_so(transport: str) -> None:
    def user(me: Rank) -> None:
        client, word = start(me, credits=TINY).client, me.word(1)
        tickets = [client.post(Request(1, handlers.WAIT_FOR_WORD, (word, 1))) for _ in range(TINY)]
        with pytest.raises(WaitTimeout, match="PING at rank 1"):
            client.post(Request(1, Operation.PING), timeout_s=0.2)
        assert client.request(0, Operation.PING).status == status.OK  # another rank's credits are its own
        me.meet()  # the home sets the word
        assert [client.finish(ticket).status for ticket in tickets] == [status.OK] * TINY
        assert client.request(1, Operation.PING).status == status.OK
        me.close()

    def home(me: Rank) -> None:
        start(me, credits=TINY)
        me.meet()
        me.words()[0] = 1
        me.close()

    run_ranks([user, home], transport)


def test_a_request_that_timed_out_harms_no_later_one(transport: str) -> None:
    """Its reply comes late: it is dropped, not taken for another's, and its credit returns.

    A deadline is looked at after each slice of 50 ms.
    """

    def user(me: Rank) -> int:
        client = start(me, credits=TINY).client
        room = np.zeros(64, np.int64)
        for _ in range(3):
            for _ in range(TINY):
                with pytest.raises(WaitTimeout):
                    client.request(
                        1, handlers.SPIN, 120 * NS_PER_MS, me.word(1), timeout_s=1e-9, dst=1, capacity=1 << 40
                    )
            where = (room.ctypes.data, room.nbytes)
            reply = client.request(1, handlers.FILL, 80, 7, dst=where[0], capacity=where[1])
            assert reply == (status.OK, 0, 80)
            assert room[:10].tolist() == list(range(0, 70, 7))
        me.close()
        return client.words[layout.CLIENT_NUM_LATE]

    def home(me: Rank) -> int:
        start(me, credits=TINY)
        me.close()
        return int(me.words()[0])

    num_late, num_served = run_ranks([user, home], transport)
    assert num_late == num_served == 3 * TINY


def test_leaving_a_stream_early_gives_its_requests_up(transport: str) -> None:
    def user(me: Rank) -> None:
        client = start(me).client
        for _ in range(3):
            for _, reply in client.stream(Request(1, Operation.PING) for _ in range(100)):
                assert reply.status == status.OK
                break
        assert all(r.status == status.OK for _, r in client.stream([Request(1, Operation.PING)] * 100))
        me.close()

    def home(me: Rank) -> None:
        start(me)
        me.close()

    run_ranks([user, home], transport)


def test_credits_are_checked(transport: str) -> None:
    def alone(me: Rank) -> None:
        for credits in (0, layout.MAX_CREDITS + 1):
            with pytest.raises(ConfigError, match=f"credits={credits} "):
                me.start(credits=credits)
        me.fabric.close()

    run_ranks([alone], transport)


def test_a_home_that_holds_the_gil_answers(transport: str) -> None:
    """While rank 1 sits in one call that keeps the GIL, the agent of rank 1 serves rank 0."""
    from .ranks import sleep_with_gil

    def user(me: Rank) -> tuple[float, float]:
        remote, word = start(me).remote, me.word(1)
        word_back = np.zeros(1, np.int64)
        me.meet()
        first = time.monotonic()
        for expected in range(50):
            assert remote.fetch_add(1, word, 1, 8) == expected
            remote.get(1, word, word_back.ctypes.data, 8)
            assert word_back[0] == expected + 1
        last = time.monotonic()
        me.close()
        return first, last

    def home(me: Rank) -> tuple[float, float]:
        start(me)
        me.meet()
        before = time.monotonic()
        sleep_with_gil(1.5)
        after = time.monotonic()
        me.close()
        return before, after

    (first, last), (before, after) = run_ranks([user, home], transport)
    assert after - before >= 1.4
    assert last < after, "the requests were answered only after the call"
    assert first < after
