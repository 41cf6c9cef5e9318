"""What scripts/gpu-check answers first: questions about a GPU and its driver on which umem's design rests.

An answer is never a failure: umem has another way where it is "no".
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

from gpu_check import Gpu, addresses, check_host_additions, check_two_processes, memory
from gpu_isolated import Case
from gpu_kernels import ADD, PREFETCH

from umem.errors import DeviceError, UmemError
from umem.kernels.build.code_object import code_object
from umem.memory.device import host
from umem.memory.device.cuda_run import Module, synchronize


def hint(gpu: Gpu) -> str:
    """Whether a range stands where umem's addresses are; else pointers of GPUs differ by one offset."""
    address, num_bytes = next(addresses), gpu.granularity
    got = gpu.reserve(address, num_bytes)
    gpu.release_range(address, num_bytes)
    return "yes" if got == address else f"no: asked for {address:#x}, got {got:#x}; pointers are translated"


def two_processes(gpu: Gpu) -> str:
    """Whether memory travels between processes as a descriptor."""
    try:
        return f"yes: {check_two_processes(gpu)}"
    except AssertionError as error:
        return f"no: {error}"
    except DeviceError as error:
        if not error.call.startswith("cuMem"):
            raise
        return f"no: {error}"


def memfds(gpu: Gpu) -> str:
    """Whether kernels may use umem's host segments, which are memfds mapped at chosen addresses."""
    address, num_bytes = next(addresses), 4 << 20
    fd = host.create(num_bytes, "gpu-check")
    host.reserve(address, num_bytes)
    host.map(fd, address, num_bytes, 0)
    os.close(fd)
    gpu.make_current()
    constants = gpu.driver.constants
    flags = constants.CU_MEMHOSTREGISTER_PORTABLE | constants.CU_MEMHOSTREGISTER_DEVICEMAP
    try:
        gpu.driver.call("cuMemHostRegister", address, num_bytes, flags)
        seen = int(gpu.driver.call("cuMemHostGetDevicePointer", address, 0))
        gpu.driver.call("cuMemHostUnregister", address)
    except UmemError as error:
        return f"no: {error}; host segments are reached through the agent"
    finally:
        host.release_range(address, num_bytes)
    return "yes, at their own address" if seen == address else f"yes, but {address:#x} is seen at {seen:#x}"


def host_atomics(gpu: Gpu) -> str:
    """Which atomics on host memory the link carries out, by the driver's word and by counting."""
    names = gpu.driver.constants.CUdevice_attribute
    wanted = names.CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED
    native = bool(gpu.driver.call("cuDeviceGetAttribute", wanted, gpu._device))
    try:
        counted = check_host_additions(gpu)
    except AssertionError as error:
        counted = f"additions were lost: {error}"
    except UmemError as error:
        counted = f"not counted: {error}"
    return f"{'all' if native else 'none'} by the driver's attribute{_each_atomic(gpu)}; {counted}"


def _each_atomic(gpu: Gpu) -> str:
    """What a driver of CUDA 13 says of each operation on host memory; nothing from an older one."""
    constants = gpu.driver.constants
    operations = getattr(constants, "CUatomicOperation", None)
    if operations is None or not hasattr(constants, "cuDeviceGetHostAtomicCapabilities"):
        return ""
    try:
        each = list(operations)
        call = "cuDeviceGetHostAtomicCapabilities"
        told = gpu.driver.call(call, each, len(each), gpu._device)
    except (DeviceError, RuntimeError) as error:  # cuda.bindings finds no such function in the driver
        return f" (of single operations: {' '.join(str(error).split())})"
    found = zip(each, told, strict=False)
    return ", " + ", ".join(f"{one.name.rpartition('_')[2].lower()} {int(bits):#x}" for one, bits in found)


def cubins(gpu: Gpu) -> str:
    """Which images of one code object the driver loads, each by itself, and what it takes of all together."""
    code = code_object(ADD.entry, "void(int64, int64)")
    images = {f"sm_{major}{minor}": cubin for (major, minor), cubin in code.cubins.items()}
    images |= {f"PTX {code.ptx_version}": code.ptx.encode() + b"\0", "all in one": code.fatbin}
    told = []
    for name, image in images.items():
        try:
            Module(gpu, image).close()
            told.append(f"{name} yes")
        except DeviceError as error:
            told.append(f"{name} {error.status.removeprefix('CUDA_ERROR_').lower()}")
    return ", ".join(told)


def prefetch(gpu: Gpu) -> str:
    """Whether a hint about memory that is not there is an error of the kernel; umem's kernels give such hints."""
    told, reserved = [], next(addresses)
    start = gpu.reserve(reserved, gpu.granularity)
    with memory([gpu], gpu.granularity) as (known,):
        gpu.start(PREFETCH, known)
        synchronize(gpu, 10)
        for name, address in (("reserved", start), ("of nothing", 1 << 44)):
            gpu.start(PREFETCH, address)
            try:
                synchronize(gpu, 10)
                told.append(f"{name}: no")
            except DeviceError as error:
                return ", ".join([*told, f"{name}: yes, {error.status}"])
    gpu.release_range(reserved, gpu.granularity)
    return ", ".join(told)


QUESTIONS: dict[str, Callable[[Gpu], str]] = {
    "is the address hint honoured": hint,
    "do two processes share by descriptor on one GPU": two_processes,
    "can memfds be registered": memfds,
    "which host atomics are native": host_atomics,
    "do the cubins load on this driver": cubins,
    "does a prefetch of unmapped addresses fault": prefetch,
}


def cases(gpus: list[Gpu]) -> list[Case]:
    """Each question to each GPU; what may lose the device comes last, and alone."""
    return [
        Case(name, gpu.NAME, functools.partial(ask, gpu), 45, is_question=True, is_last=ask is prefetch)
        for name, ask in QUESTIONS.items()
        for gpu in gpus
    ]
