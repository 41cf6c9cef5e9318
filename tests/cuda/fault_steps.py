"""What goes wrong on a GPU: faults that stay, waits without end, memory out of reach, handles that are none."""

from __future__ import annotations

import ctypes
import mmap
import os
import time

import fault_kernels as kernels
import pytest
from arena import MIB, Arena, arena, options
from cuda.bindings import driver
from forked import run_each
from ptx_text import ptx_of

from umem.errors import DeviceError, SegmentTooLarge, WaitTimeout
from umem.memory.device.cuda import CudaDevice
from umem.memory.device.cuda_run import copy_in, copy_out, synchronize

RESULT = driver.CUresult
DEVICE_MAP = 2


def status_of(call: tuple) -> RESULT:
    return call[0]


def stays_and_is_the_device_s_own(expected: RESULT) -> None:
    """The fault of device 0 is every later call's status there, device 1 works on, and a reset forgets it."""
    assert status_of(driver.cuStreamQuery(0)) == expected
    assert status_of(driver.cuCtxSynchronize()) == expected
    assert status_of(driver.cuStreamCreate(0)) == expected
    assert status_of(driver.cuMemcpyDtoH(bytearray(8), 0, 8)) == expected
    with arena(1) as other:
        other.run(kernels.store_at, other[0], 8, 7)
        assert other.words(other[0] + 8, 1)[0] == 7
    driver.cuCtxSetCurrent(driver.cuDevicePrimaryCtxRetain(0)[1])
    driver.cuDevicePrimaryCtxRelease(0)
    assert status_of(driver.cuDevicePrimaryCtxReset(0)) == RESULT.CUDA_SUCCESS
    assert status_of(driver.cuCtxSynchronize()) == RESULT.CUDA_SUCCESS


def misaligned() -> None:
    with arena() as gpu:
        with pytest.raises(DeviceError, match="MISALIGNED_ADDRESS"):
            gpu.run(kernels.store_at, gpu[0], 4, 7)
        stays_and_is_the_device_s_own(RESULT.CUDA_ERROR_MISALIGNED_ADDRESS)


def wild() -> None:
    """Also where every thread of many blocks does it."""
    for blocks, threads in ((1, 1), (16, 64)):
        with arena() as gpu:
            with pytest.raises(DeviceError, match="ILLEGAL_ADDRESS"):
                gpu.run(kernels.store_at, gpu[0], 1 << 46, 7, blocks=blocks, threads=threads)
            stays_and_is_the_device_s_own(RESULT.CUDA_ERROR_ILLEGAL_ADDRESS)


def wild_under_weak_memory() -> None:
    """A store that waits in a buffer is an error of the thread that stored; a fault keeps no lock of the driver."""
    with options(FAKE_CUDA_WEAK=1), arena() as gpu:
        for kernel in (kernels.store_at, kernels.load_at):
            with pytest.raises(DeviceError, match="ILLEGAL_ADDRESS"):
                gpu.run(kernel, gpu[0], 1 << 46, 7)
            driver.cuDevicePrimaryCtxReset(0)
            gpu.run(kernels.store_at, gpu[0], 0, 7)
            gpu.run(kernels.load_at, gpu[0], 0, 7)


def what_may_only_be_read() -> None:
    """A grant to read is none to write."""
    access = driver.CUmemAccessDesc()
    access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READ
    for mode in ({}, {"FAKE_CUDA_WEAK": 1}, {"FAKE_CUDA_STRICT": 1}):
        with options(**mode), arena() as gpu:
            assert (
                status_of(driver.cuMemSetAccess(gpu[0], gpu.region_bytes, [access], 1)) == RESULT.CUDA_SUCCESS
            )
            gpu.run(kernels.load_at, gpu[0], 0, 7)
            with pytest.raises(DeviceError, match="ILLEGAL_ADDRESS"):
                gpu.run(kernels.store_at, gpu[0], 0, 7)
            driver.cuDevicePrimaryCtxReset(0)


def trap() -> None:
    text, entry = ptx_of(kernels.store_at, 3)
    end = text.rindex("ret;")
    with arena() as gpu:
        with pytest.raises(DeviceError, match="ILLEGAL_INSTRUCTION"):
            gpu.run_ptx(text[:end] + "trap;\n" + text[end:], entry, gpu[0], 0, 7)
        driver.cuDevicePrimaryCtxReset(0)


def blocks_that_are_not_resident() -> None:
    """A barrier over more blocks than run at once never ends; a cooperative launch of them is refused."""
    with arena() as gpu:
        gpu.run(kernels.grid_barrier, gpu[0], blocks=64, threads=32)
        gpu.clear()
        with options(FAKE_CUDA_RESIDENT=63):
            gpu.start(kernels.grid_barrier, gpu[0], blocks=64, threads=32)
            started_s = time.monotonic()
            with pytest.raises(WaitTimeout, match=r"cuda:0.*0\.5 s"):
                synchronize(gpu.gpu, timeout_s=0.5)
            assert time.monotonic() - started_s < 5
            assert gpu_launches_cooperatively(gpu, 63) == RESULT.CUDA_SUCCESS
            assert gpu_launches_cooperatively(gpu, 64) == RESULT.CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE
        assert status_of(driver.cuDevicePrimaryCtxReset(0)) == RESULT.CUDA_SUCCESS, "ends what still runs"
        gpu.clear()
        gpu.run(kernels.grid_barrier, gpu[0], blocks=64, threads=32)


def gpu_launches_cooperatively(gpu: Arena, blocks: int) -> RESULT:
    text, entry = ptx_of(kernels.grid_barrier, 1)
    module = gpu.modules[text, os.environ.get("FAKE_CUDA_WEAK", ""), os.environ.get("FAKE_CUDA_STRICT", "")]
    function = gpu.gpu.driver.call("cuModuleGetFunction", module._module, entry.encode())
    shape = (blocks, 1, 1, 32, 1, 1, 0, 0)
    return status_of(driver.cuLaunchCooperativeKernel(function, *shape, ((gpu[0],), (ctypes.c_int64,))))


def only_what_was_given() -> None:
    """Strict: no pointer into this process, before it is registered and after; no peer's memory without a grant."""
    with mmap.mmap(-1, MIB) as room, options(FAKE_CUDA_STRICT=1):
        start = ctypes.addressof(ctypes.c_char.from_buffer(room))
        with arena() as gpu:
            with pytest.raises(DeviceError, match="ILLEGAL_ADDRESS"):
                gpu.run(kernels.store_at, start, 0, 7)
            assert room[0] == 0
            driver.cuDevicePrimaryCtxReset(0)
            assert status_of(driver.cuMemHostRegister(start, MIB, DEVICE_MAP)) == RESULT.CUDA_SUCCESS
            again = driver.cuMemHostRegister(start + 4096, 4096, DEVICE_MAP)
            assert status_of(again) == RESULT.CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED
            gpu.run(kernels.store_at, start, 0, 7)
            assert room[0] == 7
            assert status_of(driver.cuMemHostUnregister(start)) == RESULT.CUDA_SUCCESS
            twice = driver.cuMemHostUnregister(start)
            assert status_of(twice) == RESULT.CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED
            with pytest.raises(DeviceError, match="ILLEGAL_ADDRESS"):
                gpu.run(kernels.store_at, start, 0, 8)
            driver.cuDevicePrimaryCtxReset(0)

            peer = CudaDevice(1)
            with pytest.raises(DeviceError, match="ILLEGAL_ADDRESS"):
                stranger = Arena(peer, num_regions=0)
                stranger.run(kernels.store_at, gpu[0], 0, 7)
            driver.cuDevicePrimaryCtxReset(1)
            guest = Arena.of_peer(peer, gpu)
            guest.run(kernels.store_at, guest[0], 0, 7)
            assert gpu.words(gpu[0], 1)[0] == 7


def out_of_memory() -> None:
    """Of one device, also what is only mapped or held by a descriptor counts; what is given back can be had again."""
    piece = 8 * MIB
    with options(FAKE_CUDA_MEMORY=16):
        gpu, other = CudaDevice(0), CudaDevice(1)
        fds = [gpu.create(piece, "umem-test") for _ in range(2)]
        with pytest.raises(SegmentTooLarge, match="0 free"):
            gpu.create(piece, "umem-test")
        os.close(other.create(piece, "umem-test"))
        gpu.reserve(1 << 44, piece)
        gpu.map(fds[0], 1 << 44, piece)
        for fd in fds:
            os.close(fd)
        assert gpu.free_bytes() == piece
        assert status_of(driver.cuMemAlloc(2 * piece)) == RESULT.CUDA_ERROR_OUT_OF_MEMORY
        status, pointer = driver.cuMemAlloc(piece)
        assert status == RESULT.CUDA_SUCCESS and gpu.free_bytes() == 0
        assert status_of(driver.cuMemFree(pointer)) == RESULT.CUDA_SUCCESS
        assert status_of(driver.cuMemFree(pointer)) == RESULT.CUDA_ERROR_INVALID_VALUE
        gpu.release_range(1 << 44, piece)
        assert gpu.free_bytes() == 2 * piece


def handles_that_are_none() -> None:
    with arena() as gpu:
        gpu.run(kernels.store_at, gpu[0], 0, 7)
        invalid, stream = RESULT.CUDA_ERROR_INVALID_HANDLE, gpu.gpu.driver.call("cuStreamCreate", 1)
        assert status_of(driver.cuStreamQuery(0x7000)) == invalid
        assert status_of(driver.cuStreamDestroy(stream)) == RESULT.CUDA_SUCCESS
        assert status_of(driver.cuStreamQuery(stream)) == invalid
        event = gpu.gpu.driver.call("cuEventCreate", 0)
        assert status_of(driver.cuEventDestroy(event)) == RESULT.CUDA_SUCCESS
        assert status_of(driver.cuEventQuery(event)) == invalid
        (module,) = gpu.modules.values()
        module.close()
        assert status_of(driver.cuModuleGetFunction(module._module, b"any")) == invalid
        gpu.modules.clear()
        other = CudaDevice(1)
        other.make_current()
        theirs = other.driver.call("cuStreamCreate", 1)
        gpu.gpu.make_current()
        assert status_of(driver.cuEventElapsedTime(event, event)) == invalid
        other.make_current()
        assert status_of(driver.cuStreamDestroy(theirs)) == RESULT.CUDA_SUCCESS
        other.close()
        assert status_of(driver.cuCtxSetCurrent(0x99)) == RESULT.CUDA_ERROR_INVALID_CONTEXT


def streams_run_in_order() -> None:
    """Work of a stream in turn, of two at once; an event orders them; the default stream waits for blocking ones."""
    held = ctypes.CDLL("libcuda.so.1")
    with arena() as gpu:
        call = gpu.gpu.driver.call
        word = gpu[0]
        first, second, blocking = (
            call("cuStreamCreate", 1),
            call("cuStreamCreate", 1),
            call("cuStreamCreate", 0),
        )
        event = call("cuEventCreate", 0)
        assert held.fake_cuda_hold(ctypes.c_void_p(int(first))) == 0
        call("cuMemsetD8Async", word, 1, 8, first)
        call("cuEventRecord", event, first)
        call("cuMemsetD8Async", word + 64, 2, 8, second)
        call("cuStreamSynchronize", second)
        assert copy_out(gpu.gpu, word, 1) == b"\0", "the first stream is held"
        assert copy_out(gpu.gpu, word + 64, 1) == b"\2"
        assert status_of(driver.cuEventQuery(event)) == RESULT.CUDA_ERROR_NOT_READY
        call("cuStreamWaitEvent", second, event, 0)
        call("cuMemcpyDtoDAsync", word + 64, word, 8, second)
        assert status_of(driver.cuStreamQuery(second)) == RESULT.CUDA_ERROR_NOT_READY
        held.fake_cuda_let_go()
        call("cuStreamSynchronize", second)
        assert copy_out(gpu.gpu, word + 64, 8) == b"\1" * 8
        assert status_of(driver.cuEventQuery(event)) == RESULT.CUDA_SUCCESS

        assert held.fake_cuda_hold(ctypes.c_void_p(int(blocking))) == 0
        gpu.start(kernels.store_at, word, 0, 9, blocks=1, threads=1)
        assert status_of(driver.cuStreamQuery(0)) == RESULT.CUDA_ERROR_NOT_READY
        held.fake_cuda_let_go()
        synchronize(gpu.gpu, timeout_s=5)
        assert gpu.words(word, 1)[0] == 9
        copy_in(gpu.gpu, word, bytes(8))


STEPS = (
    misaligned,
    wild,
    wild_under_weak_memory,
    what_may_only_be_read,
    trap,
    blocks_that_are_not_resident,
    only_what_was_given,
    out_of_memory,
    handles_that_are_none,
    streams_run_in_order,
)


def run_all() -> None:
    run_each(STEPS)
