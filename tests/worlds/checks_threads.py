"""Every public call from several threads of each rank at once, with values that name their thread."""

from __future__ import annotations

import inspect
import random
import threading
import time
import traceback
from collections.abc import Callable

import numpy as np
import pytest

import umem
from umem.agent import Agent, Near, Operation
from umem.errors import ConfigError, NotMappable, UmemError
from umem.heap import Heap
from umem.kernels.page import operations
from umem.lines.cache import LineCache
from umem.memory.address import Kind

from ..agent.handlers import DOUBLE, double

NUM_THREADS = 4
NUM_ROUNDS = 3
WIDE = 20_000  # elements: more than one request carries
CLASSES = (umem.Space, umem.Array, Near, LineCache, Heap, Agent)

COVERED: dict[str, Callable[[Thread, int], None]] = {}
ON_DEVICES = ("launch", "synchronize", "barrier_flags", "gpu_pointer", "reaches_by_cpu")
# Calls that no thread makes here, and why.
EXEMPT = {
    "Space.close": "ends the space: a_space_closes_under_its_threads",
    **dict.fromkeys(("Space.keep_mapped", "Space.before_close", "Space.end_with"), "for good"),
    "Heap.close": "the space's",
    "LineCache.close": "the space's",
    "Agent.close": "the space's",
    "Agent.start": "the space's",
    "Agent.endpoint_to": "before the start",
    "Agent.serve_other_types": "once",
    "LineCache.reset": "of lines that a dead rank took along",
    "Array.cupy": "needs CuPy and a GPU",
    "Array.torch": "needs torch, and is numpy()",
    **dict.fromkeys(map("Space.{}".format, ON_DEVICES), "what tests/cuda does"),
    **{f"{kind.__name__}.disown": "in forked children" for kind in (umem.Space, LineCache, Heap, Agent)},
}


def public_calls() -> set[str]:
    """Every public method of what a space is made of."""
    return {
        f"{kind.__name__}.{name}"
        for kind in CLASSES
        for name, _ in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def covers(*calls: str) -> Callable[[Callable], Callable]:
    def enter(action: Callable[[Thread, int], None]) -> Callable:
        for call in calls:
            COVERED[call] = action
        return action

    return enter


class Thread:
    """One thread of a rank: what it works on, at all homes, is its own."""

    def __init__(self, space: umem.Space, number: int, shared: Shared):
        self.space, self.number, self.shared = space, number, shared
        self.row = space.rank * NUM_THREADS + number
        self.home = 0

    def value(self, turn: int) -> int:
        """A number that names rank, thread and turn."""
        return (self.row + 1) * 1_000_000 + turn

    def address(self, column: int = 0) -> int:
        """Of a word of this thread's own, at the home of the turn."""
        return self.shared.words[self.home].address_of(self.row, column)

    def work(self, turns: range, actions: list[Callable[[Thread, int], None]], errors: list[str]) -> None:
        order = random.Random(self.number)
        try:
            for turn in turns:
                order.shuffle(actions)
                for action in actions:
                    self.home = order.randrange(self.space.num_ranks)
                    action(self, turn)
        except Exception:  # noqa: BLE001 - of any kind, told to the test
            errors.append(traceback.format_exc())


class Shared:
    """What all threads of all ranks work on; collective to make."""

    def __init__(self, space: umem.Space):
        ranks, rows = range(space.num_ranks), space.num_ranks * NUM_THREADS
        self.words = [space.shared(f"words-{home}", (rows, 8), "int64", home=home) for home in ranks]
        self.wide = [space.shared(f"wide-{home}", (rows, WIDE), "int64", home=home) for home in ranks]
        self.sums = [space.shared(f"sums-{home}", (rows, 64), "float32", home=home) for home in ranks]
        self.cached = [
            space.shared(f"cached-{home}", (rows, 64), "int64", home=home, cache="back", line=256)
            for home in ranks
        ]
        self.counters = space.shared("counters", (2, space.num_ranks), "int64", home=space.num_ranks - 1)
        self.counters_cached = space.shared("counters-cached", 1, "int64", home=0, cache="back")
        self.table = space.shared("table", (64, 16), "float32", home=0)
        if space.rank == 0:
            self.table.write(np.arange(64 * 16).reshape(64, 16))
        space.barrier()


@covers("Space.load", "Space.store", "Space.exchange", "Space.fetch_add", "Space.compare_swap", "Space.fence")
def scalars(me: Thread, turn: int) -> None:
    space, value = me.space, me.value(turn)
    for column, dtype in enumerate(("int64", "float64", "int32", "uint32")):
        space.store(me.address(column), value, dtype)
        assert space.load(me.address(column), dtype) == value, dtype
    space.fence()
    address = me.address()
    assert space.exchange(address, value + 1) == value
    assert space.fetch_add(address, 5) == value + 1
    assert space.compare_swap(address, value + 6, value) == value + 6
    assert space.compare_swap(address, 0, 1) == value
    space.fetch_add(me.shared.counters.address_of(0, me.home), 1)


@covers("Space.get", "Space.put", "Space.copy", "Space.address", "Space.pointer")
def bulk(me: Thread, turn: int) -> None:
    space, wide = me.space, me.shared.wide
    for count in (5, 900, WIDE):
        values, back = np.arange(count) + me.value(turn), np.zeros(count, np.int64)
        there = wide[me.home].address_of(me.row, 0)
        space.put(there, values)
        space.get(back, there)
        assert (back == values).all(), (count, back, values)
        here = wide[space.rank].address_of(me.row, 0)
        if here != there:
            space.copy(here, there, values.nbytes)
            space.get(back, here)
            assert (back == values).all(), (count, back, values)
    assert space.address(space.pointer(there)) == there


@covers(
    "Space.alloc", "Space.free", "Space.empty", "Array.address_of", "Array.read", "Array.write", "Array.free"
)
def memory(me: Thread, turn: int) -> None:
    space, value = me.space, me.value(turn)
    address = space.alloc(800, home=me.home)
    array = space.empty((7, 9), "int64", home=me.home)
    array.write(np.full((7, 9), value))
    space.put(address, np.full(100, value))
    assert (array.read() == value).all()
    back = np.zeros(100, np.int64)
    space.get(back, address)
    assert (back == value).all(), (back, value)
    assert space.load(array.address_of(6, 8), "int64") == value
    array.free()
    space.free(address)


@covers("Space.view", "Array.numpy")
def views(me: Thread, turn: int) -> None:
    array = me.shared.words[me.home]
    if not me.space.segments.reach.by_cpu(me.home, Kind.DEVICE):
        with pytest.raises(NotMappable):
            array.numpy()
        return
    array.numpy()[me.row, 5] = me.value(turn)
    assert me.space.view(me.address(5), 8).view(np.int64)[0] == me.value(turn)


@covers("Space.publish", "Space.find")
def names(me: Thread, turn: int) -> None:
    if turn % 8 == 0:
        array = me.shared.words[me.home]
        me.space.publish(f"thread-{me.row}", array)
        assert me.space.find(f"thread-{me.row}").address == array.address


@covers("Space.send", "Space.recv")
def messages(me: Thread, turn: int) -> None:
    space, value = me.space, me.value(turn)
    space.send(("own", value), space.rank, tag=me.number)
    after, before = (space.rank + 1) % space.num_ranks, (space.rank - 1) % space.num_ranks
    size = (3, 5_000, 300_000)[turn % 3]
    space.send((value, np.full(size, value)), after, tag=100 + me.number)
    assert space.recv(space.rank, tag=me.number) == ("own", value)
    told, values = space.recv(before, tag=100 + me.number)
    assert told == value + (before - space.rank) * NUM_THREADS * 1_000_000
    assert len(values) == size and (values == told).all()


@covers("Space.shared", "Space.barrier")
def collectives(me: Thread, turn: int) -> None:
    if (
        me.number == 0
    ):  # one thread, as long as there are two kinds: their order must be that of the other ranks
        array = me.space.shared(f"turn-{turn % 4}", 4, "int64", home=turn % me.space.num_ranks)
        assert array.read().tolist() == [0] * 4
        me.space.barrier()
        if me.space.rank == 0:
            array.free()


@covers("Near.gather", "Near.gather_sum", "Near.reduce")
def near(me: Thread, turn: int) -> None:
    space, table = me.space, me.shared.table
    rows = (np.arange(3) * 7 + me.row + turn) % 64
    expected = (rows[:, None] * 16 + np.arange(16)).astype(np.float32)
    found = np.zeros((3, 16), np.float32)
    space.near.gather(found, table.address, 64, rows)
    assert (found == expected).all()
    total = np.zeros((1, 16), np.float32)
    space.near.gather_sum(total, table.address, 64, 64, np.array([0, 3]), rows)
    assert (total[0] == expected.sum(0)).all()
    own = me.shared.sums[me.home].address_of(me.row, 0)
    space.put(own, np.full(64, turn, np.float32))
    space.near.reduce(own, np.full(64, me.row, np.float32), "f32")
    back = np.zeros(64, np.float32)
    space.get(back, own)
    assert (back == turn + me.row).all()


@covers("Agent.register", "Agent.call", "Agent.counters")
def requests(me: Thread, turn: int) -> None:
    value = me.value(turn)
    told = me.space.agent.call(me.home, DOUBLE, np.full(40, value).tobytes(), (value,))
    assert (np.frombuffer(told, np.int64) == 2 * value).all()
    with pytest.raises(ConfigError, match="has a handler already"):
        me.space.agent.register(Operation.PING, double)
    assert me.space.agent.counters()["dropped"] == 0


@covers("Heap.alloc", "Heap.free", "Heap.retain", "Heap.give", "Heap.trim", "Heap.find", "Heap.owner_of")
@covers("Heap.usage", "Heap.usage_of", "Heap.snapshot", "Heap.reclaim")
def heap(me: Thread, turn: int) -> None:
    heap, size = me.space.heap, 100 + 8 * me.row
    address = heap.alloc(size, home=me.home)
    assert heap.find(address).address == address and heap.owner_of(address) == me.space.rank
    heap.retain(address)
    heap.give(address)
    heap.free(address)
    heap.trim()
    if turn % 8 == 0:
        assert heap.usage() and heap.snapshot() and heap.usage_of(heap.sites.at_home(me.home))
        heap.reclaim()


@covers("LineCache.load", "LineCache.change", "LineCache.read", "LineCache.write", "LineCache.settle")
@covers("LineCache.until_ok")
@covers("LineCache.attribute", "LineCache.holds", "LineCache.refuse_raw")
def cached(me: Thread, turn: int) -> None:
    space, value = me.space, me.value(turn)
    array = me.shared.cached[me.home]
    own = array.address_of(me.row, 0)
    space.store(own, value, "int64")
    assert space.load(own, "int64") == value
    assert space.fetch_add(own, 1) == value
    assert space.exchange(own, value + 2) == value + 1
    assert space.compare_swap(own, value + 2, value) == value + 2
    row = np.zeros(64, np.int64)
    space.put(own, np.full(64, value))
    space.get(row, own)
    assert (row == value).all(), (row, value)
    cache = space.cache
    assert cache.load(own, 8) == value
    assert cache.change(own, operations.EXCHANGE, value + 1, 0, 8) == value
    row[:] = 7
    cache.write(own, row.ctypes.data, row.nbytes)
    row[:] = 0
    cache.read(row.ctypes.data, own, row.nbytes)
    assert (row == 7).all()
    cache.settle(0)
    cache.until_ok(lambda: 0)
    assert cache.holds(own, 8) and cache.attribute(own) == ("back", 256)
    with pytest.raises(NotMappable):
        cache.refuse_raw(own, 8)
    space.fetch_add(me.shared.counters_cached.address, 1)


@covers("LineCache.alloc", "LineCache.free")
def cached_memory(me: Thread, turn: int) -> None:
    if turn % 8 == 0:
        array = me.space.empty((3, 5), "int64", home=me.home, cache="through")
        array.write(np.full((3, 5), me.value(turn)))
        assert (array.read() == me.value(turn)).all()
        array.free()


@covers("LineCache.counters", "LineCache.invalidated", "LineCache.report", "LineCache.clear_counters")
def counters(me: Thread, turn: int) -> None:
    cache = me.space.cache
    assert cache.counters()["hits"] >= 0 and cache.invalidated() is not None and cache.report() is not None
    if turn % 4 == 0:
        cache.clear_counters()


def run_turns(space: umem.Space, shared: Shared, turns: range) -> None:
    """The turns of all threads of this rank. Collective."""
    errors: list[str] = []
    actions = list(dict.fromkeys(COVERED.values()))
    workers = [Thread(space, number, shared) for number in range(NUM_THREADS)]
    threads = [
        threading.Thread(target=worker.work, args=(turns, actions.copy(), errors), daemon=True)
        for worker in workers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * space.timeout_s)
    assert not errors, "\n".join(errors)
    assert not any(thread.is_alive() for thread in threads), "a call hangs"


def every_call_from_four_threads(space: umem.Space, seconds: float = 0.0) -> None:
    if space.fabric is None:
        pytest.skip("messages need UCX")
    space.agent.register(DOUBLE, double)
    shared = Shared(space)
    end, first = time.monotonic() + seconds, 0
    while True:
        run_turns(space, shared, range(first, first + NUM_ROUNDS))
        first += NUM_ROUNDS
        is_over = space.world.exchange("over", b"1" if time.monotonic() >= end else b"0")[0] == b"1"
        if is_over:
            break
    num_turns = first * NUM_THREADS * space.num_ranks
    counted = [space.load(shared.counters.address_of(0, home), "int64") for home in range(space.num_ranks)]
    assert sum(counted) == num_turns == space.load(shared.counters_cached.address, "int64")
    space.barrier()


def barriers_of_threads_pair_in_order(space: umem.Space) -> None:
    word = space.shared("paired", 1, "int64")
    errors: list[str] = []

    def work() -> None:
        try:
            for _ in range(3):
                space.fetch_add(word.address, 1)
                space.barrier()
        except Exception:  # noqa: BLE001
            errors.append(traceback.format_exc())

    threads = [threading.Thread(target=work, daemon=True) for _ in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * space.timeout_s)
    assert not errors, errors
    assert space.load(word.address, "int64") == 3 * NUM_THREADS * space.num_ranks
    space.barrier()


def close_under_threads(space: umem.Space) -> list[bool]:
    """Whether each of the threads that go on calling ended with a typed error."""
    space.agent.register(DOUBLE, double)
    shared, are_typed = Shared(space), []
    started = threading.Barrier(NUM_THREADS + 1)

    def work(me: Thread) -> None:
        started.wait(space.timeout_s)
        turn = 0
        actions = (scalars, bulk, memory, near, requests, cached, own_messages)
        try:
            while True:
                turn += 1
                me.home = turn % space.num_ranks
                actions[(turn + me.number) % len(actions)](me, turn)
        except Exception as error:  # noqa: BLE001 - its kind is what is asked
            are_typed.append(isinstance(error, UmemError) or traceback.format_exc())

    threads = [
        threading.Thread(target=work, args=(Thread(space, number, shared),), daemon=True)
        for number in range(NUM_THREADS)
    ]
    for thread in threads:
        thread.start()
    started.wait(space.timeout_s)
    space.barrier()
    space.barrier()
    space.close(is_forced=True)
    for thread in threads:
        thread.join(space.timeout_s)
    return are_typed


def own_messages(me: Thread, turn: int) -> None:
    me.space.send(turn, me.space.rank, tag=me.number)
    assert me.space.recv(me.space.rank, tag=me.number) == turn


CHECKS = (every_call_from_four_threads, barriers_of_threads_pair_in_order)
