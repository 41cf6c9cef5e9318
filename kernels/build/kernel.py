"""A user's kernel for whatever device a rank works on: one source, compiled for the CPU and for CUDA when it is first
launched there.

    @umem.kernel
    def scale(base, num_elements, factor):
        i = lane_index()
        while i < num_elements:
            store_f32(base, i, load_f32(base, i) * factor)
            i += num_lanes()

    space.launch(scale, 64, 256, array, array.size, 2.0)
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from .code_object import CodeObject, code_object
from .compile import CpuKernel, cpu_kernel

GROUP = "user"


class Kernel:
    """A kernel before it is compiled. `body` is the function; `signature`, where it is given, are the types of its
    arguments in Numba's names ("void(int64, float32)"), else those of each launch's arguments."""

    def __init__(self, body: Callable[..., Any], signature: str | None = None):
        self.body, self.signature = body, signature
        self.__name__, self.__qualname__, self.__module__ = body.__name__, body.__qualname__, body.__module__
        self.__doc__ = body.__doc__
        self.__wrapped__ = body
        self.on_cpu: CpuKernel = cpu_kernel(signature, group=GROUP)(body)
        self._codes: dict[str, CodeObject] = {}
        self._lock = threading.Lock()

    def on_gpu(self, signature: str) -> CodeObject:
        """Its machine code for GPUs, for arguments of these types."""
        with self._lock:
            if signature not in self._codes:
                self._codes[signature] = code_object(self.body, signature)
            return self._codes[signature]

    def __reduce__(self) -> Any:
        """As a function would: by name, or by value where it is no module's."""
        module = sys.modules.get(self.__module__)
        if self.__module__ != "__main__" and getattr(module, self.__qualname__, None) is self:
            return self.__qualname__
        return Kernel, (self.body, self.signature)

    def __repr__(self) -> str:
        return f"<Kernel {self.__module__}.{self.__qualname__}>"


def kernel(body: Callable[..., Any] | str) -> Any:
    """Decorator: a kernel that `space.launch` runs on a GPU or the CPU: `@kernel`, `@kernel("void(int64, float32)")`.

    The body is a function over numbers and the intrinsics of umem.kernels; it shares the work out by `lane_index()`
    and `num_lanes()`, which on the CPU are 0 and 1.
    """
    if isinstance(body, str):
        signature = body
        return lambda function: Kernel(function, signature)
    return Kernel(body)


_made: weakref.WeakKeyDictionary[Any, Kernel] = weakref.WeakKeyDictionary()


def kernel_of(given: Any) -> Kernel:
    """The Kernel of a function, of a kernel for the CPU, or `given` itself; the same one each time."""
    if isinstance(given, Kernel):
        return given
    if given not in _made:
        _made[given] = Kernel(given.body if isinstance(given, CpuKernel) else given)
    return _made[given]
