"""What the tests of umem.torch on a GPU do, each in a fork of one process that has imported torch.

The driver is the fake one, and torch's CUDA side, which a torch without CUDA lacks, a stand-in here: it keeps
what torch keeps and calls what torch calls, through the signatures that torch documents for allocators.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from forked import run_each
from steps import KINDS, fake, num_open

import umem
from umem.errors import ConfigError, DeviceMissing, SegmentTooLarge, WorldError
from umem.kernels.build.compile import load_all
from umem.torch import cuda as subject
from umem.torch import install, use_gpu_pool
from umem.torch.cuda_callbacks import MAX_WAITING

MIB = 1 << 20
GPU_BYTES = 64 * MIB
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


class Streams:
    """Two streams of GPU 0, made with its pool."""

    this = other = 0


class Allocator:
    """torch._C._cuda_customAllocator: two addresses, called as torch calls them."""

    def __init__(self, take: int, give: int):
        void = ctypes.c_void_p
        self.take = ctypes.CFUNCTYPE(void, ctypes.c_size_t, ctypes.c_int, void)(take)
        self.give = ctypes.CFUNCTYPE(None, void, ctypes.c_size_t, ctypes.c_int, void)(give)


class MemPool:
    """torch.cuda.MemPool: gives up what it keeps when it goes."""

    def __init__(self, allocator: Allocator, use_on_oom: bool = False, no_split: bool = False):
        assert no_split, "a tensor has a piece of its own"
        self.allocator = allocator
        self.kept: list[int] = []

    def __del__(self) -> None:
        for pointer in self.kept:
            self.allocator.give(pointer, 2 * MIB, 0, Streams.this)


@contextmanager
def use_mem_pool(pool: MemPool, device: int) -> Iterator[None]:
    assert isinstance(pool, MemPool) and device == 0
    entered.append(pool)
    yield
    entered.pop()


entered: list[MemPool] = []


@contextmanager
def installed(timeout_s: float = 20, **options: object) -> Iterator[tuple[subject.GpuPool, Allocator]]:
    """A space of one rank with memory of GPU 0, which must leave nothing open."""
    torch._C._cuda_customAllocator = Allocator
    torch.cuda.MemPool, torch.cuda.use_mem_pool = MemPool, use_mem_pool
    torch.cuda.is_available, torch.cuda.current_device = lambda: True, lambda: 0
    with umem.init(umem.WorldSpec.of(1, "mapped", segment="32M", timeout_s=timeout_s)) as space:
        install(space, gpu_bytes=GPU_BYTES, **{"at_close": "refuse", **options})
        pool = subject._gpu_pool
        assert pool is not None
        pool.device.make_current()
        make = pool.device.driver.call
        Streams.this, Streams.other = (int(make("cuStreamCreate", NON_BLOCKING)) for _ in range(2))
        yield pool, pool.mem_pool().allocator
    assert num_open() | {"event": 0} == dict.fromkeys([*KINDS, "event"], 0)


def num_events() -> int:
    return int(fake().fake_cuda_num_open(b"event"))


def keep_busy(stream: int | None) -> None:
    """`stream` has work to do from here on; None: all streams have done theirs."""
    if stream is None:
        fake().fake_cuda_let_go()
    else:
        assert fake().fake_cuda_hold(ctypes.c_void_p(stream)) == 0


def take_all(allocator: Allocator, num_bytes: int = 2 * MIB) -> list[int]:
    pieces = []
    while pointer := allocator.take(num_bytes, 0, Streams.other):
        pieces.append(pointer)
    return pieces


def give_all(allocator: Allocator, pieces: list[int]) -> None:
    for pointer in pieces:
        allocator.give(pointer, 2 * MIB, 0, Streams.other)


def torch_is_given_memory_of_the_gpu():
    with installed() as (pool, allocator):
        with use_gpu_pool():
            assert entered == [pool.mem_pool()]
        sizes = [512, 2 * MIB, 5 * MIB, 20 * MIB]
        pieces = [allocator.take(size, 0, Streams.this) for size in sizes]
        for pointer, size in zip(pieces, sizes, strict=True):
            assert pool.holds(pointer) and pool.holds(pointer + size - 1) and pointer % 512 == 0
            ctypes.memset(pointer, 7, size)
        spans = sorted((start, start + size) for start, size in zip(pieces, sizes, strict=True))
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
        assert pool.num_live() == len(sizes)
        assert allocator.take(GPU_BYTES, 0, Streams.this) is None, "torch makes OutOfMemoryError of it"
        assert allocator.take(512, 1, Streams.this) is None, "a GPU that umem has no memory of"
        give_all(allocator, pieces)
        assert pool.num_live() == pool.num_waiting() == pool.num_kept() == num_events() == 0
        whole = allocator.take(GPU_BYTES, 0, Streams.this)
        assert whole == pool.pointer, "all is one piece again"
        give_all(allocator, [whole])


def memory_waits_for_the_stream_that_used_it():
    with installed(timeout_s=0.2) as (pool, allocator):
        pieces = take_all(allocator)
        keep_busy(Streams.this)
        used, unused = pieces.pop(), pieces.pop()
        allocator.give(used, 2 * MIB, 0, Streams.this)
        allocator.give(unused, 2 * MIB, 0, Streams.other)
        assert allocator.take(2 * MIB, 0, Streams.other) == unused, "its own stream had nothing to do"
        assert allocator.take(2 * MIB, 0, Streams.other) is None, "after the time-out"
        assert allocator.take(2 * MIB, 0, Streams.this) is None
        assert pool.num_waiting() == num_events() == 1
        keep_busy(None)
        assert allocator.take(2 * MIB, 0, Streams.other) == used
        assert num_events() == 0
        give_all(allocator, [*pieces, used, unused])


def work_after_the_free_is_not_waited_for():
    with installed() as (_, allocator):
        piece = allocator.take(GPU_BYTES, 0, Streams.this)
        allocator.give(piece, GPU_BYTES, 0, Streams.this)
        keep_busy(Streams.this)
        assert allocator.take(GPU_BYTES, 0, Streams.other) == piece
        give_all(allocator, [piece])


def a_full_gpu_waits_for_what_is_under_way():
    with installed() as (_, allocator):
        piece = allocator.take(GPU_BYTES, 0, Streams.this)
        keep_busy(Streams.this)
        allocator.give(piece, GPU_BYTES, 0, Streams.this)
        threading.Timer(0.3, keep_busy, [None]).start()
        started_s = time.monotonic()
        assert allocator.take(GPU_BYTES, 0, Streams.other) == piece
        assert time.monotonic() - started_s > 0.2
        give_all(allocator, [piece])


def more_may_wait_than_the_table_holds():
    with installed(timeout_s=0.2) as (pool, allocator):
        pieces = take_all(allocator, 4096)
        assert len(pieces) > MAX_WAITING
        keep_busy(Streams.this)
        for pointer in pieces[: MAX_WAITING + 1]:
            allocator.give(pointer, 4096, 0, Streams.this)
        assert (pool.num_waiting(), pool.num_kept()) == (MAX_WAITING, 1)
        keep_busy(None)
        give_all(allocator, pieces[MAX_WAITING + 1 :])
        assert pool.num_live() == pool.num_waiting() == 0
        pool._words[subject.callbacks.GPU_NUM_KEPT] = 0  # so that the space may close


def memory_without_an_event_is_never_given_out_again():
    os.environ["FAKE_CUDA_EVENTS"] = "2"
    with pytest.raises(WorldError, match="1 pieces of cuda:0"), installed() as (pool, allocator):
        piece = allocator.take(2 * MIB, 0, Streams.this)
        give_all(allocator, [piece])
        assert (pool.num_live(), pool.num_waiting(), pool.num_kept()) == (0, 0, 1)
        assert piece not in take_all(allocator) and pool.num_live() == 31
        pool._words[subject.callbacks.GPU_NUM_LIVE] = 0


def threads_take_and_give_at_once():
    with installed() as (pool, allocator):
        wrong = []

        def work(seed: int) -> None:
            rng, held = random.Random(seed), {}
            for _ in range(2000):
                size = rng.choice((512, 8192, MIB, 2 * MIB))
                pointer = (
                    allocator.take(size, 0, rng.choice((Streams.this, Streams.other)))
                    if len(held) < 4
                    else None
                )
                if pointer is not None:
                    ctypes.memset(pointer, seed, 512)
                    held[pointer] = size
                elif held:
                    pointer, size = held.popitem()
                    if ctypes.string_at(pointer, 512) != bytes([seed]) * 512:
                        wrong.append(seed)
                    allocator.give(pointer, size, 0, rng.choice((Streams.this, Streams.other)))
            for pointer, size in held.items():
                allocator.give(pointer, size, 0, Streams.this)

        keep_busy(None)
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert wrong == [] and pool.num_live() == pool.num_waiting() == pool.num_kept() == num_events() == 0


def closing_is_refused_while_torch_has_memory():
    with installed() as (pool, allocator):
        tensor = allocator.take(2 * MIB, 0, Streams.this)
        pool.mem_pool().kept.append(allocator.take(2 * MIB, 0, Streams.this))
        with pytest.raises(WorldError, match="1 pieces of cuda:0 are in use by torch"):
            pool.space.close()
        assert pool.space.is_open and pool.num_live() == 1, "what torch only kept is given up"
        give_all(allocator, [tensor])


def detached_memory_stays():
    with installed(at_close="detach") as (pool, allocator):
        tensor = allocator.take(2 * MIB, 0, Streams.this)
        pool.space.close()
        ctypes.memset(tensor, 1, 2 * MIB)
        allocator.give(tensor, 2 * MIB, 0, Streams.this)
        assert allocator.take(2 * MIB, 0, Streams.this) is None
        pool.device.close()


def sizes_and_order_are_checked():
    with installed() as (pool, _):
        install(pool.space, gpu_bytes="64M")
        assert subject._gpu_pool is pool
        with pytest.raises(ConfigError, match="64M already"):
            install(pool.space, gpu_bytes="128M")
        with pytest.raises(ConfigError, match="above 0"):
            install(pool.space, gpu_bytes=0)
    with pytest.raises(WorldError, match=r"install\(space\)"):
        use_gpu_pool()
    with umem.init(umem.WorldSpec.of(1, "mapped", segment="32M", timeout_s=20)) as space:
        install(space)
        with pytest.raises(WorldError, match="gpu_bytes"):
            use_gpu_pool()
        with pytest.raises(SegmentTooLarge, match="free"):
            install(space, gpu_bytes="1T")
        torch.cuda.is_available = lambda: False
        with pytest.raises(DeviceMissing, match="built without CUDA"):
            install(space, gpu_bytes="64M")


STEPS = (
    torch_is_given_memory_of_the_gpu,
    memory_waits_for_the_stream_that_used_it,
    work_after_the_free_is_not_waited_for,
    a_full_gpu_waits_for_what_is_under_way,
    more_may_wait_than_the_table_holds,
    memory_without_an_event_is_never_given_out_again,
    threads_take_and_give_at_once,
    closing_is_refused_while_torch_has_memory,
    detached_memory_stays,
    sizes_and_order_are_checked,
)


def run_all():
    load_all()
    run_each(STEPS)
