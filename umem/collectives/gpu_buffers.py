"""The buffers that programs hand to collectives on a rank with a GPU: of the GPU, of the space, or of the host."""

from __future__ import annotations

import ctypes
import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentTypeError, ConfigError
from ..space.array import Array
from ..space.gpu import handle_of
from .buffers import Buffer, buffer_of, type_of

if TYPE_CHECKING:
    from ..space.space import Space


@dataclass(slots=True)
class HostBuffer(Buffer):
    """A copy on the GPU of a buffer of the host, which `settle` fills from it."""

    def settle(self) -> None:
        """Copy back what the operation has left, where it is to be written."""
        if self.original is not None:
            self.owner.copy_back()
            self.original.settle()


class Copy:
    """`num_bytes` of host memory at `pointer`, copied to this rank's GPU for as long as this object lives."""

    def __init__(self, space: Space, pointer: int, num_bytes: int):
        self._gpu, self._num_bytes = space.gpu, num_bytes
        self._host = np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(pointer))
        self.address = space.alloc(max(num_bytes, 1))
        weakref.finalize(self, _give_back, space, self.address).atexit = False
        self._gpu.put(self.address, self._host)
        self._gpu.synchronize()

    def copy_back(self) -> None:
        """Fill the host's memory from the copy."""
        self._gpu.get(self._host, self.address)
        self._gpu.synchronize()


def _give_back(space: Space, address: int) -> None:
    if space.is_open:
        space.free(address)


class GpuBuffers:
    """`buffer_of` of a rank with a GPU."""

    def __init__(self, space: Space):
        self._space = space

    def __call__(self, given: Any, what: str, *, is_written: bool = False) -> Buffer:
        """The elements of an Array of the space, of what has `__cuda_array_interface__` (CuPy, Numba), of a torch
        tensor; NumPy arrays and tensors of the CPU as a copy.

        Raises ArgumentTypeError for what has no elements here in one piece, ConfigError for what is read-only and
        `is_written`, NotMappable for memory that this rank's GPU does not reach.
        """
        if isinstance(given, Array):
            pointer = self._space.gpu_pointer(given.address, given.nbytes)[1]
            return Buffer(pointer, *type_of(given.dtype), given.size, given)
        if hasattr(given, "data_ptr") and hasattr(given, "is_contiguous"):
            if given.device.type == "cuda":
                return self._of_tensor(given, what)
        elif hasattr(given, "__cuda_array_interface__"):
            return self._of_interface(given, what, is_written)
        return self._of_host(buffer_of(given, what, is_written=is_written), is_written)

    def _of_tensor(self, tensor: Any, what: str) -> Buffer:
        ordinal = self._space.gpu.device.ordinal
        if tensor.device.index != ordinal:
            raise ArgumentTypeError(f"{what} is on {tensor.device}: this rank works on cuda:{ordinal}")
        import torch

        if tensor.layout != torch.strided or tensor.is_conj() or tensor.is_neg():
            raise ArgumentTypeError(
                f"{what} has layout {tensor.layout}, or is a lazy view: pass .to_dense(), .resolve_conj()"
            )
        stream = handle_of(torch.cuda.current_stream(tensor.device))
        tensor = tensor.detach()
        whole = tensor.contiguous()
        original = None if whole is tensor else tensor
        return Buffer(whole.data_ptr(), *type_of(tensor.dtype), whole.numel(), whole, original, stream)

    def _of_interface(self, given: Any, what: str, is_written: bool) -> Buffer:
        interface = given.__cuda_array_interface__
        shape, strides = interface["shape"], interface.get("strides")
        kind = np.dtype(interface["typestr"])
        num_elements = math.prod(shape)
        if strides is not None and num_elements > 0 and tuple(strides) != _row_major(shape, kind.itemsize):
            raise ArgumentTypeError(f"{what} is not in one piece, row by row: pass a contiguous copy of it")
        if is_written and interface["data"][1]:
            raise ConfigError(f"{what} is read-only")
        stream = int(interface.get("stream") or 0)
        return Buffer(interface["data"][0], *type_of(kind), num_elements, given, None, stream)

    def _of_host(self, host: Buffer, is_written: bool) -> Buffer:
        copied = Copy(self._space, host.pointer, host.num_bytes)
        pointer = self._space.pointer(copied.address)
        original = host if is_written else None
        return HostBuffer(pointer, host.type_index, host.item_bytes, host.num_elements, copied, original)


def _row_major(shape: tuple[int, ...], item_bytes: int) -> tuple[int, ...]:
    strides, each = [], item_bytes
    for extent in reversed(shape):
        strides.append(each)
        each *= extent
    return tuple(reversed(strides))
