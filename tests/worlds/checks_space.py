"""What a space promises, as functions that every rank of a world runs; see test_space.py."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import umem
from umem.errors import (
    AddressError,
    AlignmentError,
    ConfigError,
    LinePoisoned,
    NotMappable,
    OutOfMemory,
    UnknownName,
    WaitTimeout,
    WorldError,
)
from umem.heap import WORLD
from umem.kernels.page.control import CONTROL_SPIN_ROUNDS
from umem.memory.address import Kind
from umem.memory.control_page import SPIN_ROUNDS_OWN_CORE
from umem.memory.reach import KINDS_OF_MEMORY
from umem.units import MIB

from .. import error_samples
from . import checks_arguments, checks_compiling, checks_fork, checks_messages, checks_values
from .outcomes import named, run_checks

DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")


def pattern(num_bytes: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, num_bytes, np.uint8)


def homes(space: umem.Space) -> list:
    return [*range(space.num_ranks), "striped", "host"]


def every_dtype_at_every_home(space):
    for home in homes(space):
        for dtype in DTYPES:
            array = space.shared(f"scalars-{home}-{dtype}", (space.num_ranks, 3), dtype, home=home)
            own = array.address_of(space.rank, 1)
            low = np.iinfo(dtype).min if dtype[0] in "iu" else -1.5
            space.store(own, low, dtype)
            space.barrier()
            for rank in range(space.num_ranks):
                assert space.load(array.address_of(rank, 1), np.dtype(dtype)) == low
                assert space.load(array.address_of(rank, 0), dtype) == 0, "a store touches its own bytes only"
            space.barrier()


def atomic_sums_are_exact(space):
    for home in homes(space):
        for dtype in ("int32", "uint32", "int64", "uint64"):
            word = space.shared(f"sum-{home}-{dtype}", 1, dtype, home=home)
            seen = {space.fetch_add(word.address, 3, dtype) for _ in range(50)}
            assert len(seen) == 50, "no two fetch_adds saw the same number"
            space.barrier()
            assert space.load(word.address, dtype) == 150 * space.num_ranks
            space.barrier()


def a_lock_by_compare_swap_excludes(space):
    for home in range(space.num_ranks):
        words = space.shared(f"lock-{home}", 2, "int64", home=home)
        lock, count = words.address_of(0), words.address_of(1)
        for _ in range(10):
            while space.compare_swap(lock, 0, space.rank + 1) != 0:
                pass
            space.store(count, space.load(count, "int64") + 1, "int64")
            assert space.exchange(lock, 0) == space.rank + 1
        space.barrier()
        assert space.load(count, "int64") == 10 * space.num_ranks
        space.barrier()


def negative_and_wide_values_survive(space):
    words = space.shared("wide", 4, "int64", home=space.num_ranks - 1)
    if space.rank == 0:
        assert space.exchange(words.address_of(0), -5) == 0
        assert space.fetch_add(words.address_of(0), -1) == -5
        assert space.compare_swap(words.address_of(0), -6, 1 << 62) == -6
        assert space.load(words.address_of(0), "int64") == 1 << 62
        space.store(words.address_of(1), (1 << 64) - 1, "uint64")
        assert space.fetch_add(words.address_of(1), 2, "uint64") == (1 << 64) - 1
        assert space.load(words.address_of(1), "uint64") == 1
    space.barrier()


def bulk_moves_any_size_to_any_home(space):
    for home in homes(space):
        array = space.shared(f"bulk-{home}", (space.num_ranks, 3 * MIB), "uint8", home=home)
        for num_bytes, offset in ((1, 0), (7, 3), (4096, 64), (100_001, 13), (3 * MIB - 1, 1)):
            data = pattern(num_bytes, seed=num_bytes + space.rank)
            space.put(array.address_of(space.rank, offset), data)
            space.barrier()
            peer = (space.rank + 1) % space.num_ranks
            found = np.zeros_like(data)
            space.get(found, array.address_of(peer, offset))
            assert np.array_equal(found, pattern(num_bytes, seed=num_bytes + peer)), (home, num_bytes, offset)
            space.barrier()
        if space.rank == 0:
            array.free()


def copies_go_between_any_two_homes(space):
    num_bytes = 3 * MIB + 17
    for src_home in homes(space):
        src = space.shared(f"from-{src_home}", num_bytes, "uint8", home=src_home)
        for dst_home in homes(space):
            dst = space.shared(f"to-{src_home}-{dst_home}", num_bytes, "uint8", home=dst_home)
            if space.rank == space.num_ranks - 1:
                data = pattern(num_bytes, seed=7)
                src.write(data)
                space.copy(dst.address, src.address, num_bytes)
                assert np.array_equal(dst.read(), data), (src_home, dst_home)
            space.barrier()
            if space.rank == 0:
                dst.free()
        if space.rank == 0:
            src.free()
        space.barrier()


def views_are_the_memory_or_are_refused(space):
    for home in range(space.num_ranks):
        array = space.shared(f"view-{home}", (4, 5), "float64", home=home)
        if not checks_values.is_viewable(space, home):
            with pytest.raises(NotMappable, match=f"rank {home}"):
                array.numpy()
            if space.rank == home:  # a GPU's
                array.write(np.arange(20.0).reshape(4, 5))
        elif space.rank == home:
            array.numpy()[:] = np.arange(20).reshape(4, 5)
        space.barrier()
        assert space.load(array.address_of(3, -1), "float64") == 19
        assert np.array_equal(array.read(), np.arange(20).reshape(4, 5))
        if checks_values.is_viewable(space, home):
            assert array.numpy().ctypes.data == array.address
        space.barrier()


def torch_views_share_the_memory(space):
    torch = pytest.importorskip("torch")
    array = space.empty((3, 4), "float32", home=checks_values.viewable_home(space))
    tensor = array.torch()
    tensor.fill_(2.0)
    assert tensor.data_ptr() == array.address and array.numpy().sum() == 24
    assert torch.equal(tensor, torch.full((3, 4), 2.0))
    array.free()


def arrays_travel_as_addresses(space):
    array = space.shared("travel", (2, 3), "int16", home=0)
    wire = pickle.dumps(array)
    assert len(wire) < 300
    arrived = pickle.loads(wire)
    assert (arrived.address, arrived.shape, arrived.dtype) == (array.address, array.shape, array.dtype)
    assert space.find("travel").address == array.address


def objects_are_sent_in_order(space):
    peer, source = (space.rank + 1) % space.num_ranks, (space.rank - 1) % space.num_ranks
    mine = space.empty(4, "int64")
    mine.write(np.arange(4) + space.rank)
    space.send({"from": space.rank, "array": mine}, peer)
    space.send("apart", peer, tag=7)
    space.send([1, None], peer)
    got = space.recv(source)
    assert got["from"] == source and got["array"].read().tolist() == [source + i for i in range(4)]
    assert space.recv(source) == [1, None] and space.recv(source, tag=7) == "apart"
    space.barrier()
    mine.free()


def errors_arrive_as_themselves(space):
    peer, source = (space.rank + 1) % space.num_ranks, (space.rank - 1) % space.num_ranks
    mine = [error_samples.sample(kind) for kind in error_samples.kinds()]
    space.send(mine, peer)
    assert [*map(error_samples.told_by, space.recv(source))] == [*map(error_samples.told_by, mine)]


def near_operations_agree_with_numpy(space):
    num_rows, columns, pooling = 3000, 16, 7
    for home in homes(space)[:-1]:  # "host" is each rank's own
        table = space.shared(f"near-{home}", (num_rows, columns), "float32", home=home)
        values = np.random.default_rng(5).integers(-9, 9, (num_rows, columns)).astype(np.float32)
        if space.rank == 0:
            table.write(values)
        space.barrier()
        indices = np.random.default_rng(space.rank).integers(0, num_rows, 60 * pooling)
        rows = np.empty((len(indices), columns), np.float32)
        space.near.gather(rows, table.address, num_rows, indices)
        assert np.array_equal(rows, values[indices])
        sums = np.empty((60, columns), np.float32)
        offsets = np.arange(61) * pooling
        space.near.gather_sum(sums, table.address, num_rows, columns * 4, offsets, indices)
        assert np.array_equal(sums, values[indices].reshape(60, pooling, columns).sum(1))
        space.barrier()


def near_sums_arrive(space):
    values = np.arange(3000, dtype=np.float32) % 7
    for home in homes(space)[:-1]:
        total = space.shared(f"sums-{home}", values.shape, "float32", home=home)
        space.near.reduce(total.address, values * (space.rank + 1), "f32")
        space.barrier()
        assert np.array_equal(total.read(), values * sum(range(1, space.num_ranks + 1)))
        space.barrier()


def fenced_stores_are_never_both_late(space):
    words = space.shared("fenced", 2 * space.num_ranks, "int64", home="striped" if space.num_ranks > 1 else 0)
    seen = space.shared("seen", space.num_ranks, "int64")
    mine, theirs = space.rank, (space.rank ^ 1) % space.num_ranks
    for round_number in range(1, 40):
        space.barrier()
        space.store(words.address_of(mine), round_number, "int64")
        space.fence()
        space.store(seen.address_of(mine), space.load(words.address_of(theirs), "int64"), "int64")
        space.barrier()
        assert round_number in seen.read()[:2], "ranks 0 and 1 cannot both have been first"


def shared_arrays_belong_to_all(space):
    array = space.shared("of all", 8, "int64", home=space.num_ranks - 1)
    assert space.heap.owner_of(array.address) == WORLD
    space.barrier()
    if space.rank == space.num_ranks - 1:  # not the rank that allocated it
        space.free(array.address)
    space.barrier()


def bad_input_is_named(space):
    array = space.shared("bad", 8, "int64", home=space.num_ranks - 1)
    with pytest.raises(AlignmentError, match="8-byte aligned"):
        space.load(array.address + 4, "int64")
    with pytest.raises(AlignmentError):
        space.fetch_add(array.address + 2, 1, "int32")
    with pytest.raises(AddressError, match="no segment"):
        space.load(64, "int8")
    with pytest.raises(AddressError):
        space.store(space.segments.map.end + 64, 1, "int8")
    with pytest.raises(AddressError):
        space.get(
            np.zeros(1 << 20, np.uint8),
            space.segments.map.slot_address(0, 1) + space.segments.map.host_bytes - 8,
        )
    with pytest.raises(UnknownName, match="dtype"):
        space.load(array.address, "complex64")
    with pytest.raises(UnknownName, match="dtype of an atomic"):
        space.fetch_add(array.address, 1, "float32")
    with pytest.raises(UnknownName, match="home"):
        space.empty(3, "int8", home=space.num_ranks)
    with pytest.raises(UnknownName, match="home"):
        space.empty(3, "int8", home="moon")
    with pytest.raises(ConfigError):
        space.empty((-1, 2), "int8")
    with pytest.raises(ConfigError):
        space.put(array.address, np.zeros((4, 4), np.uint8)[:, ::2])
    with pytest.raises(AddressError):
        space.copy(array.address, array.address + 8, 16)
    with pytest.raises(AddressError):
        array.address_of(8)
    space.barrier()


def ranks_that_disagree_are_all_told(space):
    if space.num_ranks == 1:
        pytest.skip("one rank cannot disagree")
    with pytest.raises(ConfigError, match="rank 1"):
        space.shared("disagree", 4 + (space.rank == 1), "int8")
    space.barrier()


def a_collective_that_fails_at_one_rank_ends_everywhere(space):
    last = space.num_ranks - 1
    with pytest.raises(OutOfMemory, match=r"'retried', at rank 0: .*no room"):
        space.shared("retried", 1 << 50, "uint8")
    assert_nothing_is_made_where_zeroing_fails(space, "retried", cache="none")
    with pytest.raises(ConfigError, match=rf"at rank {last}: .*-1"):
        space.shared("retried", -1 if space.rank == last else 1, "uint8")
    error = LookupError if space.rank == last else WorldError
    with pytest.raises(error, match="no data type"):
        space.shared("retried", 1, NoDtype() if space.rank == last else "uint8")
    space.barrier()
    assert space.shared("retried", 8, "int64", home=last).read().tolist() == [0] * 8
    with pytest.raises(ConfigError, match="ndarray is no array of the space"):
        space.publish("retried", np.zeros(3))
    assert space.find("retried").shape == (8,)
    space.barrier()


def assert_nothing_is_made_where_zeroing_fails(space, name, cache):
    site = space.heap.sites.at_home(0)
    space.barrier()
    held = space.heap.usage_of(site).owners
    space.barrier()

    def fail(*_):
        raise LinePoisoned(space.rank)

    space._zero = fail
    with pytest.raises(LinePoisoned, match=rf"{name}', at rank 0: "):
        space.shared(name, 3 * MIB, "uint8", cache=cache)
    del space._zero
    assert space.heap.usage_of(site).owners == held
    with pytest.raises(WaitTimeout):
        space.find(name, timeout_s=0.01)
    space.barrier()


class NoDtype:
    """Something that numpy makes no dtype of."""

    @property
    def dtype(self):
        raise LookupError("no data type")


def waits_poll_for_long_where_every_rank_has_a_core(space):
    num_local = space.world.hosts.count(space.world.host)
    spin_rounds = space.page.words[CONTROL_SPIN_ROUNDS]
    assert (spin_rounds == SPIN_ROUNDS_OWN_CORE) == (num_local <= len(space.world.usable_cores)), spin_rounds


def barriers_publish_plain_stores(space):
    array = space.shared("rounds", space.num_ranks, "int64", home="local" if space.num_ranks == 1 else 0)
    for round_number in range(1, 30):
        array_slot = array.address_of(space.rank)
        space.put(array_slot, np.array([round_number]))
        space.barrier()
        assert array.read().tolist() == [round_number] * space.num_ranks
        space.barrier()


def only_mappable_memory_is_in_the_process(space):
    maps = Path("/proc/self/maps").read_text()
    for rank in range(space.num_ranks):
        for kind in ("meta", "device", "host"):
            reached = space.segments.reach.by_cpu(rank, KINDS_OF_MEMORY[kind])
            assert (f"umem-{kind}-{rank} " in maps) == reached, (rank, kind)


def traffic_is_counted(space):
    home = space.num_ranks - 1
    array = space.shared("counted", 64, "uint8", home=home)
    space.put(array.address, np.zeros(64, np.uint8))
    fabric = space.switch.fabric_to(home, Kind.DEVICE).name
    row = next(
        r
        for r in space.switch.traffic.rows()
        if (r["fabric"], r["rank"], r["operation"]) == (fabric, home, "put")
    )
    assert row["operations"] >= 1 and row["bytes"] >= 64
    space.barrier()


CHECKS = named(
    every_dtype_at_every_home,
    atomic_sums_are_exact,
    a_lock_by_compare_swap_excludes,
    negative_and_wide_values_survive,
    bulk_moves_any_size_to_any_home,
    copies_go_between_any_two_homes,
    views_are_the_memory_or_are_refused,
    torch_views_share_the_memory,
    arrays_travel_as_addresses,
    objects_are_sent_in_order,
    errors_arrive_as_themselves,
    near_operations_agree_with_numpy,
    near_sums_arrive,
    fenced_stores_are_never_both_late,
    shared_arrays_belong_to_all,
    bad_input_is_named,
    ranks_that_disagree_are_all_told,
    a_collective_that_fails_at_one_rank_ends_everywhere,
    waits_poll_for_long_where_every_rank_has_a_core,
    barriers_publish_plain_stores,
    only_mappable_memory_is_in_the_process,
    traffic_is_counted,
    *checks_messages.CHECKS,
    *checks_fork.CHECKS,
    checks_compiling.no_deadline_passes_while_a_rank_compiles,
    *checks_values.CHECKS,
    *checks_arguments.CHECKS,
)


def run_all(space: umem.Space) -> dict[str, str]:
    """Outcome of each check in this rank."""
    return run_checks(space, CHECKS)
