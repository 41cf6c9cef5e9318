"""What ranks of test_gpu.py do. A module of its own, so that ranks find it by name."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

import umem
from umem.errors import (
    AlignmentError,
    ArgumentRangeError,
    ArgumentTypeError,
    DeviceError,
    DeviceMissing,
    KernelRefused,
    NotMappable,
    RankLost,
    WaitTimeout,
)
from umem.kernels import (
    fetch_add_i64,
    lane_index,
    load_acquire_i64,
    load_f32,
    load_f64,
    num_lanes,
    pause,
    store_f32,
    store_f64,
    store_i64,
)


@umem.kernel
def scale(base, num_elements, factor):
    """Multiply float32 elements, each by the lane whose turn it is."""
    i = lane_index()
    while i < num_elements:
        store_f32(base, i, load_f32(base, i) * factor)
        i += num_lanes()


@umem.kernel("void(int64, int64)")
def count(word, num_times):
    """Add 1 to a word, time after time, in every lane."""
    i = 0
    while i < num_times:
        fetch_add_i64(word, 0, 1)
        i += 1


@umem.kernel
def mixed(out, a, b, c):
    """Store numbers of three types as float64."""
    store_f64(out, 0, a)
    store_f64(out, 1, b)
    store_f64(out, 2, c)


@umem.kernel
def wild(address):
    """Store where nothing is."""
    store_i64(address, 0, 1)


@umem.kernel
def spin(word):
    """Never end while a word is 0."""
    while load_acquire_i64(word, 0) == 0:
        pause()


@umem.kernel
def half_of(base):
    """What does not compile for any target: a string."""
    store_f64(base, 0, load_f64(base, 0) / "2")


def one_source_on_every_device(space):
    array = space.empty(1000, "float32")
    array.write(np.arange(1000, dtype=np.float32))
    space.launch(scale, 4, 64, array, array.size, np.float32(2.0))
    space.synchronize()
    assert np.array_equal(array.read(), 2 * np.arange(1000, dtype=np.float32))
    out = space.empty(3, "float64")
    space.launch(mixed, 1, 1, out, 3, 0.5, np.uint8(200))
    space.synchronize()
    assert out.read().tolist() == [3.0, 0.5, 200.0]


def all_devices_count_in_one_word(space):
    for home in range(space.num_ranks):
        word = space.shared(f"counted-{home}", 1, "int64", home=home)
        lanes = 16 if space.segments.gpu is not None else 1
        reached = space.segments.reach
        mine = reached.by_gpu(home, 0) if lanes == 16 else reached.by_cpu(home, 0)
        if mine:
            space.launch(count, 2, 8, word, 10, cooperative=lanes == 16)
            space.synchronize()
        added = space.world.exchange("added", str(10 * lanes * mine).encode())
        assert space.load(word.address, "int64") == sum(map(int, added)) > 0
        space.barrier()


def copies_go_in_the_order_of_a_stream(space):
    if space.segments.gpu is None:
        with pytest.raises(DeviceMissing, match="--device cuda"):
            space.gpu  # noqa: B018
        return
    near, far = space.empty(64, "float32"), space.empty(64, "float32", home="host")
    given, found = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    driver = space.gpu.device.driver
    stream = driver.call("cuStreamCreate", 1)
    space.gpu.put(near.address, given, stream)
    space.launch(scale, 1, 8, near, 64, np.float32(3), stream=stream)
    space.gpu.copy(far.address, near.address, 256, stream)
    space.launch(scale, 1, 8, far, 64, np.float32(2), stream=int(stream))
    space.gpu.get(found, far.address, stream)
    space.synchronize(stream)
    assert np.array_equal(found, 6 * given) and np.array_equal(far.numpy(), 6 * given)
    driver.call("cuStreamDestroy", stream)


def streams_signal_and_wait(space):
    """A word is set behind a kernel, and holds another stream until then; ranks take turns by words alone."""
    if space.segments.gpu is None:
        return
    driver = space.gpu.device.driver
    first, second = (driver.call("cuStreamCreate", 1) for _ in range(2))
    for home in ("local", "host"):
        data, word = space.empty(64, "float32", home=home), space.empty(2, "int64", home=home)
        data.write(np.ones(64, np.float32))
        word.write(np.zeros(2, np.int64))
        space.gpu.wait(word.address, 1, second)
        space.launch(scale, 1, 8, data, 64, np.float32(3), stream=second)
        space.gpu.signal(word.address + 8, 5, second)
        with pytest.raises(WaitTimeout):
            space.synchronize(second, timeout_s=0.1)
        assert (data.read() == 1).all()
        space.launch(scale, 1, 8, data, 64, np.float32(2), stream=first)
        space.gpu.signal(word.address, 1, first)
        space.synchronize(second)
        assert (data.read() == 6).all() and word.read().tolist() == [1, 5]
        space.gpu.wait(word.address, -7, first)
        space.synchronize(first)
    for stream in (first, second):
        driver.call("cuStreamDestroy", stream)
    with pytest.raises(AlignmentError):
        space.gpu.signal(word.address + 4, 1)
    with pytest.raises(ArgumentRangeError):
        space.gpu.wait(word.address, 1 << 63)
    for rank in range(space.num_ranks):
        if not space.segments.reach.by_gpu(rank, 0):
            with pytest.raises(NotMappable):
                space.gpu.signal(space.segments.map.slot_address(rank, 0), 1)


def ranks_take_turns_by_words(space):
    """The ranks' GPUs count a word up in turn, each behind a wait on its stream for the one before."""
    if len(space.segments.map.gpu_ranks) < space.num_ranks:
        return
    turn = space.shared("turn", 16, "int64", home=0)
    total = space.shared("total", 1, "float32", home=space.num_ranks - 1)
    if space.rank == 0:
        total.write(np.ones(1, np.float32))
    space.barrier()
    for number in range(8):
        if number % space.num_ranks == space.rank:
            space.gpu.wait(turn.address, number)
            space.launch(scale, 1, 1, total, 1, np.float32(2))
            space.gpu.signal(turn.address, number + 1)
    space.synchronize()
    space.barrier()
    assert total.read()[0] == 256


def bad_launches_are_named(space):
    array = space.empty(8, "float64")
    if space.segments.gpu is None:
        return
    with pytest.raises(ArgumentTypeError, match=r"host memory .* by a GPU"):
        space.launch(scale, 1, 1, np.zeros(4), 4, 1.0)
    with pytest.raises(KernelRefused, match="half_of"):
        space.launch(half_of, 1, 1, array)
    with pytest.raises(DeviceError, match="2048"):
        space.launch(scale, 1, 2048, array, 8, 1.0)
    with pytest.raises(ArgumentTypeError, match="no stream"):
        space.launch(scale, 1, 1, array, 8, 1.0, stream="main")
    space.synchronize()


def no_copies_are_kept_of_memory_of_gpus(space):
    for home in (*space.segments.map.gpu_ranks, "striped"):
        with pytest.raises(NotMappable, match=r"is a GPU's.*home=\"host\""):
            space.empty(8, "int64", home=home, cache="back")
    address = space.alloc(64, home="host", cache="back")
    space.store(address, 7, "int64")
    assert space.fetch_add(address, 1) == 7 and space.load(address, "int64") == 8
    space.free(address)


CHECKS = (
    one_source_on_every_device,
    all_devices_count_in_one_word,
    copies_go_in_the_order_of_a_stream,
    streams_signal_and_wait,
    ranks_take_turns_by_words,
    bad_launches_are_named,
    no_copies_are_kept_of_memory_of_gpus,
)


def ranks_without_peers(space):
    """GPUs that do not reach each other: no pointer, and the neighbour's agent for all the rest."""
    arrays = [space.shared(f"far-{home}", 4, "int64", home=home) for home in range(space.num_ranks)]
    far, near = arrays[1 - space.rank], arrays[space.rank]
    with pytest.raises(NotMappable, match="does not reach"):
        space.gpu_pointer(far.address, 8)
    with pytest.raises(NotMappable):
        space.launch(count, 1, 1, far, 1)
    space.store(far.address, 10 + space.rank, "int64")
    space.fetch_add(far.address_of(1), 5)
    far.write(np.concatenate([far.read()[:2], [7, 8]]))
    space.barrier()
    assert near.read().tolist() == [11 - space.rank, 5, 7, 8]


def streams_of_words(space):
    streams_signal_and_wait(space)
    ranks_take_turns_by_words(space)


def run_all(space):
    """Every check that has passed, in turn."""
    passed = []
    for check in CHECKS:
        check(space)
        space.barrier()
        passed.append(check.__name__)
    return passed


def peer_of_a_fault(space):
    """Rank 0's kernel stores where nothing is; rank 1 says how long it took to hear of it."""
    if space.rank == 0:
        space.launch(wild, 1, 1, 8)
        space.synchronize()
    start = time.monotonic()
    with pytest.raises(RankLost, match="rank 0"):
        space.barrier()
    return time.monotonic() - start


def peer_of_a_kernel_without_end(space):
    """Rank 0's kernel never ends, and rank 0 waits for half a second."""
    word = space.empty(1, "int64")
    space.store(word.address, 0, "int64")
    if space.rank == 0:
        space.launch(spin, 1, 1, word)
        with pytest.raises(WaitTimeout, match="kernels still run"):
            space.synchronize(timeout_s=0.5)
        raise WaitTimeout("a kernel without end")
    start = time.monotonic()
    with pytest.raises(RankLost, match="without end"):
        space.barrier()
    return time.monotonic() - start


def peer_of_a_killed_rank(space):
    """Rank 0 is killed while rank 1 asks for a word of its GPU."""
    word = space.shared("killed", 1, "int64", home=0)
    space.barrier()
    if space.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(RankLost, match="rank 0"):
        while True:
            space.load(word.address, "int64")
    return time.monotonic() - start
