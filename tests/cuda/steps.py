"""What the driver tests do, each in a process of its own on the fake driver: see conftest.run_steps."""

from __future__ import annotations

import array
import ctypes
import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from umem.errors import (
    AddressError,
    AlignmentError,
    ConfigError,
    DeviceError,
    DeviceMissing,
    SegmentTooLarge,
    WaitTimeout,
    WorldError,
)
from umem.memory.device import Device
from umem.memory.device.cuda import CudaDevice
from umem.memory.device.cuda_run import Module, copy_in, copy_out, synchronize

if TYPE_CHECKING:
    from gpu_kernels import Kernel

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


def two_processes_see_one_memory():
    """Device 0 here, device 1 in a child; each writes what the other reads; then a real kernel copies it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with device(0) as gpu:
        fd = gpu.create(PIECE, "umem-test")
        gpu.reserve(BASE, PIECE)
        gpu.map(fd, BASE, PIECE)
        copy_in(gpu, gpu.pointer(BASE), bytes(range(256)))
        child = subprocess.Popen(
            [sys.executable, "-c", f"import steps; steps.child_on_device_1({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        socket.send_fds(ours, [b"memory"], [fd])
        os.close(fd)
        assert child.wait(timeout=90) == 0
        assert copy_out(gpu, gpu.pointer(BASE + 4096), 256) == bytes(range(256))


def child_on_device_1(socket_fd: int):
    """Map the parent's memory and copy its first bytes to 4096 behind them with the kernel umem ships."""
    received = socket.socket(fileno=socket_fd)
    _, (fd,), _, _ = socket.recv_fds(received, 16, 1)
    with device(1) as gpu:
        gpu.reserve(BASE, PIECE)
        gpu.map(fd, BASE, PIECE)
        os.close(fd)
        start = gpu.pointer(BASE)
        with compiled_copy(gpu) as (module, entry):
            module.launch(entry, [start + 4096, start, 256, 1 << 30], num_blocks=2, threads_per_block=8)
            synchronize(gpu, timeout_s=20)


@contextmanager
def compiled_copy(gpu: CudaDevice) -> Iterator[tuple[Module, str]]:
    """The copy kernel that umem ships: PTX and cubin by the real tools, its CPU twin for the fake driver."""
    from gpu_kernels import COPY

    from umem.kernels.build.cuda import cuda_cubin, cuda_ptx

    capability = gpu.properties.compute_capability
    ptx, entry = cuda_ptx(COPY.entry, "void(int64, int64, int64, int64)", capability)
    register_twin(entry, COPY)
    module = Module(gpu, cuda_cubin(ptx, capability))
    yield module, entry
    module.close()


def register_twin(entry: str, kernel: Kernel) -> None:
    """Let the fake driver run `kernel` when `entry` is launched: the same source, compiled for the CPU."""
    import numba
    from numba.core import types

    arguments = ", ".join(f"arguments[{i}][0]" for i in range(kernel.num_arguments))
    source = f"def twin(lane, num_lanes, arguments):\n    spread({arguments}, lane, num_lanes)\n"
    made: dict[str, Any] = {"spread": kernel.spread}
    exec(source, made)
    pointers = types.CPointer(types.CPointer(types.int64))
    twin = numba.cfunc(types.void(types.int64, types.int64, pointers))(made["twin"])
    twins.append(twin)  # its code lives as long as it does
    fake().fake_cuda_register_twin(entry.encode(), ctypes.c_void_p(twin.address))


twins: list[Any] = []


def the_gpu_check_passes():
    """scripts/gpu-check from end to end, also its second process."""
    import gpu_check

    gpu_check.Gpu.compiled = staticmethod(register_twin)
    gpu_check.CHILD = ["-c", "import sys, steps; steps.gpu_check_child(*map(int, sys.argv[1:]))"]
    assert gpu_check.main() == 0
    assert num_open() == dict.fromkeys(KINDS, 0)


def gpu_check_child(socket_fd: int, ordinal: int):
    import gpu_check

    gpu_check.Gpu.compiled = staticmethod(register_twin)
    gpu_check.run_child(socket_fd, ordinal)


def the_gpu_check_sees_a_broken_kernel():
    """A check that cannot fail proves nothing: break the kernel that it runs."""
    import gpu_check
    import numba

    @numba.njit
    def loses_additions(word, rounds, lane, num_lanes):
        return

    def register_broken(entry: str, kernel: Kernel) -> None:
        broken = dataclasses.replace(kernel, spread=loses_additions) if kernel is gpu_check.ADD else kernel
        register_twin(entry, broken)

    gpu_check.Gpu.compiled = staticmethod(register_broken)
    gpu = gpu_check.Gpu(0)
    assert not gpu_check.attempt("cuda:0", gpu_check.check_atomics, gpu)
    gpu.close()


def launches_refuse_what_cannot_run():
    with device() as gpu, compiled_copy(gpu) as (module, entry):
        with pytest.raises(DeviceError, match="no_such_kernel"):
            module.launch("no_such_kernel", [])
        with pytest.raises(DeviceError, match="2048 threads"):
            module.launch(entry, [0, 0, 0, 0], threads_per_block=2048)
        with pytest.raises(ConfigError, match="4 arguments and 1 types"):
            module.launch(entry, [0, 0, 0, 0], types=[ctypes.c_int64])
        with pytest.raises(DeviceError, match="INVALID_IMAGE"):
            Module(gpu, bytes(array.array("Q", [0] * 64)))

        os.environ["FAKE_CUDA_HANGS"] = "1"
        module.launch(entry, [0, 0, 0, 0])
        with pytest.raises(WaitTimeout, match=r"cuda:0.*0\.05 s"):
            synchronize(gpu, timeout_s=0.05)
        del os.environ["FAKE_CUDA_HANGS"]

        os.environ["FAKE_CUDA_KERNEL"] = "700"
        module.launch(entry, [0, 0, 0, 0])
        with pytest.raises(DeviceError, match="ILLEGAL_ADDRESS"):
            synchronize(gpu)


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
