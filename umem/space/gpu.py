"""What a rank's GPU does for its program: kernels, and copies in the order of a stream.

Pointers: an argument that is an Array, or speaks `__cuda_array_interface__`, is the pointer of its first element, as
the GPU dereferences it; addresses go through `Space.pointer`. A stream is a number, or what torch, CuPy, Numba and
cuda.core call one; None is CUDA's default stream.
"""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

import numpy as np

from ..arguments import whole
from ..errors import AlignmentError, ArgumentRangeError, ArgumentTypeError, DeviceError, NotMappable
from ..kernels.build.kernel import Kernel
from ..kernels.data import stream_words
from ..memory.device.cuda import CudaDevice
from ..memory.device.cuda_run import DEFAULT_STREAM, Extents, Module, synchronize
from ..memory.segment import Segments

# Numba's names and C's types of what a kernel takes, by NumPy's.
_TYPES: dict[str, tuple[str, Any]] = {
    "int8": ("int8", ctypes.c_int8),
    "uint8": ("uint8", ctypes.c_uint8),
    "int16": ("int16", ctypes.c_int16),
    "uint16": ("uint16", ctypes.c_uint16),
    "int32": ("int32", ctypes.c_int32),
    "uint32": ("uint32", ctypes.c_uint32),
    "int64": ("int64", ctypes.c_int64),
    "uint64": ("uint64", ctypes.c_uint64),
    "float32": ("float32", ctypes.c_float),
    "float64": ("float64", ctypes.c_double),
}

SET_WORD, AWAIT_WORD = Kernel(stream_words.set_word), Kernel(stream_words.await_word)
WORD_BYTES = 8


class Gpu:
    """This rank's GPU. All waits end after `timeout_s`; an error of a kernel is raised by the next wait.

    Such an error stays (CUDA calls it sticky): nothing runs on this GPU any more in this process, so let it end.
    """

    def __init__(self, device: CudaDevice, segments: Segments, timeout_s: float):
        self.device, self.timeout_s = device, timeout_s
        self._segments = segments
        self._modules: dict[tuple[Kernel, str], tuple[Module, str]] = {}

    def launch(
        self,
        kernel: Kernel,
        grid: Extents,
        block: Extents,
        arguments: tuple[Any, ...],
        stream: Any = None,
        is_cooperative: bool = False,
    ) -> None:
        """Start `kernel` on `grid` blocks of `block` threads; see Space.launch."""
        values, names, types = (
            zip(*map(self._argument, arguments), strict=True) if arguments else ((), (), ())
        )
        signature = kernel.signature or f"void({', '.join(names)})"
        found = self._modules.get((kernel, signature))
        if found is None:
            code = kernel.on_gpu(signature)
            found = self._modules[kernel, signature] = Module(self.device, code), code.entry
        module, entry = found
        module.launch(
            entry, values, grid, block, types=types, stream=handle_of(stream), is_cooperative=is_cooperative
        )

    def synchronize(self, stream: Any = None, timeout_s: float | None = None) -> None:
        """Wait for all that was started on `stream`. Raises DeviceError where a kernel failed, WaitTimeout."""
        synchronize(self.device, self.timeout_s if timeout_s is None else timeout_s, handle_of(stream))

    def put(self, address: int, src: np.ndarray, stream: Any = None) -> None:
        """Copy the contiguous array `src` to `address`, in the order of `stream`.

        `src` must stay as it is until the stream has come so far.
        """
        self._copy("cuMemcpyHtoDAsync", self._segments.pointer(address), src.ctypes.data, src.nbytes, stream)

    def get(self, dst: np.ndarray, address: int, stream: Any = None) -> None:
        """Fill the contiguous array `dst` from `address`, in the order of `stream`: after `synchronize` it is."""
        self._copy("cuMemcpyDtoHAsync", dst.ctypes.data, self._segments.pointer(address), dst.nbytes, stream)

    def copy(self, dst: int, src: int, num_bytes: int, stream: Any = None) -> None:
        """Copy `num_bytes` from address `src` to address `dst`, in the order of `stream`."""
        pointers = self._segments.pointer(dst), self._segments.pointer(src)
        self._copy("cuMemcpyAsync", *pointers, num_bytes, stream)

    def signal(self, address: int, value: int, stream: Any = None) -> None:
        """Set the int64 at `address` to `value` once all before it on `stream` is done, and seen by all processors.

        It may lie in any memory that this GPU reaches. Kernels find it by `wait_signal` (kernels/data/group.py), a
        stream by `wait`, a CPU by `space.load`. Raises AlignmentError, NotMappable, ArgumentRangeError.
        """
        self._on_word("cuStreamWriteValue64", SET_WORD, address, value, stream)

    def wait(self, address: int, value: int, stream: Any = None) -> None:
        """Hold `stream` until the int64 at `address` is at least `value` (and less than 2**63 beyond it).

        What comes behind sees what was stored before the word was set, by `signal`, a kernel's `put_signal`, or a
        `space.store`.

        It has no deadline of its own: where the value never comes, `synchronize` raises WaitTimeout, and the rank has
        to end, as with a kernel without end. Raises AlignmentError, NotMappable, ArgumentRangeError.
        """
        self._on_word("cuStreamWaitValue64", AWAIT_WORD, address, value, stream)

    def _on_word(self, call: str, kernel: Kernel, address: int, value: int, stream: Any) -> None:
        address, value = whole(address, "address"), whole(value, "value")
        if address % WORD_BYTES:
            raise AlignmentError(address, WORD_BYTES)
        if not -(1 << 63) <= value < 1 << 63:
            raise ArgumentRangeError(f"value {value} does not fit an int64")
        home, kind, _ = self._segments.map.place(address)
        if not self._segments.reach.by_gpu(home, kind):
            raise NotMappable(
                f"address {address:#x} lives at rank {home}, whose {kind.name.lower()} memory {self.device.NAME} does"
                ' not reach: take a word of home="host" or of a GPU that is a peer'
            )
        pointer = self._segments.pointer(address)
        if self._has_stream_words:
            self.device.make_current()
            words = value % (1 << 64)
            self.device.driver.call(call, handle_of(stream), pointer, words, 0, detail=f"of {address:#x}")
        else:
            self.launch(kernel, 1, 1, (pointer, value), stream)

    @cached_property
    def _has_stream_words(self) -> bool:
        """Whether this GPU's streams set and wait for words by themselves, without a kernel."""
        return self.device.has("CAN_USE_64_BIT_STREAM_MEM_OPS")

    def finish(self) -> None:
        """Wait, without a deadline, until the GPU has done all that this process gave it. Raises DeviceError."""
        self.device.make_current()
        self.device.driver.call("cuCtxSynchronize")

    def close(self, *, is_forced: bool) -> None:
        """Wait for what runs, and unload the kernels. Raises DeviceError for one that failed unseen, WaitTimeout for
        one that does not end; nothing where the close `is_forced`: then the device is left as it is, to the end of the
        process.
        """
        driver = self.device.driver
        if is_forced:
            driver.is_lost = driver.is_lost or not self._is_idle()
        if not driver.is_lost:
            synchronize(self.device, self.timeout_s)
            for module, _ in self._modules.values():
                module.close()
        self._modules.clear()

    def _is_idle(self) -> bool:
        self.device.make_current()
        try:
            return self.device.driver.stream_is_done(DEFAULT_STREAM)
        except DeviceError:
            return False

    def _copy(self, call: str, dst: int, src: int, num_bytes: int, stream: Any) -> None:
        if num_bytes:
            self.device.make_current()
            self.device.driver.call(call, dst, src, num_bytes, handle_of(stream), detail=f"{num_bytes} bytes")

    def _argument(self, value: Any) -> tuple[Any, str, Any]:
        """(value, Numba's type, C's type) of an argument."""
        if isinstance(value, int):
            return int(value), *_TYPES["int64"]
        if isinstance(value, float):
            return value, *_TYPES["float64"]
        if isinstance(value, np.generic) and value.dtype.name in _TYPES:
            return value.item(), *_TYPES[value.dtype.name]
        address = getattr(value, "address", None)
        if isinstance(address, int):
            return self._segments.pointer(address), *_TYPES["int64"]
        interface = getattr(value, "__cuda_array_interface__", None)
        if interface is not None:
            return interface["data"][0], *_TYPES["int64"]
        raise ArgumentTypeError(
            f"{type(value).__name__} is nothing that a kernel takes: numbers, arrays of the space, and what has"
            " __cuda_array_interface__; host memory that is not the space's cannot be dereferenced by a GPU"
        )


def handle_of(stream: Any) -> int:
    """The driver's handle of a stream of any library. Raises ArgumentTypeError."""
    if stream is None:
        return DEFAULT_STREAM
    if isinstance(stream, int):
        return stream
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for name in ("cuda_stream", "ptr", "handle"):  # torch, CuPy, Numba and cuda.core
        if hasattr(stream, name):
            handle = getattr(stream, name)
            return int(getattr(handle, "value", handle) or 0)
    raise ArgumentTypeError(
        f"{type(stream).__name__} is no stream: a number, or what torch, CuPy or Numba make"
    )
