"""Code objects on the driver: it picks from a fatbin as NVIDIA's does, and what it picks runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from launch_steps import copy_code
from steps import BASE, PIECE, device, fake

from umem.errors import DeviceTooOld, DriverTooOld
from umem.memory.device.cuda import CudaDevice
from umem.memory.device.cuda_run import Module, copy_in, copy_out, synchronize

CUDA_13_0, CUDA_13_5 = 13000, 13050  # the second wrote the PTX


@contextmanager
def gpu_of(capability: int, driver: int) -> Iterator[CudaDevice]:
    """A device of another kind, or of another driver."""
    os.environ |= {"FAKE_CUDA_CAPABILITY": str(capability), "FAKE_CUDA_DRIVER": str(driver)}
    with device() as gpu:
        yield gpu


def the_driver_takes_what_it_knows():
    code = copy_code()
    for capability, driver, took_ptx in (
        (90, CUDA_13_0, False),
        (86, CUDA_13_0, False),
        (103, CUDA_13_0, False),
        (120, CUDA_13_5, True),
    ):
        with gpu_of(capability, driver) as gpu:
            Module(gpu, code).close()
            assert fake().fake_cuda_took_ptx() == took_ptx, capability
            assert took_ptx == code.for_device(gpu.properties.compute_capability).startswith(b"//")
    with (
        gpu_of(75, CUDA_13_5) as gpu,
        pytest.raises(DeviceTooOld, match=r"cuda_copy .* 8\.0 .* 7\.5: use a"),
    ):
        Module(gpu, code)
    with gpu_of(120, CUDA_13_0) as gpu, pytest.raises(DriverTooOld, match="UNSUPPORTED_PTX") as refused:
        Module(gpu, code)
    assert "cuda:0 does not know the code of kernel umem.kernels.data.copy.cuda_copy" in str(refused.value)
    assert "newer than the driver's 13.0" in str(refused.value)


def every_kind_of_image_loads():
    code = copy_code()
    with gpu_of(90, CUDA_13_5) as gpu, copied(gpu) as check:
        for image in (code, code.fatbin, code.ptx.encode() + b"\0"):
            module = Module(gpu, image)
            check(module, code.entry)
            module.close()


@contextmanager
def copied(gpu: CudaDevice) -> Iterator[Callable[[Module, str], None]]:
    """A check that a module's copy kernel copies."""
    fd = gpu.create(PIECE, "umem-test")
    gpu.reserve(BASE, PIECE)
    gpu.map(fd, BASE, PIECE)
    os.close(fd)
    start = gpu.pointer(BASE)

    def check(module: Module, entry: str) -> None:
        data = os.urandom(256)
        copy_in(gpu, start, data)
        module.launch(entry, [start + 4096, start, 256, 1 << 30], num_blocks=2, threads_per_block=8)
        synchronize(gpu, timeout_s=20)
        assert copy_out(gpu, start + 4096, 256) == data

    yield check
    gpu.release_range(BASE, PIECE)
