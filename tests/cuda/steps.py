"""What the driver tests do, each in a process of its own on the fake driver: see conftest.run_steps."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from umem.errors import (
    AddressError,
    AlignmentError,
    ConfigError,
    DeviceError,
    DeviceMissing,
    SegmentTooLarge,
    WorldError,
)
from umem.memory.device import Device
from umem.memory.device.cuda import CudaDevice
from umem.memory.device.cuda_run import copy_in, copy_out

BASE = 0x2000_0000_0000
PIECE = 2 << 20
KINDS = ("handle", "mapping", "reservation", "context", "module")


def fake() -> ctypes.CDLL:
    library = ctypes.CDLL("libcuda.so.1")
    library.fake_cuda_trace.restype = ctypes.c_char_p
    return library


def calls() -> list[str]:
    """Names of the driver calls so far."""
    return fake().fake_cuda_trace().decode().split()


def num_open() -> dict[str, int]:
    """What the driver would still hold for this process."""
    return {kind: fake().fake_cuda_num_open(kind.encode()) for kind in KINDS}


@contextmanager
def device(ordinal: int = 0) -> Iterator[CudaDevice]:
    """A device that must leave nothing open."""
    opened = CudaDevice(ordinal)
    yield opened
    opened.close()
    assert num_open() == dict.fromkeys(KINDS, 0)


@contextmanager
def fresh_memory(gpu: CudaDevice, num_bytes: int) -> Iterator[tuple[int, int]]:
    """Memory of `gpu`, mapped by it: where it stands, and its descriptor."""
    fd = gpu.create(num_bytes, "umem-test")
    gpu.reserve(BASE, num_bytes)
    gpu.map(fd, BASE, num_bytes)
    yield gpu.pointer(BASE), fd
    os.close(fd)
    gpu.release_range(BASE, num_bytes)


def create_shares_and_maps_in_order():
    with device() as gpu:
        as_interface: Device = gpu
        assert as_interface.NAME == "cuda:0" and not as_interface.maps_at_offset
        before = len(calls())
        fd = gpu.create(PIECE, "umem-test")
        assert [name for name in calls()[before:] if name.startswith("cuMem")] == [
            "cuMemGetInfo",
            "cuMemCreate",
            "cuMemExportToShareableHandle",
            "cuMemRelease",
        ]
        gpu.reserve(BASE, 2 * PIECE)
        before = len(calls())
        gpu.map(fd, BASE, PIECE)
        assert calls()[before:] == [
            "cuMemImportFromShareableHandle",
            "cuMemMap",
            "cuMemRelease",
            "cuMemSetAccess",
        ]
        os.close(fd)
        copy_in(gpu, gpu.pointer(BASE), b"still there")
        assert copy_out(gpu, gpu.pointer(BASE), 11) == b"still there"


def translates_where_the_driver_moves_the_range():
    with device() as gpu:
        start = gpu.reserve(BASE, 2 * PIECE)
        assert start != BASE, "the fake driver follows no hint"
        assert gpu.pointer(BASE + 4097) == start + 4097
        assert gpu.address(start + 4097) == BASE + 4097
        for outside in (BASE - 1, BASE + 2 * PIECE):
            with pytest.raises(AddressError, match="no range"):
                gpu.pointer(outside)
        with pytest.raises(AddressError, match="no range"):
            gpu.address(start + 2 * PIECE)


def refuses_what_cuda_cannot_do():
    with device() as gpu:
        fd = gpu.create(2 * PIECE, "umem-test")
        gpu.reserve(BASE, 4 * PIECE)
        with pytest.raises(WorldError, match="in use"):
            gpu.reserve(BASE + PIECE, 4 * PIECE)
        with pytest.raises(ConfigError, match="from its start"):
            gpu.map(fd, BASE, PIECE, PIECE)
        with pytest.raises(AlignmentError):
            gpu.map(fd, BASE + 4096, PIECE)
        with pytest.raises(ConfigError, match="the unit of cuda:0"):
            gpu.create(4096, "umem-test")
        with pytest.raises(AddressError, match="no range"):
            gpu.map(fd, BASE + 4 * PIECE, PIECE)
        with pytest.raises(SegmentTooLarge, match="free"):
            gpu.create(1 << 40, "umem-test")
        gpu.map(fd, BASE, 2 * PIECE)
        with pytest.raises(DeviceError, match="cuMemMap returned CUDA_ERROR_INVALID_VALUE"):
            gpu.map(fd, BASE, PIECE)
        with pytest.raises(AddressError, match="partly"):
            gpu.unmap_to_reserved(BASE + PIECE, PIECE)
        with pytest.raises(AddressError, match="not the start"):
            gpu.release_range(BASE, PIECE)
        gpu.unmap_to_reserved(BASE, 4 * PIECE)
        gpu.map(fd, BASE + PIECE, 2 * PIECE)
        with pytest.raises(DeviceError, match="cuMemcpyDtoH"):
            copy_out(gpu, gpu.pointer(BASE), 8)
        os.close(fd)


def a_foreign_descriptor_is_refused():
    with device() as gpu:
        gpu.reserve(BASE, PIECE)
        foreign = os.memfd_create("no-gpu-memory")
        with pytest.raises(DeviceError, match="cuMemImportFromShareableHandle"):
            gpu.map(foreign, BASE, PIECE)
        os.close(foreign)


def memory_out_of_reach_is_refused_and_unmapped():
    other = CudaDevice(1)
    fd = other.create(PIECE, "umem-test")
    other.close()
    with device(0) as gpu:
        assert not gpu.peer(1).can_access and not gpu.peer(1).native_atomics
        gpu.reserve(BASE, PIECE)
        with pytest.raises(DeviceError, match="cuMemSetAccess"):
            gpu.map(fd, BASE, PIECE)
        assert num_open()["mapping"] == 0 and num_open()["handle"] == 0
    os.close(fd)


def peers_are_probed():
    with device() as gpu:
        print(gpu.peer(0), gpu.peer(1))


def missing_device():
    CudaDevice(7)


def try_to_open():
    """Print the typed error of a machine where no GPU can be used."""
    try:
        CudaDevice()
    except DeviceMissing as error:
        print(error)


def the_fake_refuses_what_the_documentation_forbids():
    """The evidence is worth something only if illegal sequences fail on the fake driver."""
    from cuda.bindings import driver

    invalid = driver.CUresult.CUDA_ERROR_INVALID_VALUE
    assert driver.cuDeviceGetCount()[0] == driver.CUresult.CUDA_ERROR_NOT_INITIALIZED
    with device() as gpu:
        fd = gpu.create(2 * PIECE, "umem-test")
        start = gpu.reserve(BASE, 2 * PIECE)
        descriptor = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        _, handle = driver.cuMemImportFromShareableHandle(fd, descriptor)
        assert driver.cuMemMap(start, PIECE, PIECE, handle, 0) == (invalid,), "an offset"
        assert driver.cuMemMap(start, 4 * PIECE, 0, handle, 0) == (invalid,), "longer than the memory"
        assert driver.cuMemSetAccess(start, PIECE, [driver.CUmemAccessDesc()], 1) == (invalid,), "not mapped"
        assert driver.cuMemMap(start, 2 * PIECE, 0, handle, 0)[0] == 0
        assert driver.cuMemUnmap(start, PIECE) == (invalid,), "part of a mapping"
        assert driver.cuMemAddressFree(start, 2 * PIECE) == (invalid,), "a range that is mapped"
        assert driver.cuMemcpyDtoH(bytearray(8), start, 8) == (invalid,), "before access was set"
        assert num_open()["handle"] == 1
        assert driver.cuMemUnmap(start, 2 * PIECE)[0] == 0
        assert driver.cuMemRelease(handle)[0] == 0
        assert driver.cuMemRelease(handle) == (invalid,), "released twice"
        os.close(fd)
