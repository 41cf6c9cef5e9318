"""The agent's queue against a model: no request is lost, doubled, reordered, or admitted beyond the slots.

The very functions that the loop compiles run here as plain Python.
"""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from umem.agent import layout
from umem.agent.private_memory import PrivateMemory, Words
from umem.agent.serving.queue import pop_first, pop_last, push, ring_length, ring_words
from umem.agent.serving.service import HAS_KEPT_DATA, HAS_REPLY_ENDPOINT, receive_request
from umem.fabric.ucx.abi import UCS_INPROGRESS, UCS_OK

RINGS = {
    "free": layout.AGENT_FREE,
    "ready": layout.AGENT_READY,
    "pending": layout.AGENT_PENDING,
    "sending": layout.AGENT_SENDING,
}
ENDPOINT = 0x77


class Queue(RuleBasedStateMachine):
    """Requests come in as UCX hands them over; the loop's moves are made one by one."""

    @initialize(num_slots=st.integers(1, 5))
    def make(self, num_slots: int) -> None:
        self.num_slots = num_slots
        memory = PrivateMemory(1 << 16)
        self.state = memory.words(layout.AGENT_WORDS)
        self.state[layout.AGENT_SLOTS] = memory.take(8 * num_slots * layout.SLOT_WORDS)
        self.state[layout.AGENT_ROOMS] = 1 << 40  # only its address is used here
        for ring in RINGS.values():
            self.state[ring + layout.RING_ITEMS] = memory.take(8 * ring_words(num_slots))
            self.state[ring + layout.RING_MASK] = ring_words(num_slots) - 1
        for slot in range(num_slots):
            push(self.ring("free"), slot)
        self.header = np.zeros(layout.MAX_REQUEST_HEADER_BYTES // 8 + 1, np.int64)
        self.parameters = np.array([HAS_REPLY_ENDPOINT | HAS_KEPT_DATA, ENDPOINT], np.int64)
        self.sequence = self.num_dropped = 0
        self.where: dict[str, list[int]] = {name: [] for name in RINGS}  # sequence numbers, oldest first

    def ring(self, name: str) -> int:
        return self.state.address + 8 * RINGS[name]

    def request(self, slot: int) -> Words:
        return Words(self.state[layout.AGENT_SLOTS] + 8 * slot * layout.SLOT_WORDS, layout.SLOT_WORDS, self)

    def hand_over(self, header_bytes: int, data_bytes: int) -> int:
        data = 0xD000 if data_bytes else 0
        header, parameters = self.header.ctypes.data, self.parameters.ctypes.data
        return receive_request.body(self.state.address, header, header_bytes, data, data_bytes, parameters)

    @rule(
        words=st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=layout.MAX_ARGUMENTS),
        inline=st.binary(max_size=layout.INLINE_BYTES),
        data_bytes=st.sampled_from([0, 65, 4096]),
    )
    def receive(self, words: list[int], inline: bytes, data_bytes: int) -> None:
        inline = b"" if data_bytes else inline
        self.sequence += 1
        fields = [9 | len(words) << layout.WIRE_COUNT_SHIFT, 3, self.sequence, len(inline), *words]
        self.header[: len(fields)] = fields
        self.header.view(np.uint8)[8 * len(fields) :][: len(inline)] = np.frombuffer(inline, np.uint8)
        has_slot = sum(map(len, self.where.values())) < self.num_slots
        kept = self.hand_over(8 * len(fields) + len(inline), data_bytes)
        if not has_slot:
            self.num_dropped += 1
            assert kept == UCS_OK
            return
        assert kept == (UCS_INPROGRESS if data_bytes else UCS_OK)
        self.where["ready"].append(self.sequence)
        items = Words(self.state[layout.AGENT_READY + layout.RING_ITEMS], ring_words(self.num_slots), self)
        tail = self.state[layout.AGENT_READY + layout.RING_TAIL] - 1
        request = self.request(items[tail & self.state[layout.AGENT_READY + layout.RING_MASK]])
        assert request[layout.REQUEST_OPERATION] == 9
        assert request[layout.REQUEST_SOURCE] == 3
        assert request[layout.SLOT_REPLY_ENDPOINT] == ENDPOINT
        assert request[layout.SLOT_HELD] == (0xD000 if data_bytes else 0)
        received = [request[layout.REQUEST_WORDS + index] for index in range(layout.MAX_ARGUMENTS)]
        assert received == words + [0] * (layout.MAX_ARGUMENTS - len(words))
        assert request[layout.REQUEST_PAYLOAD_BYTES] == (data_bytes or len(inline))
        words_before = layout.REQUEST_INLINE
        stored = b"".join((request[words_before + i] & (1 << 64) - 1).to_bytes(8, "little") for i in range(8))
        assert data_bytes or stored[: len(inline)] == inline

    @rule(torn=st.sampled_from(["header", "endpoint", "data", "count"]))
    def receive_torn(self, torn: str) -> None:
        """A message that no client sends is counted and dropped, whatever the queue holds."""
        self.header[:4] = [9, 3, 0, 0]
        self.parameters[0] = HAS_REPLY_ENDPOINT | HAS_KEPT_DATA
        header_bytes, data_bytes = layout.REQUEST_HEADER_BYTES, 0
        if torn == "header":
            header_bytes += 8
        elif torn == "endpoint":
            self.parameters[0] = HAS_KEPT_DATA
        elif torn == "data":
            self.parameters[0], data_bytes = HAS_REPLY_ENDPOINT, 8
        else:
            self.header[0] = 9 | 9 << layout.WIRE_COUNT_SHIFT
            header_bytes += 72 + layout.INLINE_BYTES
        assert self.hand_over(header_bytes, data_bytes) == UCS_OK
        self.parameters[0] = HAS_REPLY_ENDPOINT | HAS_KEPT_DATA
        self.num_dropped += 1

    def move(self, source: str, target: str) -> None:
        slot = pop_first(self.ring(source))
        sequence = self.where[source].pop(0)
        assert self.request(slot)[layout.REQUEST_SEQUENCE] == sequence
        push(self.ring(target), slot)
        if target != "free":
            self.where[target].append(sequence)

    @precondition(lambda self: self.where["ready"])
    @rule(into=st.sampled_from(["pending", "sending", "free"]))
    def serve(self, into: str) -> None:
        self.move("ready", into)

    @precondition(lambda self: self.where["pending"])
    @rule(into=st.sampled_from(["pending", "sending", "free"]))
    def continue_one(self, into: str) -> None:
        self.move("pending", into)

    @precondition(lambda self: self.where["sending"])
    @rule(into=st.sampled_from(["sending", "free"]))
    def reap(self, into: str) -> None:
        self.move("sending", into)

    @precondition(lambda self: sum(map(len, self.where.values())) < self.num_slots)
    @rule()
    def the_slot_freed_last_is_used_first(self) -> None:
        free = self.ring("free")
        slot = pop_last(free)
        push(free, slot)
        assert pop_last(free) == slot
        push(free, slot)

    @invariant()
    def every_slot_is_in_exactly_one_ring(self) -> None:
        lengths = {name: ring_length(self.ring(name)) for name in RINGS}
        assert sum(lengths.values()) == self.num_slots
        assert {name: lengths[name] for name in RINGS if name != "free"} == {
            name: len(self.where[name]) for name in RINGS if name != "free"
        }
        assert self.state[layout.AGENT_NUM_DROPPED] == self.num_dropped


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_client_has_no_more_in_flight_than_an_agent_has_slots() -> None:
    """Why no request is ever dropped: the two sides count with the same credits."""
    for num_ranks in (1, 2, 4, 512):
        assert num_ranks * layout.MAX_CREDITS <= 1 << layout.SEQUENCE_SLOT_BITS
        for credits in (1, layout.DEFAULT_CREDITS, layout.MAX_CREDITS):
            assert ring_words(num_ranks * credits) >= num_ranks * credits
