"""What torch's allocations do inside use_pool, as functions that every rank of a world runs."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import threading
import time

import numpy as np
import pytest
import torch

import umem
from umem.errors import (
    AddressError,
    ArgumentTypeError,
    ConfigError,
    DoubleFree,
    NotAllocated,
    NotMappable,
    OutOfMemory,
    UnknownName,
    WorldError,
)
from umem.torch import install, use_pool
from umem.torch.layout import PAGE_NUM_ORPHANS, PAGE_NUM_REFUSED
from umem.torch.pool import installed

MIB = 1 << 20


def home_of(tensor: torch.Tensor) -> int | None:
    """The rank in whose memory a tensor lives, or None outside of the pool."""
    pointer = tensor.untyped_storage().data_ptr()
    return installed().rank_of(pointer) if installed().holds(pointer) else None


def neighbour(space: umem.Space) -> int:
    return (space.rank + 1) % space.num_ranks


def num_live() -> int:
    gc.collect()
    installed().flights.collect()
    return installed().num_live()


def install_is_idempotent(space):
    with pytest.raises(WorldError, match=r"install\(space\) first"):
        use_pool(home=0)
    install(space)
    pool = installed()
    install(space, at_close="detach")
    install(space)
    assert installed() is pool and pool.at_close == "warn"
    with pytest.raises(ConfigError, match="at_close"):
        install(space, at_close="maybe")
    assert home_of(torch.empty(100)) is None, "nothing changes before use_pool"


def everything_lands_at_the_home(space):
    before, home = num_live(), neighbour(space)
    with use_pool(home=home):
        made = [
            torch.empty(1000),
            torch.zeros(3),
            torch.tensor([1.0, 2.0]),
            torch.arange(10),
            torch.randn(64, 64),
        ]
        made += [made[-1] @ made[-1], made[-1].to(torch.bfloat16), torch.sort(made[-1])[0], made[-1].clone()]
        made += [
            torch.from_numpy(made[-1].numpy()).sin(),
            torch.nn.functional.conv1d(torch.ones(1, 2, 9), torch.ones(3, 2, 3)),
        ]
        module = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.LSTM(32, 8))
        optimizer = torch.optim.AdamW(module.parameters())
        loss = module(torch.randn(4, 16))[0].square().mean()
        loss.backward()
        optimizer.step()
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        loaded = torch.load(io.BytesIO(file.getvalue()))
    made += [loss.detach(), *module.parameters(), *(p.grad for p in module.parameters()), *loaded.values()]
    states = [
        value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)
    ]
    assert len(states) >= 10
    assert {home_of(tensor) for tensor in made + states} == {home}
    assert all(tensor.data_ptr() % 64 == 0 for tensor in made)
    assert home_of(torch.empty(1000)) is None, "outside of the context torch allocates by itself"
    del made, module, optimizer, loss, loaded, states
    assert num_live() == before, "all is freed, outside of the context"


def contexts_nest_and_are_entered_again(space):
    own, other = use_pool(home=space.rank), use_pool(home="host")

    @own
    def made():
        return torch.ones(10)

    with own:
        with other, own, other:
            inner = torch.ones(10)
        outer = torch.ones(10)
    assert space.heap.sites.of_address(inner.data_ptr()).arena.kind.name == "HOST"
    assert space.heap.sites.of_address(outer.data_ptr()).arena.kind.name == "DEVICE"
    assert home_of(made()) == space.rank and home_of(torch.ones(10)) is None
    with pytest.raises(ZeroDivisionError), own:
        raise ZeroDivisionError
    assert home_of(torch.ones(10)) is None


def sizes_from_nothing_to_many_blocks(space):
    before = num_live()
    with use_pool(home=space.rank):
        assert home_of(torch.empty(0)) is None, "no bytes need no home"
        for num_bytes in (1, 63, 64, 65, 4096, 100_001, MIB, MIB + 1, 3 * MIB, 8 * MIB):
            tensor = torch.full((num_bytes,), 7, dtype=torch.uint8)
            assert home_of(tensor) == space.rank and bool((tensor == 7).all())
        tensor = torch.zeros(3)
        address = tensor.untyped_storage().data_ptr()
        tensor.resize_(100_000)
        assert home_of(tensor) == space.rank and tensor.untyped_storage().data_ptr() != address
    tensor.resize_(200_000)
    assert home_of(tensor) is None, "a storage's home is decided when it is allocated"
    del tensor
    assert num_live() == before


def only_the_entering_thread_is_in_the_pool(space):
    seen = {}

    def work(name, context):
        with context:
            seen[name] = home_of(torch.ones(100))

    with use_pool(home=space.rank):
        plain = threading.Thread(target=lambda: seen.update(plain=home_of(torch.ones(100))))
        other = threading.Thread(target=work, args=("other", use_pool(home=neighbour(space))))
        for thread in (plain, other):
            thread.start()
        for thread in (plain, other):
            thread.join()
        seen["own"] = home_of(torch.ones(100))
    assert seen == {"plain": None, "other": neighbour(space), "own": space.rank}


def threads_inside_and_outside_allocate_at_the_same_time(space):
    before = num_live()
    homes = (None, space.rank, neighbour(space), "host")
    start, wrong = threading.Barrier(len(homes)), []

    def work(name, home):
        expected = space.rank if home == "host" else home
        start.wait(20)
        kept = []
        for turn in range(300):
            with contextlib.nullcontext() if home is None else use_pool(home=home):
                kept.append((turn, torch.full((turn * 7 + 1,), turn)))
            if home_of(kept[-1][1]) != expected:
                wrong.append(f"{name}: {home_of(kept[-1][1])}")
            if turn % 3 == 2:
                value, tensor = kept.pop(turn // 3)
                if not bool((tensor == value).all()):
                    wrong.append(f"{name}: a tensor of {value} holds something else")
                del tensor

    threads = [threading.Thread(target=work, args=(repr(home), home)) for home in homes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == [] and num_live() == before


def tensors_die_on_any_thread(space):
    before, refused = num_live(), installed().page[PAGE_NUM_REFUSED]
    with use_pool(home=neighbour(space)):
        kept = [torch.full((10 if n % 2 else 10_000,), 1.0) for n in range(140)] + [
            torch.ones(300_000) for _ in range(10)
        ]
    cached = []

    def drop(count, home):
        if home is not None:
            with use_pool(home=home):
                mine = [torch.ones(1000) for _ in range(20)]
        for _ in range(count):
            cached.append(float(kept.pop()[0]))  # noqa: PERF401
        if home is not None:
            del mine

    for home in (None, space.rank, neighbour(space)):
        thread = threading.Thread(target=drop, args=(50, home))
        thread.start()
        thread.join()
    assert cached == [1.0] * 150 and num_live() == before
    assert installed().page[PAGE_NUM_REFUSED] == refused == 0


def threads_give_back_their_stock(space):
    def work():
        with use_pool(home=space.rank):
            for size in (10, 1000, 10_000):
                torch.ones(size)

    def cached_bytes():
        usage = space.heap.usage_of(space.heap.sites.at_home(space.rank))
        return usage.owners[space.rank].cached_bytes if space.rank in usage.owners else 0

    def run():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        deadline = time.monotonic() + 20
        while installed().threads.others_are_alive():  # its end comes after what `join` waits for
            assert time.monotonic() < deadline
            os.sched_yield()

    installed().threads.trim()
    run()
    before = cached_bytes()
    for _ in range(5):
        run()
    assert cached_bytes() == before


def a_full_home_raises_or_spills(space):
    before = num_live()
    said = r"no room at home \d.*memory_summary\(\) says what is free where.*: 1073741824"
    with use_pool(home=space.rank), pytest.raises(RuntimeError, match=said):
        torch.empty(1 << 30, dtype=torch.uint8)
    kept = []
    with use_pool(home="host", spill=(space.rank,)):
        while not kept or home_kind(space, kept[-1]) == "HOST":
            kept.append(torch.empty(4 * MIB, dtype=torch.uint8))
    assert len(kept) > 1 and home_kind(space, kept[-1]) == "DEVICE" and home_of(kept[-1]) == space.rank
    assert installed().counters()["spilled"] == 1
    with use_pool(home="host"), pytest.raises(RuntimeError, match="no room"):
        torch.empty(4 * MIB, dtype=torch.uint8)
    with use_pool(home="host"):
        del kept[0]
        kept.append(torch.empty(4 * MIB, dtype=torch.uint8))
    assert home_kind(space, kept[-1]) == "HOST", "what is freed can be had again"
    del kept
    assert num_live() == before


def home_kind(space, tensor):
    return space.heap.sites.of_address(tensor.data_ptr()).arena.kind.name


def wrong_frees_are_refused(space):
    with use_pool(home=space.rank):
        tensor = torch.ones(1000)
    address, before = tensor.data_ptr(), installed().page[PAGE_NUM_REFUSED]
    with pytest.raises(NotAllocated, match=f"64 bytes into the allocation at {address:#x}"):
        space.free(address + 64)
    with pytest.raises(AddressError, match="no segment"):
        space.free(torch.ones(1000).data_ptr())
    assert float(tensor.sum()) == 1000
    space.free(address)
    with pytest.raises((DoubleFree, NotAllocated)):
        space.free(address)
    del tensor
    assert installed().page[PAGE_NUM_REFUSED] == before + 1, "its deleter comes too late and changes nothing"


def bad_homes_are_named(space):
    for home, due in (
        (space.num_ranks, UnknownName),
        (-1, UnknownName),
        ("moon", UnknownName),
        (1.5, ArgumentTypeError),
        (True, ArgumentTypeError),
    ):
        with pytest.raises(due, match="home"):
            use_pool(home=home)
        with pytest.raises(due, match="home"):
            use_pool(home=space.rank, spill=(home,))
    use_pool(home=np.int64(space.rank), spill=(np.int8(space.rank),))
    with pytest.raises(ConfigError, match="tuple"):
        use_pool(home=0, spill="host")
    with pytest.raises(ConfigError, match="tuple"):
        use_pool(home=0, spill=1)
    assert home_of(torch.ones(3)) is None


def a_fork_leaves_the_pool_alone(space):
    with use_pool(home=neighbour(space)):
        kept = torch.arange(1000)
        dropped = [torch.ones(100) for _ in range(10)]
        live = num_live()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writer, _in_the_fork(space, kept, dropped).encode())
            os._exit(0)
    os.close(writer)
    assert os.waitpid(pid, 0)[1] == 0
    with open(reader) as told:
        assert told.read() == "ok"
    assert num_live() == live
    assert int(kept[0]) == -1, "pool tensors behave as shared memory"
    del kept, dropped
    assert num_live() == live - 11


def _in_the_fork(space, kept, dropped):
    pool = installed_or_error()
    if "fork" not in pool:
        return f"use_pool: {pool}"
    try:
        install(space)
        return "install succeeded"
    except WorldError as error:
        if "fork" not in str(error):
            return f"install: {error}"
    fresh = torch.ones(100)
    page = umem.torch.pool.page()
    if page[umem.torch.layout.PAGE_LOW] <= fresh.data_ptr() < page[umem.torch.layout.PAGE_HIGH]:
        return "a new tensor is in the pool"
    dropped.clear()
    if page[PAGE_NUM_ORPHANS] != 10:
        return f"{page[PAGE_NUM_ORPHANS]} deleters ran"
    kept[0] = -1
    return "ok"


def installed_or_error():
    try:
        use_pool(home=0)
        return "succeeded"
    except WorldError as error:
        return str(error)


def the_pool_is_private_to_homes_that_are_mapped(space):
    install(space)
    for home in (neighbour(space), "striped"):
        with pytest.raises(NotMappable, match=r"space\.put/get"):
            use_pool(home=home)
    with pytest.raises(NotMappable):
        use_pool(home=space.rank, spill=(neighbour(space),))
    with use_pool(home="local", spill=("host",)):
        mine = torch.ones(1000)
    assert home_of(mine) == space.rank and float(mine.sum()) == 1000
    with pytest.raises((UnknownName, OutOfMemory)):
        use_pool(home=99)


MAPPED = {
    check.__name__: check
    for check in (
        install_is_idempotent,
        everything_lands_at_the_home,
        contexts_nest_and_are_entered_again,
        sizes_from_nothing_to_many_blocks,
        only_the_entering_thread_is_in_the_pool,
        threads_inside_and_outside_allocate_at_the_same_time,
        tensors_die_on_any_thread,
        threads_give_back_their_stock,
        a_full_home_raises_or_spills,
        bad_homes_are_named,
        a_fork_leaves_the_pool_alone,
        wrong_frees_are_refused,
    )
}
UNMAPPED = {check.__name__: check for check in (the_pool_is_private_to_homes_that_are_mapped,)}
