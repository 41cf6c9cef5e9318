"""Every kernel that umem has for CUDA, as an entry of its own with a signature: what docs/sass.md lists.

Entries of kernels/data launch as they are. Signals, the barrier and coherent access are device functions, which a
user's kernel calls: here each has a kernel that calls it and keeps what it returns. Of the coherent operations,
which come for every element type, those of i64 stand for all that are 4 or 8 bytes wide, and one of u8 for the
narrow ones, whose atomic step is a compare_swap of the word around them. Of the collectives' kernels, one for each
operation and element type, there is the one that combines nothing, and float32's sum.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from umem.kernels import data, store_i64
from umem.kernels.coherent import span, typed
from umem.kernels.collective.lanes import operation_kernel
from umem.kernels.data.reduce import SUM
from umem.kernels.data.stream_words import await_word, set_word
from umem.kernels.page.barrier import cuda_barrier
from umem.kernels.page.signal import CUDA

cuda_post, cuda_post_add, cuda_wait = CUDA.post, CUDA.post_add, CUDA.wait_signal


def post(signal, value):
    cuda_post(signal, value)


def post_add(signal, delta):
    cuda_post_add(signal, delta)


def wait_signal(control, signal, value, exactly, epoch, slice_ns, out):
    store_i64(out, 0, cuda_wait(control, signal, value, exactly, epoch, slice_ns))


def barrier(control, group, members, num_members, position, epoch, slice_ns, out):
    store_i64(out, 0, cuda_barrier(control, group, members, num_members, position, epoch, slice_ns))


def coherent_load_i64(cache, address, out):
    code, value = typed.coherent_load_i64(cache, address)
    store_i64(out, 0, code)
    store_i64(out, 1, value)


def coherent_store_i64(cache, address, value, out):
    store_i64(out, 0, typed.coherent_store_i64(cache, address, value))


def coherent_fetch_add_i64(cache, address, value, out):
    code, before = typed.coherent_fetch_add_i64(cache, address, value)
    store_i64(out, 0, code)
    store_i64(out, 1, before)


def coherent_exchange_i64(cache, address, value, out):
    code, before = typed.coherent_exchange_i64(cache, address, value)
    store_i64(out, 0, code)
    store_i64(out, 1, before)


def coherent_compare_swap_i64(cache, address, expected, desired, out):
    code, before = typed.coherent_compare_swap_i64(cache, address, expected, desired)
    store_i64(out, 0, code)
    store_i64(out, 1, before)


def coherent_fetch_add_u8(cache, address, value, out):
    code, before = typed.coherent_fetch_add_u8(cache, address, value)
    store_i64(out, 0, code)
    store_i64(out, 1, before)


def coherent_read(cache, dst, address, num_bytes):
    span.coherent_read(cache, dst, address, num_bytes)


def coherent_write(cache, address, src, num_bytes):
    span.coherent_write(cache, address, src, num_bytes)


CALLERS = (
    *(set_word, await_word),
    *(post, post_add, wait_signal, barrier),
    *(coherent_load_i64, coherent_store_i64, coherent_fetch_add_i64, coherent_exchange_i64),
    *(coherent_compare_swap_i64, coherent_fetch_add_u8, coherent_read, coherent_write),
)


def cuda_kernels() -> dict[str, Callable[..., Any]]:
    """Entries by the name that the page gives them. Every argument of each is an int64."""
    found: dict[str, Callable[..., Any]] = {}
    for info in sorted(pkgutil.iter_modules(data.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{data.__name__}.{info.name}")
        for name, value in vars(module).items():
            if name.startswith("CUDA_"):
                found |= {f"{name.removeprefix('CUDA_').lower()}[{key}]": body for key, body in value.items()}
            elif name.startswith("cuda_") and value.__module__ == module.__name__:
                found[name.removeprefix("cuda_")] = value
    found |= {"collective": operation_kernel().body, "collective[sum f32]": operation_kernel(SUM, "f32").body}
    return found | {body.__name__: body for body in CALLERS}


def signature_of(body: Callable[..., Any]) -> str:
    """Numba's signature of an entry."""
    return f"void({', '.join(['int64'] * body.__code__.co_argcount)})"
