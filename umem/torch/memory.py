"""Private memory that is never freed, for torch's allocator, which may use it until the process is gone.

Deleters run after the interpreter has taken its modules apart, so nothing of this may belong to a Python
object.
"""

from __future__ import annotations

import ctypes
import mmap

from ..errors import AllocatorRefused, WorldError
from ..memory.device import HOST
from .layout import PAGE_ADDRESS, PAGE_BYTES

_PROT_READ_WRITE = 3
_MAP_NORESERVE = 0x4000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.calloc.restype = ctypes.c_void_p
_libc.calloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

_page: Words | None = None

Words = ctypes.Array[ctypes.c_int64]


def lasting_words(num_words: int) -> int:
    """Address of `num_words` zeroed int64 words."""
    address = _libc.calloc(num_words, 8)
    if not address:
        raise AllocatorRefused(f"no memory for {num_words} words of torch's allocator")
    return int(address)


def lasting_tables(num_bytes: int) -> int:
    """Address of `num_bytes` of zeroes, at a page; only pages that are touched cost memory."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    tables = mmap.mmap(-1, num_bytes, flags=flags)
    keep_forever(tables)
    return ctypes.addressof(ctypes.c_char.from_buffer(tables))


def lasting_text(text: bytes) -> int:
    """Address of a copy of `text`, which ends with a zero byte there."""
    address = lasting_words(len(text) // 8 + 1)
    ctypes.memmove(address, text, len(text))
    return address


def words_at(address: int, num_words: int) -> Words:
    """The int64 words at `address`, to read and write."""
    return (ctypes.c_int64 * num_words).from_address(address)


def page() -> Words:
    """The page of layout.py, made at the first call. Raises AllocatorRefused where its address is taken."""
    global _page
    if _page is None:
        try:
            HOST.reserve(PAGE_ADDRESS, PAGE_BYTES)
        except WorldError as error:
            raise AllocatorRefused(f"the page of torch's allocator has no place: {error}") from error
        if _libc.mprotect(PAGE_ADDRESS, PAGE_BYTES, _PROT_READ_WRITE) != 0:
            raise AllocatorRefused(f"mprotect of {PAGE_ADDRESS:#x}: errno {ctypes.get_errno()}")
        _page = words_at(PAGE_ADDRESS, PAGE_BYTES // 8)
    return _page


def keep_forever(item: object) -> None:
    """Never let `item` be collected, not even at the end of the interpreter."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(item))
