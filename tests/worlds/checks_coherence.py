"""What cached memory promises, as functions that every rank of a world runs; see test_coherence.py."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import umem
from umem.errors import (
    AddressError,
    AlignmentError,
    ConfigError,
    HandlerError,
    LinePoisoned,
    NotMappable,
    UnknownName,
)
from umem.kernels import status
from umem.kernels.heap.layout import BLOCK_BYTES

from . import checks_threads
from .checks_space import assert_nothing_is_made_where_zeroing_fails
from .checks_values import each_operand_is_used_or_refused, each_value_is_stored_or_refused
from .outcomes import named, run_checks

ATTRIBUTES = ("back", "through", "private")
DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
ATOMIC = ("int32", "uint32", "int64", "uint64")


def tell(space: umem.Space, key: str, value) -> list:
    """What every rank says, by rank."""
    return [json.loads(blob) for blob in space.world.exchange(key, json.dumps(value).encode())]


def every_dtype_with_every_attribute(space):
    for cache in ATTRIBUTES:
        for home in {0, space.num_ranks - 1}:
            words = space.shared(f"{cache}-{home}", (len(DTYPES), space.num_ranks, 3), "int64", home, cache)
            for place, dtype in enumerate(DTYPES):
                low = np.iinfo(dtype).min if dtype[0] in "iu" else -1.5
                space.store(words.address_of(place, space.rank, 1), low, dtype)
            space.barrier()
            for place, dtype in enumerate(DTYPES):
                low = np.iinfo(dtype).min if dtype[0] in "iu" else -1.5
                for rank in range(space.num_ranks):
                    assert space.load(words.address_of(place, rank, 1), dtype) == low
                    assert space.load(words.address_of(place, rank, 0), "int64") == 0
                    assert space.load(words.address_of(place, rank, 2), "int64") == 0
            space.barrier()


def values_are_numpys_or_refused(space):
    words = space.shared("values", (space.num_ranks, 8), "int64", space.num_ranks - 1, "back", line=64)
    each_value_is_stored_or_refused(space, words.address_of(space.rank, 0))
    each_operand_is_used_or_refused(space, words.address_of(space.rank, 1))
    space.barrier()
    if space.rank == 0:
        words.free()


def sums_are_exact_on_lines_that_all_share(space):
    for cache in ATTRIBUTES:
        for home in range(space.num_ranks):
            words = space.shared(f"sum-{cache}-{home}", 8, "int64", home=home, cache=cache, line=64)
            for turn in range(40):
                space.fetch_add(words.address_of(turn % 2), 1)
            space.barrier()
            assert [space.load(words.address_of(place), "int64") for place in (0, 1)] == [
                20 * space.num_ranks
            ] * 2
            assert words.read()[:3].tolist() == [20 * space.num_ranks] * 2 + [0]
            space.barrier()


def a_lock_by_compare_swap_excludes(space):
    for cache in ATTRIBUTES:
        words = space.shared(f"lock-{cache}", 32, "int64", home=space.num_ranks - 1, cache=cache)
        lock, count = words.address_of(0), words.address_of(17)  # on two lines
        for _ in range(10):
            while space.compare_swap(lock, 0, space.rank + 1) != 0:
                os.sched_yield()  # whoever has it may need this core
            space.store(count, space.load(count, "int64") + 1, "int64")
            assert space.exchange(lock, 0) == space.rank + 1
        space.barrier()
        assert space.load(count, "int64") == 10 * space.num_ranks
        space.barrier()


def a_store_is_seen_with_all_before_it(space):
    words = space.shared("message", 64, "int64", home=0, cache="back", line=64)
    data, flag = words.address_of(0), words.address_of(32)
    for turn in range(1, 30):
        writer = turn % space.num_ranks
        if space.rank == writer:
            space.store(data, 100 * turn, "int64")
            space.store(flag, turn, "int64")
        else:
            while space.load(flag, "int64") != turn:
                os.sched_yield()
            assert space.load(data, "int64") == 100 * turn
        space.barrier()


def hits_from_python_are_one_compiled_call(space):
    words = space.shared("hits", (space.num_ranks, 64), "int64", home=0, cache="back")
    own = words.address_of(space.rank, 0)
    space.store(own, 5, "int64")
    space.store(own + 256, 1.5, "float32")
    space.barrier()
    slow, space._finish = space._finish, None  # what would be called where compiled code is not enough
    try:
        if space.rank != 0:
            assert space.compare_swap(own, 5, 6) == 5 and space.exchange(own, 7) == 6
            assert space.fetch_add(own, 2) == 7
            space.store(own, -1, "int8")
            assert space.load(own, "uint8") == 255 and space.load(own + 256, "float32") == 1.5
        else:
            assert space.load(own, "int64") == 5  # the home's own memory, of which nobody has a copy
    finally:
        space._finish = slow
    space.barrier()


def ranges_of_any_size_and_place(space):
    rng = np.random.default_rng(5)
    for cache in ATTRIBUTES:
        for home in ("striped", 0):
            array = space.shared(f"range-{cache}-{home}", 3 * BLOCK_BYTES, "uint8", home=home, cache=cache)
            for offset, size in ((0, 1), (7, 200), (BLOCK_BYTES - 100, 300), (131, 4096), (64, 70_000)):
                data = rng.integers(0, 256, size, np.uint8)
                for writer in range(space.num_ranks):
                    if space.rank == writer:
                        space.put(array.address + offset, data + np.uint8(writer))
                    space.barrier()
                    got = np.empty(size, np.uint8)
                    space.get(got, array.address + offset)
                    assert (got == data + np.uint8(writer)).all(), (cache, home, offset, size)
                    space.barrier()


def lines_of_every_size(space):
    for line in (64, 256, 1024, 4096):
        array = space.shared(f"line-{line}", 2048, "int64", home=space.num_ranks - 1, cache="back", line=line)
        assert space.cache.attribute(array.address) == ("back", line)
        for place in range(space.rank, 2048, 97 * space.num_ranks):
            space.fetch_add(array.address_of(place), place)
        space.barrier()
        total = array.read().sum()
        assert total == sum(sum(range(rank, 2048, 97 * space.num_ranks)) for rank in range(space.num_ranks))
        space.barrier()


def copies_go_between_cached_and_raw_memory(space):
    cached = space.shared("cached", 1000, "int32", home=0, cache="back")
    raw = space.empty(1000, "int32")
    raw.write(np.arange(1000) + space.rank)
    if space.rank == space.num_ranks - 1:
        space.copy(cached.address, raw.address, raw.nbytes)
    space.barrier()
    space.copy(raw.address, cached.address, raw.nbytes)
    assert (raw.read() == np.arange(1000) + space.num_ranks - 1).all()
    space.barrier()


def freed_memory_is_raw_again(space):
    array = space.shared("freed", 1 << 12, "int64", home=0, cache="back")
    for place in range(space.rank, 1 << 12, space.num_ranks):
        space.store(array.address_of(place), place + 1, "int64")
    space.barrier()
    if space.rank == space.num_ranks - 1:
        array.free()
        raw = space.alloc(BLOCK_BYTES, home=0)
        assert tell_memory(space, raw) == ("none", 0)
        space.store(raw, 5, "int64")
        assert space.load(raw, "int64") == 5
        space.free(raw)
    space.barrier()


def tell_memory(space, address):
    return space.cache.attribute(address)


def nothing_is_made_where_zeroing_fails(space):
    assert_nothing_is_made_where_zeroing_fails(space, "zeroed", cache="back")


def raw_views_of_cached_memory_are_refused(space):
    for cache in ATTRIBUTES:
        array = space.shared(
            f"view-{cache}", 64, "float32", home=space.rank if space.num_ranks == 1 else 0, cache=cache
        )
        with pytest.raises(NotMappable):
            array.numpy()
        with pytest.raises(NotMappable):
            space.view(array.address, 4)
        space.barrier()


def operations_beside_the_data_are_refused(space):
    table = space.shared("near", (16, 16), "float32", home=0, cache="back")
    if space.agent.is_running and space.fabric is not None:
        with pytest.raises(HandlerError, match=r"ranks keep copies of that memory.*space.cache"):
            space.near.reduce(table.address, np.ones(16, np.float32), "f32")
    space.barrier()


def bad_input_is_named(space):
    with pytest.raises(UnknownName):
        space.alloc(64, cache="sometimes")
    for line in (0, -128, 96, 32, 8192, 64.0, "64"):
        with pytest.raises(ConfigError):
            space.alloc(64, cache="back", line=line)
    array = space.shared("bad", 64, "int64", home=0, cache="back", line=64)
    with pytest.raises(AlignmentError):
        space.load(array.address + 4, "int64")
    with pytest.raises(AlignmentError):
        space.fetch_add(array.address + 60, 1, "int64")  # would cross a line
    with pytest.raises(AlignmentError):
        space.cache.load(array.address + 1, 8)
    with pytest.raises(AddressError):
        space.cache.load(space.segments.map.end + 4096, 8)
    with pytest.raises(ConfigError, match="3 bytes: an element has one of 1, 2, 4, 8"):
        space.cache.load(array.address, 3)
    space.cache.reset(array.address)  # of a line that is not poisoned: nothing
    raw = space.alloc(64)
    with pytest.raises(AddressError, match="cached"):
        space.cache.reset(raw)
    space.free(raw)
    with pytest.raises(
        AddressError, match=f"{array.address + 4:#x}: an element lies at a multiple of its size"
    ):
        space.cache.settle(status.MISALIGNED, array.address + 4)
    with pytest.raises(LinePoisoned, match=r"^a line was lost") as error:
        space.cache.settle(status.POISONED)
    assert error.value.address is None
    space.barrier()


def counters_tell_what_happened(space):
    array = space.shared("counted", 64, "int64", home=0, cache="back", line=64)
    space.cache.clear_counters()
    space.barrier()
    if space.rank == space.num_ranks - 1 and space.rank > 0:
        for _ in range(10):
            space.load(array.address, "int64")
        counters = space.cache.counters()
        assert counters["read_misses"] == 1 and counters["hits"] >= 9, counters
        space.store(array.address, 1, "int64")
        has_it_alone = space.world.spec.protocol == "mesi"  # who reads first may write without asking
        assert space.cache.counters()["upgrades"] == (0 if has_it_alone else 1)
        assert space.cache.counters()["bytes"] == 64, "an upgrade moves no line"
    space.barrier()


def who_took_copies_from_whom_is_told(space):
    """By the rank itself where it maps the home and the holders, else by the home."""
    if space.num_ranks < 3:
        return
    array = space.shared("pairs", 64, "int64", home=0, cache="back", line=64)
    space.barrier()
    taker, holder = 1, 2
    if space.rank == holder:
        space.store(array.address, 1, "int64")
    space.cache.clear_counters()
    space.barrier()
    if space.rank == taker:
        space.store(array.address, 2, "int64")
    space.barrier()
    mapped = space.segments.mapped_ranks
    told = [json.loads(blob) for blob in space.world.exchange("mapped", json.dumps(sorted(mapped)).encode())]
    counting = taker if {0, holder} <= set(told[taker]) else 0
    if space.rank in (0, taker):
        assert space.cache.invalidated() == ({holder: 1} if space.rank == counting else {})
        assert space.cache.counters()["forwards"] == (1 if space.rank == counting else 0)
    space.barrier()


def poison_is_an_error_until_it_is_reset(space):
    array = space.shared("poison", 64, "int64", home=0, cache="back", line=64)
    if space.rank == 0:
        poison(space, array.address)
    space.barrier()
    for access in (
        lambda: space.load(array.address, "int64"),
        lambda: space.store(array.address + 8, 1, "int64"),
        array.read,
    ):
        with pytest.raises(LinePoisoned) as error:
            access()
        assert error.value.address & -64 == array.address
    assert space.load(array.address + 64, "int64") == 0
    space.barrier()
    if space.rank == space.num_ranks - 1:
        space.cache.reset(array.address)
        space.store(array.address, 9, "int64")
    space.barrier()
    assert space.load(array.address, "int64") == 9
    space.barrier()


def poison(space, address):
    """Mark the line of `address`, whose home this rank is, as lost."""
    import ctypes

    from umem.kernels.coherent import layout as words
    from umem.kernels.coherent.directory import directory_word

    word = directory_word(space.control, space.cache.address, address, 6)
    ctypes.c_int64.from_address(word).value = words.LINE_POISONED << words.DIRECTORY_STATE_SHIFT


CHECKS = named(
    every_dtype_with_every_attribute,
    values_are_numpys_or_refused,
    sums_are_exact_on_lines_that_all_share,
    a_lock_by_compare_swap_excludes,
    a_store_is_seen_with_all_before_it,
    hits_from_python_are_one_compiled_call,
    ranges_of_any_size_and_place,
    lines_of_every_size,
    copies_go_between_cached_and_raw_memory,
    freed_memory_is_raw_again,
    raw_views_of_cached_memory_are_refused,
    operations_beside_the_data_are_refused,
    bad_input_is_named,
    counters_tell_what_happened,
    *checks_threads.CHECKS,
    who_took_copies_from_whom_is_told,
    poison_is_an_error_until_it_is_reset,
)


def run_all(space: umem.Space) -> dict[str, str]:
    """Outcome of each check in this rank."""
    return run_checks(space, CHECKS)
