"""Private memory at fixed addresses, for the words that compiled code and UCX's callbacks share.

Pages are backed when they are touched, so room for the largest reply in every slot costs nothing while
replies are small. A forked child gets a copy, as of any private memory.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from typing import Any

from ..fabric.ucx import abi
from ..fabric.ucx.channels import POLL_IN

WORD = 8
_LINE = 64
MAP_NORESERVE = 0x4000  # no swap is set aside for room that is never used; mmap has the name since 3.13


class PrivateMemory:
    """A zeroed mapping that hands out line-aligned pieces; it lives as long as this object."""

    def __init__(self, num_bytes: int):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self._map = mmap.mmap(-1, num_bytes, flags=flags)
        self._bytes = (ctypes.c_char * num_bytes).from_buffer(self._map)
        self._next = ctypes.addressof(self._bytes)
        self._end = self._next + num_bytes

    def take(self, num_bytes: int) -> int:
        """Address of the next `num_bytes`."""
        address = self._next
        self._next += -(-num_bytes // _LINE) * _LINE
        assert self._next <= self._end, "the private memory was made too small"
        return address

    def words(self, num_words: int) -> Words:
        """The next `num_words` int64 words."""
        return Words(self.take(num_words * WORD), num_words, self)

    def words_of(self, values: Sequence[int]) -> Words:
        """The next words, filled with `values`."""
        words = self.words(len(values))
        for index, value in enumerate(values):
            words[index] = value
        return words

    def bytes_of(self, image: bytes) -> int:
        """Address of a copy of `image`."""
        address = self.take(len(image))
        ctypes.memmove(address, image, len(image))
        return address

    def send_param(self, asks: bool) -> int:
        """Address of a ucp_request_param_t for active messages: eager, and with a way to reply if one `asks`.

        Eager whatever the size: what a message carries is bounded, and a rendezvous would have the receiver
        ask for the data, one more round trip through an agent that may be busy.
        """
        flags = abi.CONSTANTS["UCP_AM_SEND_FLAG_EAGER"]
        if asks:
            flags |= abi.CONSTANTS["UCP_AM_SEND_FLAG_REPLY"]
        param = abi.RequestParam(op_attr_mask=abi.CONSTANTS["UCP_OP_ATTR_FIELD_FLAGS"], flags=flags)
        return self.bytes_of(bytes(param))

    def poll_fds(self, fds: Sequence[int]) -> int:
        """Address of an array of struct pollfd that waits for input on `fds`; poll ignores those below 0."""
        return self.words_of([(fd & 0xFFFF_FFFF) | POLL_IN << 32 for fd in fds]).address


class Words:
    """int64 words at `address`, read and written from Python by index."""

    def __init__(self, address: int, num_words: int, keep: Any):
        self.address = address
        self._keep = keep  # whose memory it is
        self._words = memoryview((ctypes.c_int64 * num_words).from_address(address)).cast("B").cast("q")

    def __getitem__(self, index: int) -> int:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._words[index] = value
