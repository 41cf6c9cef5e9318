"""Generations: by them an allocation is told from all that stood at its address before."""

from __future__ import annotations

import pytest

from tests.kernels.heap.heap_memory import HeapMemory
from umem.kernels import status
from umem.kernels.heap import blocks
from umem.kernels.heap.layout import BLOCK_BYTES, GENERATION_LOW


@pytest.fixture
def memory() -> HeapMemory:
    return HeapMemory(num_blocks=16)


def test_generation_counts_the_allocations_at_a_place(memory):
    first = memory.alloc(0, 64)
    generation = memory.find(first).generation
    memory.free(0, first)
    assert memory.alloc(0, 64) == first, "the slot freed last comes first: it is in the caches"
    assert memory.find(first + 63).generation == generation + 1
    assert memory.find(first).num_bytes == 64


def test_an_address_never_comes_back_with_an_old_generation(memory):
    """Whatever stands at it: slots of other classes, and runs of blocks, have records of their own."""
    seen: dict[int, int] = {}
    for num_bytes in (257, 193, 64, BLOCK_BYTES, 5000, 320, 300_000, 64, 3 * BLOCK_BYTES, 257) * 2:
        # Many: slot 4 of 320 bytes, used before, and slot 20 of 64, which was not, begin at one address.
        taken = [memory.alloc(0, num_bytes) for _ in range(3 if num_bytes >= BLOCK_BYTES else 40)]
        for address in taken:
            generation = memory.find(address).generation
            assert generation > seen.get(address, 0), f"{num_bytes} bytes at {address:#x}"
            seen[address] = generation
        for address in taken:
            assert memory.free(0, address) == status.OK
        memory.flush(0)


def test_generations_wrap_around():
    assert blocks.later(5, 7) == blocks.later(7, 5) == 7
    assert blocks.later(GENERATION_LOW, 3) == blocks.later(3, GENERATION_LOW) == 3
