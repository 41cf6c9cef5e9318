"""Random programs without data races on cached memory, as functions that every rank of a world runs.

Every rank draws the same program from the same seed, so every rank knows who wrote each byte last, and what: it is
asked of the memory, never of another rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import umem
from umem.kernels.coherent.typed import CHANGE_OPERATIONS
from umem.space.array import Array

CACHES = ("back", "through", "private")
NUM_BYTES = 640  # of an array: ten lines of 64 bytes, so that neighbours meet in one
ELEMENTS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
VERBS = ("store", "range", "fetch_add", "exchange", "compare_swap")


@dataclass
class Memory:
    """An array, what its bytes are to be, and the table of who wrote them last."""

    array: Array
    name: str
    shadow: np.ndarray = field(default_factory=lambda: np.zeros(NUM_BYTES, np.uint8))
    writer: np.ndarray = field(default_factory=lambda: np.full((NUM_BYTES, 2), -1))  # rank, phase

    def check(self, start: int, found: np.ndarray) -> None:
        """Raise AssertionError where the bytes found at `start` are not what was written last."""
        wrong = np.flatnonzero(self.shadow[start : start + len(found)] != found)
        if len(wrong):
            at = start + int(wrong[0])
            rank, phase = self.writer[at]
            raise AssertionError(
                f"{self.name}: byte {at} is {found[wrong[0]]}; rank {rank} wrote {self.shadow[at]} in phase {phase}"
            )


def memories(space: umem.Space, cache: str) -> list[Memory]:
    """An array at every home, in lines of different sizes."""
    found = []
    for number, home in enumerate((*range(space.num_ranks), "striped")):
        name = f"random-{cache}-{home}"
        line = (64, 128, 256)[number % 3]
        array = space.shared(name, (NUM_BYTES,), "uint8", home=home, cache=cache, line=line)
        found.append(Memory(array, name))
    return found


def one_writer_a_piece_between_barriers(space: umem.Space, cache: str, num_phases: int, seed: int) -> None:
    """In each phase every piece of memory has one rank that may write it; behind a barrier anyone may read it all."""
    program, reader = np.random.default_rng(seed), np.random.default_rng([seed, space.rank])
    arrays = memories(space, cache)
    for phase in range(num_phases):
        for memory in arrays:
            start = 0
            while start < NUM_BYTES:
                size = min(8 * int(program.integers(1, 8)), NUM_BYTES - start)
                change(space, memory, start, size, int(program.integers(space.num_ranks)), phase, program)
                start += size
        space.barrier()
        for memory in reader.permutation(len(arrays))[:3]:
            read(space, arrays[memory], reader)
        space.barrier()
    for memory in arrays:
        memory.check(0, memory.array.read())
    space.barrier()
    if space.rank == 0:
        for memory in arrays:
            memory.array.free()
    space.barrier()


def change(
    space: umem.Space,
    memory: Memory,
    start: int,
    size: int,
    writer: int,
    phase: int,
    program: np.random.Generator,
) -> None:
    """What `writer` does to a piece; the others only note it."""
    verb, dtype = str(program.choice(VERBS)), np.dtype(str(program.choice(ELEMENTS)))
    if verb == "range":
        offset = int(program.integers(size))
        data = program.integers(0, 256, int(program.integers(1, size - offset + 1)), np.uint8)
        if space.rank == writer:
            space.put(memory.array.address + start + offset, data)
        memory.shadow[start + offset : start + offset + len(data)] = data
        memory.writer[start + offset : start + offset + len(data)] = writer, phase
        return
    offset = start + dtype.itemsize * int(program.integers(size // dtype.itemsize))
    element = memory.shadow[offset : offset + dtype.itemsize].view(dtype)
    limits = np.iinfo(dtype)
    value = int(program.integers(limits.min, limits.max, dtype=dtype, endpoint=True))
    old = int(element[0])
    expected = old if program.random() < 0.5 else old ^ 1
    after = {"fetch_add": old + value, "compare_swap": value if expected == old else old}.get(verb, value)
    if space.rank == writer:
        address = memory.array.address + offset
        if verb == "store":
            space.store(address, value, dtype)
        else:
            first, second = (expected, value) if verb == "compare_swap" else (value, 0)
            check_old(memory, offset, old, atomic(space, verb, address, first, second, dtype))
    element[0] = wrapped(after, dtype)
    memory.writer[offset : offset + dtype.itemsize] = writer, phase


def atomic(space: umem.Space, verb: str, address: int, first: int, second: int, dtype: Any) -> int:
    """What stood at `address` before the operation; the space's own way is for elements of 4 and 8 bytes."""
    kind = np.dtype(dtype)
    found = space.cache.change(
        address, CHANGE_OPERATIONS[verb], signed(first, kind), signed(second, kind), kind.itemsize
    )
    return wrapped(found, kind)


def signed(value: int, kind: np.dtype[Any]) -> int:
    """The signed integer of the same bits."""
    return wrapped(value, np.dtype(f"int{8 * kind.itemsize}"))


def check_old(memory: Memory, offset: int, expected: int, found: int) -> None:
    """What an atomic found is what was written last."""
    assert found == expected, (
        f"{memory.name}: found {found} at {offset}, not {expected}, {memory.writer[offset]}"
    )


def read(space: umem.Space, memory: Memory, rng: np.random.Generator) -> None:
    """A few elements and ranges, each checked."""
    for _ in range(4):
        dtype = np.dtype(str(rng.choice(ELEMENTS)))
        offset = dtype.itemsize * int(rng.integers(NUM_BYTES // dtype.itemsize))
        value = space.load(memory.array.address + offset, dtype)
        memory.check(offset, np.array([value], dtype).view(np.uint8))
    start = int(rng.integers(NUM_BYTES))
    found = np.empty(int(rng.integers(1, NUM_BYTES - start + 1)), np.uint8)
    space.get(found, memory.array.address + start)
    memory.check(start, found)


def objects_under_locks(space: umem.Space, cache: str, num_rounds: int) -> None:
    """Objects that share lines, each with a lock beside it; a table that is not cached says who wrote each last."""
    num_objects, words = 3, 5  # lock, four words: objects begin anywhere in a line
    objects = [
        space.shared(f"locked-{cache}-{home}", (num_objects, words), "int64", home=home, cache=cache, line=64)
        for home in range(min(space.num_ranks, 4))
    ]
    table = space.shared(f"writers-{cache}", (len(objects), num_objects), "int64", home=space.num_ranks - 1)
    rng = np.random.default_rng(space.rank)
    for number in range(1, num_rounds + 1):
        which, entry = int(rng.integers(len(objects))), int(rng.integers(num_objects))
        lock, data = objects[which].address_of(entry, 0), objects[which].address_of(entry, 1)
        while space.compare_swap(lock, 0, space.rank + 1) != 0:
            pass
        stamp = space.load(table.address_of(which, entry), "int64")
        found = np.empty(words - 1, np.int64)
        space.get(found, data)
        assert (found == stamp).all(), f"object {which}, {entry}: {found}, but {stamp} was written last"
        stamp = space.rank << 32 | number
        if rng.random() < 0.5:
            space.put(data, np.full(words - 1, stamp))
        else:
            for word in range(words - 1):
                space.store(data + 8 * word, stamp, "int64")
        space.store(table.address_of(which, entry), stamp, "int64")
        assert space.exchange(lock, 0) == space.rank + 1, "nobody else has the lock"
    space.barrier()


def sums_are_exact(space: umem.Space, cache: str, num_adds: int) -> None:
    """Concurrent increments of elements of every width that lie in one line, at every home."""
    for home in (*range(min(space.num_ranks, 4)), "striped"):
        array = space.shared(
            f"sums-{cache}-{home}", (len(ELEMENTS),), "int64", home=home, cache=cache, line=64
        )
        for number in range(num_adds):
            for place, dtype in enumerate(ELEMENTS):
                address = array.address_of(place)
                if (number + place) % 4:
                    atomic(space, "fetch_add", address, 3, 0, dtype)
                    continue
                seen = space.load(address, dtype)
                while True:
                    found = atomic(space, "compare_swap", address, seen, wrapped(seen + 3, dtype), dtype)
                    if found == seen:
                        break
                    seen = found
        space.barrier()
        for place, dtype in enumerate(ELEMENTS):
            total = space.load(array.address_of(place), dtype)
            assert total == wrapped(3 * num_adds * space.num_ranks, dtype), (home, dtype, total)
        space.barrier()


def wrapped(value: int, dtype: Any) -> int:
    """`value` as an element holds it."""
    kind = np.dtype(dtype)
    return int(np.array(value & ((1 << 8 * kind.itemsize) - 1), np.uint64).astype(kind))


CHECKS = {
    check.__name__: check
    for check in (one_writer_a_piece_between_barriers, objects_under_locks, sums_are_exact)
}


def run_all(space: umem.Space, rounds: int, seed: int) -> dict[str, int]:
    """Every program with every attribute; this rank's counters, which say that what was to be met was met."""
    for cache in CACHES:
        one_writer_a_piece_between_barriers(space, cache, rounds, seed)
        objects_under_locks(space, cache, rounds)
        sums_are_exact(space, cache, rounds)
    return space.cache.counters()
