"""A GPU of the driver with memory in it: where tests put arrays, run kernels, and look at what came out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from ptx_text import image, ptx_of

from umem.memory.device.cuda import CudaDevice
from umem.memory.device.cuda_run import Module, copy_in, copy_out, synchronize

MIB = 1 << 20
MODES = {
    "plain": {},
    "weak": {"FAKE_CUDA_WEAK": "1", "FAKE_CUDA_SWITCH": "20"},
    "strict": {"FAKE_CUDA_STRICT": "1"},
}
RUN_S = 30.0  # a kernel that takes longer waits for what does not come


class Arena:
    """`num_regions` pieces of GPU memory of `region_bytes` each, mapped by `gpu`."""

    def __init__(
        self, gpu: CudaDevice, num_regions: int = 3, region_bytes: int = 4 * MIB, base: int = 1 << 44
    ):
        self.gpu, self.num_regions, self.region_bytes, self.base = gpu, num_regions, region_bytes, base
        self.fds = [gpu.create(region_bytes, "arena") for _ in range(num_regions)]
        self.map(self.fds)
        self.modules: dict[tuple[str, ...], Module] = {}

    def map(self, fds: list[int]) -> None:
        """Put memory into the range."""
        if fds:
            self.gpu.reserve(self.base, len(fds) * self.region_bytes)
        for n, fd in enumerate(fds):
            self.gpu.map(fd, self.base + n * self.region_bytes, self.region_bytes)

    @classmethod
    def of_peer(cls, gpu: CudaDevice, owner: Arena) -> Arena:
        """The memory of `owner`, as `gpu` reaches it."""
        made = cls(gpu, 0, owner.region_bytes, owner.base)
        made.num_regions = owner.num_regions
        made.map(owner.fds)
        return made

    def __getitem__(self, region: int) -> int:
        """The pointer of a region."""
        assert 0 <= region < self.num_regions
        return self.gpu.pointer(self.base + region * self.region_bytes)

    def run(self, body: Callable[..., Any], *arguments: int, blocks: int = 4, threads: int = 32) -> None:
        """Run the kernel `body` to its end."""
        text, entry = ptx_of(body, len(arguments))
        self.run_ptx(text, entry, *arguments, blocks=blocks, threads=threads)

    def run_ptx(self, text: str, entry: str, *arguments: int, blocks: int = 4, threads: int = 32) -> None:
        self.start_ptx(text, entry, *arguments, blocks=blocks, threads=threads)
        synchronize(self.gpu, timeout_s=RUN_S)

    def start(self, body: Callable[..., Any], *arguments: int, blocks: int = 4, threads: int = 32) -> None:
        """Run it without waiting for its end."""
        text, entry = ptx_of(body, len(arguments))
        self.start_ptx(text, entry, *arguments, blocks=blocks, threads=threads)

    def start_ptx(self, text: str, entry: str, *arguments: int, blocks: int = 4, threads: int = 32) -> None:
        key = (text, *(os.environ.get(f"FAKE_CUDA_{mode}", "") for mode in ("WEAK", "STRICT")))
        if key not in self.modules:
            self.modules[key] = Module(self.gpu, image(text))
        self.gpu.make_current()
        self.modules[key].launch(entry, arguments, blocks, threads)

    def put(self, pointer: int, array: np.ndarray) -> None:
        copy_in(self.gpu, pointer, np.ascontiguousarray(array).tobytes())

    def got(self, pointer: int, dtype: Any, count: int) -> np.ndarray:
        """`count` elements of GPU memory."""
        return np.frombuffer(copy_out(self.gpu, pointer, count * np.dtype(dtype).itemsize), dtype)

    def words(self, pointer: int, count: int) -> np.ndarray:
        return self.got(pointer, np.int64, count)

    def clear(self) -> None:
        """Zeros everywhere."""
        for n in range(self.num_regions):
            copy_in(self.gpu, self[n], bytes(self.region_bytes))

    def close(self) -> None:
        self.gpu.make_current()
        for module in self.modules.values():
            module.close()
        for fd in self.fds:
            os.close(fd)
        self.gpu.release_range(self.base, self.num_regions * self.region_bytes)


@contextmanager
def arena(ordinal: int = 0, num_regions: int = 3, region_bytes: int = 4 * MIB) -> Iterator[Arena]:
    """An Arena on a GPU of its own."""
    gpu = CudaDevice(ordinal)
    made = Arena(gpu, num_regions, region_bytes)
    yield made
    made.close()
    gpu.close()


@contextmanager
def options(**values: object) -> Iterator[None]:
    """Options of the driver while the body runs: `options(FAKE_CUDA_SEED=3)`."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= {name: str(value) for name, value in values.items()}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
