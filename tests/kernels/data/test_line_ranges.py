"""Copies of ranges: every byte, none beside them, and no aligned word of the shared side in pieces."""

from __future__ import annotations

import pytest

from tests.kernels.kernel_memory import Buffer, InterpretedMemory
from umem.kernels import cpu_kernel
from umem.kernels.data.shared_copy import copy_in, copy_out
from umem.kernels.intrinsics import machine

ROOM = 256


def copy(dst, src, num_bytes, is_read):
    """`copy_out` or `copy_in`."""
    if is_read:
        copy_out(dst, src, num_bytes)
    else:
        copy_in(dst, src, num_bytes)


COMPILED = cpu_kernel("void(int64, int64, int64, int64)")(copy)
CONTENT = bytes(range(256))


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize("other", [0, 3])
def test_every_length_at_every_place(is_read, other):
    src, dst = Buffer(ROOM), Buffer(ROOM)
    src.write(CONTENT)
    for place in range(17):
        for num_bytes in [*range(34), 63, 64, 65, 127, 128, 131, 200]:
            at, to = (place, other) if is_read else (other, place)
            wanted = bytes(to) + CONTENT[at : at + num_bytes] + bytes(ROOM - to - num_bytes)
            for function in (COMPILED, copy):
                dst.write(bytes(ROOM))
                function(dst.address + to, src.address + at, num_bytes, is_read)
                assert dst.read() == wanted, (place, num_bytes, function)


@pytest.mark.parametrize("is_read", [True, False])
def test_a_word_of_the_shared_side_is_one_access(is_read):
    src, dst = Buffer(ROOM), Buffer(ROOM)
    for place in range(9):
        for num_bytes in range(40):
            memory = InterpretedMemory()
            shared = (src if is_read else dst).address + place
            at, to = (shared, dst.address + 1) if is_read else (src.address + 1, shared)
            with machine.use(memory):
                copy(to, at, num_bytes, is_read)
            kind = "load" if is_read else "store"
            log = [entry for entry in memory.log if entry[0] == kind]
            assert {entry[3] for entry in log} <= {"relaxed"}
            pieces = [(entry[1], int(entry[2][1:]) // 8) for entry in log]
            assert sum(size for _, size in pieces) == num_bytes
            assert all(address % size == 0 for address, size in pieces)
            words = range(shared + -shared % 8, shared + num_bytes, 8)
            whole = {word for word in words if word + 8 <= shared + num_bytes}
            assert {address for address, size in pieces if size == 8} == whole
