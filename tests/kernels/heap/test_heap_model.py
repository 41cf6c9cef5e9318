"""The heap against a model in plain Python: whatever ranks allocate, hold and free, in any order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from tests.kernels.heap.heap_memory import BASE, HeapMemory
from umem.kernels import status
from umem.kernels.heap.layout import BLOCK_BYTES, GRANULE_BYTES
from umem.kernels.heap.usage import OWNER_ASKED_BYTES, OWNER_COUNT

NUM_RANKS = 3
NUM_BLOCKS = 8
RANKS = st.integers(0, NUM_RANKS - 1)
SIZES = st.one_of(
    st.integers(0, 300),
    st.integers(1, 20_000),
    st.integers(60_000, 1 << 20),
    st.integers(1 << 20, 3 * BLOCK_BYTES),
)
ALIGNMENTS = st.sampled_from([1, 64, 64, 64, 256, 4096, 1 << 16, BLOCK_BYTES])


@dataclass
class Expected:
    """What the model knows of one allocation."""

    num_bytes: int
    owner: int
    generation: int
    holders: set[int] = field(default_factory=set)


class HeapMachine(RuleBasedStateMachine):
    """`freed` are addresses where something began once and nothing is live now, unless it came back."""

    live_addresses = Bundle("live_addresses")

    def __init__(self) -> None:
        super().__init__()
        self.memory = HeapMemory(NUM_BLOCKS, NUM_RANKS)
        self.live: dict[int, Expected] = {}
        self.generations: dict[int, int] = {}

    @rule(target=live_addresses, rank=RANKS, num_bytes=SIZES, align=ALIGNMENTS)
    def alloc(self, rank, num_bytes, align):
        address = self.memory.alloc(rank, num_bytes, align)
        if address == status.NO_MEMORY:
            held = sum(max(one.num_bytes, GRANULE_BYTES) for one in self.live.values())
            assert held + num_bytes > self.memory.num_bytes // 8, "room was left"
            return multiple()
        assert address % max(align, GRANULE_BYTES) == 0
        assert address not in self.live
        found = self.memory.find(address)
        assert found.generation > self.generations.get(address, 0)
        self.generations[address] = found.generation
        self.live[address] = Expected(max(num_bytes, 1), rank, found.generation)
        return address

    @rule(rank=RANKS, address=live_addresses, other=RANKS)
    def retain(self, rank, address, other):
        if address not in self.live:
            return
        expected = self.live[address]
        assert self.memory.retain(rank, address, other, expected.generation) == status.OK
        assert self.memory.retain(rank, address, other, expected.generation + 1) == status.STALE
        if other != expected.owner:
            expected.holders.add(other)

    @rule(rank=RANKS, address=consumes(live_addresses))
    def free(self, rank, address):
        """Freed by anyone if only the owner holds it; else by those who hold it."""
        code = self.memory.free(rank, address)
        if address not in self.live:
            assert code in (status.DOUBLE_FREE, status.NOT_ALLOCATED, status.INTERIOR)
            return
        expected = self.live[address]
        if not expected.holders:
            assert code == status.OK
            del self.live[address]
        elif rank in expected.holders:
            assert code == status.OK
            expected.holders.remove(rank)
        elif rank == expected.owner:
            assert code == status.OK
            expected.owner = min(expected.holders)
            expected.holders.remove(expected.owner)
        else:
            assert code == status.NOT_HELD

    @rule(rank=RANKS, address=live_addresses, part=st.floats(0, 1, exclude_max=True))
    def free_inside(self, rank, address, part):
        if address not in self.live:
            return
        inside = address + int(part * self.live[address].num_bytes)
        if part > 0.1:
            inside &= -GRANULE_BYTES  # where another slot might begin
        if inside != address:
            assert self.memory.free(rank, inside) == status.INTERIOR
            assert self.memory.find(inside).address == address

    @rule(rank=RANKS, offset=st.integers(-BLOCK_BYTES, (NUM_BLOCKS + 1) * BLOCK_BYTES))
    def free_anywhere(self, rank, offset):
        address = BASE + offset
        if address not in self.live:
            assert self.memory.free(rank, address) != status.OK

    @rule(rank=RANKS)
    def flush(self, rank):
        assert self.memory.flush(rank) == status.OK
        assert self.memory.stock(rank) == []

    @invariant()
    def the_heap_lists_what_is_live(self):
        rows = self.memory.live()
        assert {row.address: row for row in rows}.keys() == self.live.keys() and len(rows) == len(self.live)
        end = BASE
        for row in rows:
            expected = self.live[row.address]
            assert row.address >= end, "no two allocations overlap"
            end = row.address + row.num_bytes
            found = (row.num_bytes, row.owner, row.generation, row.references)
            assert found == (
                expected.num_bytes,
                expected.owner,
                expected.generation,
                1 + len(expected.holders),
            )
        assert end <= BASE + self.memory.num_bytes

    @invariant()
    def usage_is_the_sum(self):
        _, owners = self.memory.usage()
        for rank in range(NUM_RANKS):
            mine = [one.num_bytes for one in self.live.values() if one.owner == rank]
            assert (owners[rank][OWNER_COUNT], owners[rank][OWNER_ASKED_BYTES]) == (len(mine), sum(mine))

    @invariant()
    def every_table_agrees(self):
        self.memory.check()

    def teardown(self) -> None:
        for address, expected in self.live.items():
            for rank in [*expected.holders, expected.owner]:
                assert self.memory.free(rank, address) == status.OK
        for rank in range(NUM_RANKS):
            self.memory.flush(rank)
        assert self.memory.alloc(0, self.memory.num_bytes) == BASE, "all is one piece again"


TestHeap = HeapMachine.TestCase
TestHeap.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
