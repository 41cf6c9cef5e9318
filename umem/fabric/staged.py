"""The staged path: the five steps by which a program without peer access moves a slice, each timed.

Copy out to a host buffer, pack header and rows, transfer, unpack, copy in. The two sides take part, as in
every message. The buffers are kept and reused, as a careful program would.
"""

from __future__ import annotations

import numpy as np

from ..errors import FabricError
from ..kernels import status
from ..kernels.data.copy import default_stream_bytes
from ..kernels.data.staging import (
    STAGING_HEADER_BYTES,
    STAGING_SENT_NS,
    cpu_copy_out_and_pack,
    cpu_unpack_and_copy_in,
)
from .ucx.fabric import UcxFabric

STEPS = ("copy_out", "pack", "transfer", "unpack", "copy_in")
_TAG = 1 << 39  # the upper half of the tags is for transfers of our own


class Staged:
    """Staged transfers of up to `max_bytes` over `fabric`; for one thread.

    `step_ns` holds the last transfer's times by step: the sender knows copy_out and pack, the receiver
    the other three. `transfer` is from packed to received on one clock, so it is 0 between machines,
    whose clocks differ.
    """

    def __init__(self, fabric: UcxFabric, max_bytes: int, shares_clock: bool = True):
        self.fabric, self.shares_clock = fabric, shares_clock
        self._stream_bytes = default_stream_bytes()
        self._staging = np.ones(
            max_bytes, np.uint8
        )  # touched: the first transfer must not pay for page faults
        self._message = np.ones(max_bytes + STAGING_HEADER_BYTES, np.uint8)
        self._times = np.zeros(4, np.int64)
        self.step_ns = dict.fromkeys(STEPS, 0)

    def send(self, rank: int, src: int, num_rows: int, row_bytes: int, src_stride: int, tag: int = 0) -> None:
        """Send `num_rows` rows of `row_bytes`, `src_stride` bytes apart, from the pointer `src` to `rank`."""
        message, num_bytes = self._message.ctypes.data, self._fit(num_rows, row_bytes)
        times = self._times.ctypes.data
        staging = self._staging.ctypes.data
        cpu_copy_out_and_pack(
            src, src_stride, num_rows, row_bytes, staging, message, self._stream_bytes, times
        )
        self.fabric.send(rank, message, num_bytes + STAGING_HEADER_BYTES, _TAG + tag, keep=self._message)
        begin, copied, packed = self._times[:3].tolist()
        self.step_ns.update(copy_out=copied - begin, pack=packed - copied)

    def recv(self, rank: int, dst: int, num_rows: int, row_bytes: int, dst_stride: int, tag: int = 0) -> None:
        """Receive the rows that `rank` sends with this tag to the pointer `dst`, `dst_stride` bytes apart.

        Raises FabricError where the message holds another shape.
        """
        message, num_bytes = self._message.ctypes.data, self._fit(num_rows, row_bytes)
        self.fabric.recv(rank, message, num_bytes + STAGING_HEADER_BYTES, _TAG + tag, keep=self._message)
        staging, times = self._staging.ctypes.data, self._times.ctypes.data
        code = cpu_unpack_and_copy_in(
            message, num_rows, row_bytes, staging, dst, dst_stride, self._stream_bytes, times
        )
        if code != status.OK:
            raise FabricError(
                f"rank {rank} sent a staged message of another shape than {num_rows} x {row_bytes} bytes"
            )
        begin, unpacked, copied = self._times[:3].tolist()
        sent = int(self._message[:STAGING_HEADER_BYTES].view(np.int64)[STAGING_SENT_NS])
        self.step_ns.update(
            transfer=begin - sent if self.shares_clock else 0,
            unpack=unpacked - begin,
            copy_in=copied - unpacked,
        )

    def _fit(self, num_rows: int, row_bytes: int) -> int:
        num_bytes = num_rows * row_bytes
        if num_bytes > len(self._staging):
            raise FabricError(f"{num_bytes} bytes do not fit into staging buffers of {len(self._staging)}")
        return num_bytes
