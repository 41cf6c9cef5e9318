"""Checks of scripts/gpu-check over bare devices: memory, kernels, atomics, litmus tests, and the same between GPUs.

Each check is one function: it raises AssertionError with what it saw, or returns the evidence in a few
words. Of each kernel's code object the driver takes what fits the GPU.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
from gpu_isolated import Case
from gpu_kernels import ADD, COPY, COUNT, LITMUS, LOCK, MEETING_WORDS, NOT_GOT, Kernel, Litmus, add_many
from gpu_page import Waived

from umem.bench.parts.litmus_lanes import STRIDE_WORDS
from umem.kernels.build.code_object import code_object
from umem.kernels.build.compile import CpuKernel, cpu_kernel
from umem.memory.device.cuda import CudaDevice
from umem.memory.device.cuda_run import Module, copy_in, copy_out, synchronize

MIB = 1 << 20
STEP_BYTES = 8 * STRIDE_WORDS
NUM_INSTANCES = 10_000  # of each litmus test
BOTH_ROLES = -1
DEVICE_MAP = 2  # CU_MEMHOSTREGISTER_DEVICEMAP
NEVER_STREAM = 1 << 62
addresses = itertools.count(0x2000_0000_0000, 1 << 30)


class Gpu(CudaDevice):
    """A device that compiles and loads kernels as they are started."""

    def __init__(self, ordinal: int):
        super().__init__(ordinal)
        self._modules: dict[Kernel, tuple[Module, str]] = {}

    def start(self, kernel: Kernel, *arguments: int, blocks: int = 1, threads: int = 1) -> None:
        """Launch; the result is there after `synchronize`."""
        if kernel not in self._modules:
            signature = f"void({', '.join(['int64'] * kernel.num_arguments)})"
            code = code_object(kernel.entry, signature)
            self._modules[kernel] = Module(self, code), code.entry
        module, entry = self._modules[kernel]
        self.make_current()
        module.launch(entry, arguments, blocks, threads)

    def words(self, pointer: int, count: int) -> np.ndarray:
        """`count` int64 of device memory."""
        return np.frombuffer(copy_out(self, pointer, 8 * count), np.int64)

    def close(self) -> None:
        """Unload everything."""
        self.make_current()
        for module, _ in self._modules.values():
            module.close()
        super().close()


@contextmanager
def memory(users: list[Gpu], num_bytes: int, owner: Gpu | None = None) -> Iterator[list[int]]:
    """Zeroed memory of `owner` (default: the first user), mapped by all users; their pointers to it."""
    owner = owner or users[0]
    num_bytes = -(-num_bytes // owner.granularity) * owner.granularity
    fd, address = owner.create(num_bytes, "gpu-check"), next(addresses)
    try:
        for user in users:
            user.reserve(address, num_bytes)
            user.map(fd, address, num_bytes)
        copy_in(users[0], users[0].pointer(address), bytes(num_bytes))
        yield [user.pointer(address) for user in users]
    finally:
        os.close(fd)
    for user in users:
        if not user.driver.is_lost:
            user.release_range(address, num_bytes)


def check_copy(gpu: Gpu) -> str:
    """The copy kernel moves every byte, at odd alignment too, and writes nothing else."""
    size, guard = 3 * MIB + 13, 64
    data = np.random.default_rng(1).integers(0, 256, size, np.uint8).tobytes()
    with memory([gpu], size) as (src,), memory([gpu], size + 2 * guard) as (dst,):
        copy_in(gpu, src, data)
        gpu.start(COPY, dst + guard, src, size, NEVER_STREAM, blocks=64, threads=256)
        synchronize(gpu)
        written = copy_out(gpu, dst, size + 2 * guard)
    assert written == bytes(guard) + data + bytes(guard), "bytes differ"
    return f"{size} bytes, 16,384 lanes"


def check_atomics(gpu: Gpu) -> str:
    """No addition is lost."""
    with memory([gpu], MIB) as (word,):
        gpu.start(ADD, word, 10, blocks=256, threads=256)
        synchronize(gpu)
        total = gpu.words(word, 1)[0]
    assert total == 256 * 256 * 10, f"{total} of {256 * 256 * 10} additions"
    return f"{total:,} additions on one word"


def check_lock(gpu: Gpu) -> str:
    """compare_swap to take, a release to give back: plain accesses in between never overlap."""
    with memory([gpu], MIB) as (lock,):
        gpu.start(LOCK, lock, 100, blocks=32)
        synchronize(gpu)
        words = gpu.words(lock, NOT_GOT + 1)
    assert words[COUNT] == 3200 and not words[NOT_GOT], f"{words[COUNT]} of 3200, {words[NOT_GOT]} not got"
    return "3,200 increments under a lock, 32 blocks"


def check_litmus(gpu: Gpu) -> str:
    """CoRR, MP and SB between blocks show no forbidden end, and lanes that met: more than one end."""
    num_pairs, per_pair = 16, NUM_INSTANCES // 16
    with litmus_memory([gpu], num_pairs) as ((x, y, out, meetings), clear):

        def run(test: Litmus) -> np.ndarray:
            clear()
            gpu.start(test.kernel, x, y, out, meetings, BOTH_ROLES, per_pair, blocks=2 * num_pairs)
            synchronize(gpu)
            return ends(gpu, out, meetings, num_pairs, per_pair, test)

        return "; ".join(judge(name, test, run(test)) for name, test in LITMUS.items())


def check_host_litmus(gpu: Gpu) -> str:
    """The same between the GPU and a thread of the CPU, over host memory that is registered; each plays each role."""
    size = 4 * NUM_INSTANCES * STEP_BYTES
    with mmap.mmap(-1, size) as room, registered(gpu, room) as start:
        x, y = start, start + NUM_INSTANCES * STEP_BYTES
        out, meetings = y + NUM_INSTANCES * STEP_BYTES, y + 2 * NUM_INSTANCES * STEP_BYTES

        def run(test: Litmus, role: int) -> np.ndarray:
            room[:] = bytes(size)
            on_cpu = cpu_lanes(test)
            gpu.start(test.kernel, x, y, out, meetings, role, NUM_INSTANCES)
            on_cpu(x, y, out, meetings, 1 - role, NUM_INSTANCES, 0, 1)
            synchronize(gpu)
            words = np.frombuffer(room, np.int64).copy()
            return ends_of(
                words[(out - start) // 8 :][: 2 * NUM_INSTANCES],
                words[(meetings - start) // 8 :][: 2 * MEETING_WORDS],
                NUM_INSTANCES,
                test,
            )

        return "; ".join(
            judge(f"{name} role {role}", test, run(test, role))
            for name, test in LITMUS.items()
            for role in (0, 1)
        )


def check_host_additions(gpu: Gpu) -> str:
    """The GPU and a thread of the CPU add to one word of host memory that is registered."""
    on_cpu: CpuKernel = cpu_kernel("void(int64, int64, int64, int64)")(add_many)
    with mmap.mmap(-1, mmap.PAGESIZE) as room, registered(gpu, room) as word:
        gpu.start(ADD, word, 100, blocks=64, threads=64)
        on_cpu(word, 64 * 64 * 100, 0, 1)
        synchronize(gpu)
        total, expected = int.from_bytes(room[:8], "little"), 2 * 64 * 64 * 100
    assert total == expected, f"{total:,} of {expected:,} additions"
    return f"{total:,} additions by GPU and CPU on one word"


@functools.cache
def cpu_lanes(test: Litmus) -> CpuKernel:
    """The lanes of `test`, compiled for the CPU."""
    compiled: CpuKernel = cpu_kernel(f"void({', '.join(['int64'] * 8)})")(test.lanes)
    return compiled


@contextmanager
def registered(gpu: Gpu, room: mmap.mmap) -> Iterator[int]:
    """Memory of this process that the GPU may touch: its address, which is the same on both."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(room))
    gpu.make_current()
    gpu.driver.call("cuMemHostRegister", start, len(room), DEVICE_MAP, detail="memory of the host")
    assert int(gpu.driver.call("cuMemHostGetDevicePointer", start, 0)) == start, "no unified addressing"
    try:
        yield start
    finally:
        gpu.driver.call("cuMemHostUnregister", start)


@contextmanager
def litmus_memory(
    users: list[Gpu], num_pairs: int, other: Gpu | None = None
) -> Iterator[tuple[list[int], Callable[[], None]]]:
    """Words x, y, outcomes and meetings of litmus tests: the first user's pointers, and what clears them.

    y lies on `other`, where one is given. The second user's pointers follow behind the first one's.
    """
    sizes = (NUM_INSTANCES * STEP_BYTES, NUM_INSTANCES * STEP_BYTES, 2 * NUM_INSTANCES * 8)
    sizes += (2 * num_pairs * MEETING_WORDS * 8,)
    with ExitStack() as stack:
        owners = (users[0], other or users[0], users[0], users[0])
        pieces = [
            stack.enter_context(memory(users, size, owner)) for size, owner in zip(sizes, owners, strict=True)
        ]

        def clear() -> None:
            for piece, size in zip(pieces, sizes, strict=True):
                copy_in(users[0], piece[0], bytes(size))

        yield [piece[n] for n in range(len(users)) for piece in pieces], clear


def check_two_processes(gpu: Gpu) -> str:
    """Another process maps the same memory and adds to the same word."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd, address = gpu.create(gpu.granularity, "gpu-check"), next(addresses)
    gpu.reserve(address, gpu.granularity)
    gpu.map(fd, address, gpu.granularity)
    copy_in(gpu, gpu.pointer(address), bytes(gpu.granularity))
    command = [sys.executable, *CHILD, str(theirs.fileno()), str(gpu.ordinal)]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as child:
        theirs.close()
        socket.send_fds(ours, [b"memory"], [fd])
        gpu.start(ADD, gpu.pointer(address), 10, blocks=64, threads=64)
        synchronize(gpu)
        assert child.wait(timeout=120) == 0, "the second process failed"
    os.close(fd)
    total = gpu.words(gpu.pointer(address), 1)[0]
    gpu.release_range(address, gpu.granularity)
    assert total == 2 * 64 * 64 * 10, f"{total} of {2 * 64 * 64 * 10} additions"
    return f"{total:,} additions by two processes"


CHILD = [__file__, "--child"]


def run_child(socket_fd: int, ordinal: int) -> None:
    """The second process: map the memory that comes over the socket, and add to its first word."""
    _, (fd,), _, _ = socket.recv_fds(socket.socket(fileno=socket_fd), 16, 1)
    gpu, address = Gpu(ordinal), next(addresses)
    gpu.reserve(address, gpu.granularity)
    gpu.map(fd, address, gpu.granularity)
    gpu.start(ADD, gpu.pointer(address), 10, blocks=64, threads=64)
    synchronize(gpu)
    gpu.close()


def check_peer_copy(gpu: Gpu, peer: Gpu) -> str:
    """A kernel on `gpu` reads the memory of `peer` by loads."""
    data = np.random.default_rng(2).integers(0, 256, MIB, np.uint8).tobytes()
    with memory([peer, gpu], MIB) as (at_peer, here), memory([gpu], MIB) as (dst,):
        copy_in(peer, at_peer, data)
        gpu.start(COPY, dst, here, MIB, NEVER_STREAM, blocks=64, threads=256)
        synchronize(gpu)
        assert copy_out(gpu, dst, MIB) == data, "bytes differ"
    return f"{MIB} bytes by loads from {peer.NAME}"


def check_peer_atomics(gpu: Gpu, peer: Gpu) -> str:
    """Both GPUs add to one word; nothing is lost where the link has native atomics."""
    with memory([peer, gpu], MIB) as (at_peer, here):
        peer.start(ADD, at_peer, 10, blocks=64, threads=64)
        gpu.start(ADD, here, 10, blocks=64, threads=64)
        synchronize(gpu)
        synchronize(peer)
        total = peer.words(at_peer, 1)[0]
    expected = 2 * 64 * 64 * 10
    if not gpu.peer(peer.ordinal).native_atomics:
        return f"link without native atomics: {total:,} of {expected:,} (umem uses messages here)"
    assert total == expected, f"{total} of {expected} additions"
    return f"{total:,} additions by two GPUs"


def check_peer_litmus(gpu: Gpu, peer: Gpu) -> str:
    """The same with x on one GPU and y on the other, a role each."""
    with litmus_memory([gpu, peer], 1, other=peer) as (pointers, clear):
        here, there = pointers[:4], pointers[4:]

        def run(test: Litmus) -> np.ndarray:
            clear()
            peer.start(test.kernel, *there, 0, NUM_INSTANCES)
            gpu.start(test.kernel, *here, 1, NUM_INSTANCES)
            synchronize(gpu)
            synchronize(peer)
            return ends(gpu, here[2], here[3], 1, NUM_INSTANCES, test)

        return "; ".join(judge(name, test, run(test)) for name, test in LITMUS.items())


def ends(gpu: Gpu, out: int, meetings: int, num_pairs: int, per_pair: int, test: Litmus) -> np.ndarray:
    """`ends_of` what stands in GPU memory."""
    met = gpu.words(meetings, 2 * num_pairs * MEETING_WORDS)
    return ends_of(gpu.words(out, 2 * num_pairs * per_pair), met, per_pair, test)


def ends_of(outcomes: np.ndarray, met: np.ndarray, per_pair: int, test: Litmus) -> np.ndarray:
    """2 * r0 + r1 of every instance. AssertionError where lanes have not met at each."""
    run = met[1::MEETING_WORDS]
    assert (run == per_pair).all(), f"lanes met at {run.min()} to {run.max()} of {per_pair} instances"
    of_role_0, of_role_1 = outcomes[: len(outcomes) // 2], outcomes[len(outcomes) // 2 :]
    return 2 * of_role_0 + of_role_1 if test.is_of_both else of_role_1


def judge(name: str, test: Litmus, seen: np.ndarray) -> str:
    """The ends in words; AssertionError where a forbidden one is among them, or all are the same."""
    counts = np.bincount(seen, minlength=4)
    said = (
        name
        + " "
        + ", ".join(f"{count:,} x r0={end >> 1} r1={end & 1}" for end, count in enumerate(counts) if count)
    )
    assert counts[test.forbidden] == 0, f"forbidden r0={test.forbidden >> 1} r1={test.forbidden & 1}: {said}"
    assert (counts > 0).sum() > 1, f"the lanes did not meet: {said}"
    return said


ON_ONE = (
    check_copy,
    check_atomics,
    check_lock,
    check_litmus,
    check_host_litmus,
    check_two_processes,
)
ON_TWO = (check_peer_copy, check_peer_atomics, check_peer_litmus)


def cases(gpus: list[Gpu]) -> list[Case]:
    """Every check on every GPU, and on every pair with the first."""
    found = [
        Case(name_of(check), gpu.NAME, functools.partial(check, gpu)) for gpu in gpus for check in ON_ONE
    ]
    for check in ON_TWO:
        if len(gpus) == 1:
            found.append(Case(name_of(check), gpus[0].NAME, functools.partial(no_peer, "there is one GPU")))
        for peer in gpus[1:]:
            where = f"{gpus[0].NAME}<->{peer.ordinal}"
            run = functools.partial(check, gpus[0], peer)
            if not gpus[0].peer(peer.ordinal).can_access:
                run = functools.partial(no_peer, "the GPUs do not reach each other's memory")
            found.append(Case(name_of(check), where, run))
    return found


def no_peer(reason: str) -> str:
    raise Waived(reason)


def name_of(check: Callable[..., str]) -> str:
    return check.__name__.removeprefix("check_").replace("_", " ")


if __name__ == "__main__" and sys.argv[1:2] == ["--child"]:
    run_child(int(sys.argv[2]), int(sys.argv[3]))
