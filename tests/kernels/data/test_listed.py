"""Rows between listed addresses: every byte of them and no other, by either way and at any alignment."""

from __future__ import annotations

import numpy as np
import pytest

from umem.kernels.collective.listed import copy_listed


@pytest.mark.parametrize("row_bytes", [1, 4, 64, 1023, 1024, 1111, 4096])
@pytest.mark.parametrize("stream_bytes", [0, 1 << 40])
def test_copy_listed(row_bytes, stream_bytes):
    rng = np.random.default_rng(row_bytes)
    num_rows, pitch = 40, row_bytes + 7
    src = rng.integers(0, 256, (num_rows, row_bytes), np.uint8)
    dst = np.full((num_rows, pitch), 77, np.uint8)
    wanted = dst.copy()
    places, sources = rng.permutation(num_rows), rng.integers(0, num_rows, num_rows)
    wanted[places, 3 : 3 + row_bytes] = src[sources]
    dsts = dst.ctypes.data + 3 + places * pitch
    srcs = src.ctypes.data + sources * row_bytes
    copy_listed(dsts.ctypes.data, srcs.ctypes.data, num_rows, row_bytes, stream_bytes)
    assert (dst == wanted).all()
