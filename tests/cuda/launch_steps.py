"""What tests of kernels on the driver do, each in a process of its own: launches, two processes, scripts/gpu-check."""

from __future__ import annotations

import array
import ctypes
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from ptx_text import image, ptx_of
from steps import BASE, KINDS, PIECE, device, fresh_memory, num_open

from umem.errors import ConfigError, DeviceError
from umem.memory.device.cuda import CudaDevice
from umem.memory.device.cuda_run import Module, copy_in, copy_out, synchronize

if TYPE_CHECKING:
    from umem.kernels.build.code_object import CodeObject


def two_processes_see_one_memory():
    """Device 0 here, device 1 in a child; each writes what the other reads; then a real kernel copies it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with device(0) as gpu:
        fd = gpu.create(PIECE, "umem-test")
        gpu.reserve(BASE, PIECE)
        gpu.map(fd, BASE, PIECE)
        copy_in(gpu, gpu.pointer(BASE), bytes(range(256)))
        child = subprocess.Popen(
            [sys.executable, "-c", f"import launch_steps; launch_steps.child_on_device_1({theirs.fileno()})"],
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


def two_processes_share_a_lock_of_one_device():
    """Kernels of both, at once, under weak memory: plain additions under the lock are all there."""
    from gpu_kernels import COUNT

    os.environ["FAKE_CUDA_WEAK"], os.environ["FAKE_CUDA_SWITCH"] = "1", "5"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with device(0) as gpu, fresh_memory(gpu, PIECE) as (start, fd):
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import launch_steps; launch_steps.child_under_the_lock({theirs.fileno()})",
            ],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        socket.send_fds(ours, [b"memory"], [fd])
        assert ours.recv(16) == b"ready"
        ours.send(b"go")
        count_under_lock(gpu, start)
        assert child.wait(timeout=90) == 0
        words = array.array("q", copy_out(gpu, start, 8 * (COUNT + 1)))
        assert words[COUNT] == 2 * 8 * 100, words[COUNT]


def child_under_the_lock(socket_fd: int):
    parent = socket.socket(fileno=socket_fd)
    _, (fd,), _, _ = socket.recv_fds(parent, 16, 1)
    with device(0) as gpu:
        gpu.reserve(BASE, PIECE)
        gpu.map(fd, BASE, PIECE)
        os.close(fd)
        parent.send(b"ready")
        assert parent.recv(16) == b"go"
        count_under_lock(gpu, gpu.pointer(BASE))


def count_under_lock(gpu: CudaDevice, start: int) -> None:
    from gpu_kernels import LOCK

    ptx, entry = ptx_of(LOCK.entry, LOCK.num_arguments)
    module = Module(gpu, image(ptx))
    module.launch(entry, [start, 100], num_blocks=8)
    synchronize(gpu, timeout_s=60)
    module.close()


def ptx_of_copy() -> tuple[str, str]:
    from umem.kernels.data.copy import cuda_copy

    return ptx_of(cuda_copy, 4)


@contextmanager
def compiled_copy(gpu: CudaDevice) -> Iterator[tuple[Module, str]]:
    """The copy kernel that umem ships."""
    code = copy_code()
    module = Module(gpu, code)
    yield module, code.entry
    module.close()


def copy_code() -> CodeObject:
    from umem.kernels.build.code_object import code_object
    from umem.kernels.data.copy import cuda_copy

    return code_object(cuda_copy, "void(int64, int64, int64, int64)")


def real_compilers():
    """What no cache may hide: PTX and cubin of a kernel by the real tools; the driver has no binary for cubins."""
    from umem.kernels.build.cuda import cuda_cubin, cuda_ptx
    from umem.kernels.data.copy import cuda_copy

    with device() as gpu:
        capability = gpu.properties.compute_capability
        ptx, entry = cuda_ptx(cuda_copy, "void(int64, int64, int64, int64)", capability)
        assert entry.encode() in cuda_cubin(ptx, capability)
        with pytest.raises(DeviceError, match="NO_BINARY_FOR_GPU"):
            Module(gpu, cuda_cubin(ptx, capability))
        with fresh_memory(gpu, PIECE) as (start, _):
            copy_in(gpu, start, bytes(range(256)))
            module = Module(gpu, image(ptx))
            module.launch(entry, [start + 4096, start, 256, 1 << 30], num_blocks=2, threads_per_block=8)
            synchronize(gpu, timeout_s=20)
            assert copy_out(gpu, start + 4096, 256) == bytes(range(256))
            module.close()


def machine_code_is_kept_by_the_hash_of_its_ptx():
    """Loaded once, PTX needs no compiler; PTX that differs in a letter does."""
    with device() as gpu, compiled_copy(gpu) as (_, entry):
        os.environ["FAKE_CUDA_PYTHON"] = "/bin/false"
        text, _ = ptx_of_copy()
        Module(gpu, image(text)).close()
        with pytest.raises(DeviceError, match="INVALID_PTX"):
            Module(gpu, image(text.replace(entry, "another_name")))


def the_gpu_check_passes():
    """Every check of scripts/gpu_check.py, also its second process; nothing is left open."""
    import gpu_check
    import gpu_isolated

    gpus = [gpu_check.Gpu(0), gpu_check.Gpu(1)]
    for case in gpu_check.cases(gpus):
        print(case.name, case.device, *gpu_isolated.judge(case), sep=" | ")
    for gpu in gpus:
        gpu.close()
    assert num_open() == dict.fromkeys(KINDS, 0)


def the_litmus_tests_show_several_ends_and_none_forbidden():
    """Between blocks of a device, two devices, a device and the CPU; then the same under weak memory."""
    import gpu_check

    for weak in ("0", "1"):
        os.environ["FAKE_CUDA_WEAK"] = weak
        gpus = [gpu_check.Gpu(0), gpu_check.Gpu(1)]
        for check, who in (
            (gpu_check.check_litmus, gpus[:1]),
            (gpu_check.check_host_litmus, gpus[:1]),
            (gpu_check.check_peer_litmus, gpus),
        ):
            print("weak memory:" if weak == "1" else "plain:", check(*who))
        for gpu in gpus:
            gpu.close()


def the_gpu_check_sees_a_broken_kernel():
    """A check that cannot fail proves nothing: break the kernel that it runs."""
    import gpu_check

    right = gpu_check.code_object

    def wrong(body, signature):
        code = right(body, signature)
        return replace(code, fatbin=image(re.sub(r"atom\.\S+\.add", "atom.relaxed.sys.global.max", code.ptx)))

    gpu_check.code_object = wrong
    gpu = gpu_check.Gpu(0)
    with pytest.raises(AssertionError, match="1 of"):
        gpu_check.check_atomics(gpu)
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
        with pytest.raises(DeviceError, match="INVALID_PTX"):
            Module(gpu, b".version 9.0\n.target sm_90\n.visible .entry k() { frobnicate.b32 %r1; ret; }\0")
