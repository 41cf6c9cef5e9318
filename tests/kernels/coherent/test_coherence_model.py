"""Cached memory against a model in plain Python: whatever ranks load, store and evict, in any order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.kernels.coherent.coherent_memory import CoherentMemory
from umem.coherence.protocol import MSI, PROTOCOLS, Action, Protocol
from umem.kernels.page import operations
from umem.lines.layout import CacheSize

NUM_RANKS, NUM_HOMES = 3, 2
NUM_BYTES = 512  # of a home's block that is used: eight lines of 64 bytes
# Four lines of 64 bytes, two of 128; one set of a vector of tags; room for all there is.
CACHES = (CacheSize(256, 2), CacheSize(512, 8), CacheSize(2048, 16))
LINES = (64, 128)
RANKS, HOMES = st.integers(0, NUM_RANKS - 1), st.integers(0, NUM_HOMES - 1)
ATTRIBUTES = st.sampled_from(["back", "through", "private"])
SIZES = st.sampled_from([1, 2, 4, 8])
PLACES = st.integers(0, NUM_BYTES - 1)
OPERATIONS = {
    "store": operations.WRITE,
    "fetch_add": operations.FETCH_ADD,
    "exchange": operations.EXCHANGE,
    "compare_swap": operations.COMPARE_SWAP,
}


class CoherenceMachine(RuleBasedStateMachine):
    """`expected` is what the bytes of each home's block are, as one memory would have them."""

    protocols = tuple(PROTOCOLS.values())

    @initialize(
        protocol=st.sampled_from(range(len(PROTOCOLS))),
        attributes=st.tuples(*[ATTRIBUTES] * NUM_HOMES),
        lines=st.tuples(*[st.sampled_from(LINES)] * NUM_HOMES),
        size=st.sampled_from(CACHES),
    )
    def begin(self, protocol, attributes, lines, size):
        self.memory = CoherentMemory(NUM_RANKS, NUM_HOMES, self.protocols[protocol], size)
        self.caches = [self.memory.open(rank) for rank in range(NUM_RANKS)]
        self.expected = [bytearray(NUM_BYTES) for _ in range(NUM_HOMES)]
        self.blocks = [
            self.caches[0].alloc(NUM_BYTES, home, attributes[home], lines[home]) for home in range(NUM_HOMES)
        ]

    @rule(rank=RANKS, home=HOMES, place=PLACES, size=SIZES)
    def load(self, rank, home, place, size):
        place &= -size
        found = self.caches[rank].load(self.blocks[home] + place, size)
        assert found == self.value(home, place, size)

    @rule(
        rank=RANKS,
        home=HOMES,
        place=PLACES,
        size=SIZES,
        name=st.sampled_from(list(OPERATIONS)),
        number=st.integers(-(1 << 63), (1 << 63) - 1),
        is_expected=st.booleans(),
    )
    def change(self, rank, home, place, size, name, number, is_expected):
        place &= -size
        value, old = signed(number, size), self.value(home, place, size)
        first, second = value, 0
        if name == "compare_swap":
            first, second = (old, value) if is_expected else (signed(old + 1, size), value)
        found = self.caches[rank].change(self.blocks[home] + place, OPERATIONS[name], first, second, size)
        assert found == old
        after = {"fetch_add": old + value, "compare_swap": value if is_expected else old}.get(name, value)
        self.expected[home][place : place + size] = signed(after, size).to_bytes(size, "little", signed=True)

    @rule(rank=RANKS, home=HOMES, place=PLACES, size=st.integers(1, 200))
    def read(self, rank, home, place, size):
        found = np.zeros(min(size, NUM_BYTES - place), np.uint8)
        self.caches[rank].read(found.ctypes.data, self.blocks[home] + place, found.nbytes)
        assert found.tobytes() == self.expected[home][place : place + found.nbytes]

    @rule(rank=RANKS, home=HOMES, place=PLACES, data=st.binary(min_size=1, max_size=200))
    def write(self, rank, home, place, data):
        source = np.frombuffer(data[: NUM_BYTES - place], np.uint8)
        self.caches[rank].write(self.blocks[home] + place, source.ctypes.data, source.nbytes)
        self.expected[home][place : place + source.nbytes] = source.tobytes()

    @rule(rank=RANKS, other=RANKS, home=HOMES, attribute=ATTRIBUTES, line=st.sampled_from(LINES))
    def free_and_allocate(self, rank, other, home, attribute, line):
        """The same memory, cached in another way: what was written came home."""
        self.caches[rank].free(self.blocks[home], NUM_BYTES)
        assert bytes(self.memory.at_home(self.blocks[home], NUM_BYTES)) == self.expected[home]
        assert self.caches[other].alloc(NUM_BYTES, home, attribute, line) == self.blocks[home]

    @invariant()
    def one_writer_or_many_readers_and_no_copy_is_stale(self):
        if hasattr(self, "memory"):
            for line_bytes in LINES:
                self.memory.check(line_bytes)

    def teardown(self):
        if hasattr(self, "memory"):
            try:
                for rank in range(NUM_RANKS):
                    for home in range(NUM_HOMES):
                        self.read(rank=rank, home=home, place=0, size=NUM_BYTES)
            finally:
                self.memory.close()

    def value(self, home, place, size):
        """What an element is to be, as a signed number."""
        return int.from_bytes(self.expected[home][place : place + size], "little", signed=True)


def test_a_home_sees_that_others_had_its_block_cached_anew():
    machine = CoherenceMachine()
    machine.begin(0, ("back", "back"), (64, 64), CACHES[0])
    try:
        machine.load(1, 1, 0, 1)
        machine.free_and_allocate(0, 0, 1, "back", 128)
        machine.write(0, 1, 64, b"\1")
        machine.load(1, 1, 64, 1)
        machine.read(1, 1, 0, 129)
    finally:
        machine.teardown()


def signed(value, size):
    """The signed number that an element of `size` bytes makes of `value`."""
    return int.from_bytes((value & ((1 << 8 * size) - 1)).to_bytes(size, "little"), "little", signed=True)


TestCoherence = CoherenceMachine.TestCase
TestCoherence.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


def without(action):
    """MSI whose rows leave an action out."""
    rows = {key: replace(row, actions=row.actions & ~action) for key, row in MSI.rows.items()}
    return Protocol("planted", rows)


@pytest.mark.parametrize("action", [Action.INVALIDATE, Action.READ_HOME], ids=lambda action: action.name)
def test_a_protocol_that_leaves_an_action_out_is_found(action):
    class Planted(CoherenceMachine):
        protocols = (without(action),) * len(PROTOCOLS)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            Planted,
            settings=settings(
                max_examples=200,
                stateful_step_count=40,
                deadline=None,
                database=None,
                phases=[Phase.generate],
            ),
        )
