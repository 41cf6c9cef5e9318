"""What ranks of test_pools.py do: torch's and CuPy's allocators over homes of GPU ranks, with stand-ins for both."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch_steps import Allocator

import umem
from umem.errors import CupyMissing, DeviceMissing, NotMappable, WorldError
from umem.torch import cuda_homes, install, use_gpu_pool
from umem.world.waiting import Deadline, until

MIB = 1 << 20


class MemPool:
    """torch.cuda.MemPool, which keeps nothing here."""

    def __init__(self, allocator, use_on_oom=False, no_split=False):
        self.allocator = allocator


def stand_in(ordinal):
    torch._C._cuda_customAllocator = Allocator
    torch.cuda.MemPool = MemPool
    torch.cuda.use_mem_pool = use_mem_pool
    torch.cuda.is_available, torch.cuda.current_device = lambda: True, lambda: ordinal


@contextlib.contextmanager
def use_mem_pool(pool, device):
    assert isinstance(pool, MemPool) and device == torch.cuda.current_device()
    yield


def is_gpu_rank(space):
    return space.segments.gpu is not None


def allocator_of(space, home):
    return cuda_homes.pieces_of_home(space, "refuse", home).mem_pool().allocator


def torch_takes_memory_of_every_home(space):
    install(space, at_close="refuse")
    if not is_gpu_rank(space):
        with pytest.raises(DeviceMissing, match="use_pool"):
            use_gpu_pool(home="local")
        with pytest.raises(WorldError, match="gpu_bytes"):
            use_gpu_pool()
        return
    ordinal = space.gpu.device.ordinal
    stand_in(ordinal)
    reach = space.segments.reach
    homes = ["local", "host"] + [r for r in range(space.num_ranks) if reach.by_gpu(r, 0)]
    with use_gpu_pool():
        pass
    for home in homes:
        allocator = allocator_of(space, home)
        pointers = [allocator.take(size, ordinal, 0) for size in (512, 2 * MIB, 3 * MIB)]
        addresses = [space.address(pointer) for pointer in pointers]
        wanted = space.rank if home in ("local", "host") else home
        assert {space.segments.map.home(address) for address in addresses} == {wanted}, home
        for address, pointer in zip(addresses, pointers, strict=True):
            assert pointer == space.gpu_pointer(address, 512)[1], "what the GPU dereferences"
            assert space.heap.find(address).owner == space.rank and pointer % 512 == 0
            given = np.arange(64, dtype=np.int32) + space.rank
            space.gpu.put(address, given)
            space.synchronize()
            found = np.zeros_like(given)
            space.get(found, address)
            assert np.array_equal(found, given), home
        if home == "local":
            assert allocator.take(512 * MIB, ordinal, 0) is None
            assert allocator.take(512, ordinal + 1, 0) is None, "another GPU"
        for pointer in pointers:
            allocator.give(pointer, 0, ordinal, 0)
        pieces = cuda_homes.pieces_of_home(space, "refuse", home)
        assert (pieces.num_live(), pieces.num_waiting(), pieces.num_kept()) == (0, 0, 0)
    with pytest.raises(NotMappable, match="by one pointer"):
        use_gpu_pool(home="striped")
    for rank in range(space.num_ranks):
        if not reach.by_gpu(rank, 0):
            with pytest.raises(NotMappable, match="does not reach"):
                use_gpu_pool(home=rank)


def a_piece_waits_for_its_stream_at_every_home(space):
    if not is_gpu_rank(space):
        return
    from steps import fake

    ordinal = space.gpu.device.ordinal
    stand_in(ordinal)
    stream = int(space.gpu.device.driver.call("cuStreamCreate", 1))
    for home in ("local", "host"):
        allocator, pieces = allocator_of(space, home), cuda_homes.pieces_of_home(space, "refuse", home)
        pointer = allocator.take(2 * MIB, ordinal, 0)
        assert fake().fake_cuda_hold(ctypes.c_void_p(stream)) == 0
        allocator.give(pointer, 2 * MIB, ordinal, stream)
        assert pieces.num_waiting() == 1 and space.heap.find(space.address(pointer))
        fake().fake_cuda_let_go()
        assert until(lambda held=pieces: None if held.num_waiting() else True, Deadline(20))
        with pytest.raises(umem.errors.NotAllocated):
            space.heap.find(space.address(pointer))


def the_space_stays_open_while_torch_has_memory(space):
    if is_gpu_rank(space):
        ordinal = space.gpu.device.ordinal
        stand_in(ordinal)
        pieces = cuda_homes.pieces_of_home(space, "refuse", "local")
        pointer = pieces.mem_pool().allocator.take(4096, ordinal, 0)
        with pytest.raises(WorldError, match="1 pieces"):
            pieces.before_close(False)
        pieces.mem_pool().allocator.give(pointer, 4096, ordinal, 0)
        assert pieces.num_waiting() == 0


def cupy_takes_memory_of_homes(space):
    sys.modules.pop("cupy", None)
    sys.modules["cupy"] = None
    with pytest.raises(CupyMissing):
        umem.cupy_allocator(space)
    pointers = []
    runtime = SimpleNamespace(CUDARuntimeError=MemoryError, errorMemoryAllocation=2)
    base = type("BaseMemory", (), {"ptr": 0, "size": 0, "device_id": -1})  # as CuPy's, which has them always
    cuda = SimpleNamespace(BaseMemory=base, MemoryPointer=lambda held, offset: held, runtime=runtime)
    sys.modules["cupy"] = SimpleNamespace(cuda=cuda)
    if not is_gpu_rank(space):
        with pytest.raises(DeviceMissing):
            umem.cupy_allocator(space)
        del sys.modules["cupy"]
        return
    for home in ("local", "host"):
        allocate = umem.cupy_allocator(space, home)
        pointers = [allocate(size) for size in (0, 100, 3 * MIB)]
        for held in pointers:
            assert space.pointer(held.address) == held.ptr and held.ptr % 512 == 0
            assert space.segments.map.home(held.address) == space.rank
        addresses = [held.address for held in pointers]
        with pytest.raises(MemoryError):
            allocate(1 << 40)
        del pointers, held
        for address in addresses:
            with pytest.raises(umem.errors.NotAllocated):
                space.heap.find(address)
    unreached = [r for r in range(space.num_ranks) if not space.segments.reach.by_gpu(r, 0)]
    for rank in unreached:
        with pytest.raises(NotMappable):
            umem.cupy_allocator(space, rank)(100)
    del sys.modules["cupy"]


CHECKS = [
    torch_takes_memory_of_every_home,
    a_piece_waits_for_its_stream_at_every_home,
    the_space_stays_open_while_torch_has_memory,
    cupy_takes_memory_of_homes,
]


def run_all(space):
    """Names of the checks that passed."""
    for check in CHECKS:
        check(space)
        space.barrier()
    return [check.__name__ for check in CHECKS]
