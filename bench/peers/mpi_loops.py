"""MPI in compiled loops, as fast as in a C program: no Python call between two operations.

Handles are Open MPI's: pointers, passed as int64. Import only after libmpi is loaded for compiled code.
"""

from __future__ import annotations

from typing import Any

from numba.core import types

from umem.kernels.build.compile import cpu_kernel
from umem.kernels.intrinsics.scalar import store_f64
from umem.kernels.intrinsics.system import now_ns

_I32, _I64 = types.int32, types.int64


def _mpi(name: str, *arguments: types.Type) -> Any:
    return types.ExternalFunction(name, _I32(*arguments))


# (buffer, count, datatype, peer, tag, communicator [, status])
send = _mpi("MPI_Send", _I64, _I32, _I64, _I32, _I32, _I64)
receive = _mpi("MPI_Recv", _I64, _I32, _I64, _I32, _I32, _I64, _I64)
# (origin, result, datatype, rank, displacement, operation, window)
fetch_and_op = _mpi("MPI_Fetch_and_op", _I64, _I64, _I64, _I32, _I64, _I64, _I64)
# (origin, count, datatype, rank, displacement, count, datatype, window)
get = _mpi("MPI_Get", _I64, _I32, _I64, _I32, _I64, _I32, _I64, _I64)
put = _mpi("MPI_Put", _I64, _I32, _I64, _I32, _I64, _I32, _I64, _I64)
flush = _mpi("MPI_Win_flush", _I32, _I64)
# (send buffer, receive buffer, count, datatype, operation, communicator)
all_reduce = _mpi("MPI_Allreduce", _I64, _I64, _I32, _I64, _I64, _I64)
# (send buffer, count, datatype, receive buffer, count, datatype, communicator)
all_to_all = _mpi("MPI_Alltoall", _I64, _I32, _I64, _I64, _I32, _I64, _I64)
barrier = _mpi("MPI_Barrier", _I64)


@cpu_kernel("int32(int64, int64, int64, int64, int64, int64, int64, int64, int64)", group="mpi")
def message_many(out, num_samples, batch, src, dst, num_bytes, byte, side, world):
    """Ping-pong; `out` takes seconds per half round trip, a sample a batch."""
    peer = 1 - side
    code = barrier(world)
    sample = 0
    while sample < num_samples:
        begin = now_ns()
        done = 0
        while done < batch:
            if side == 0:
                code |= send(src, num_bytes, byte, peer, 1, world)
                code |= receive(dst, num_bytes, byte, peer, 1, world, 0)
            else:
                code |= receive(dst, num_bytes, byte, peer, 1, world, 0)
                code |= send(src, num_bytes, byte, peer, 1, world)
            done += 1
        store_f64(out, sample, (now_ns() - begin) * 0.5e-9 / batch)
        sample += 1
    return code


@cpu_kernel("int32(int64, int64, int64, int64, int64, int64, int64, int64, int64)", group="mpi")
def fetch_add_many(out, num_samples, batch, one, old, word_type, rank, add, window):
    """MPI_Fetch_and_op of `one` to the word at displacement 0 of `rank`, and a flush after each."""
    code = 0
    sample = 0
    while sample < num_samples:
        begin = now_ns()
        done = 0
        while done < batch:
            code |= fetch_and_op(one, old, word_type, rank, 0, add, window)
            code |= flush(rank, window)
            done += 1
        store_f64(out, sample, (now_ns() - begin) * 1e-9 / batch)
        sample += 1
    return code


@cpu_kernel("int32(int64, int64, int64, int64, int64, int64, int64, int64, int64)", group="mpi")
def access_many(out, num_samples, batch, is_put, buffer, num_bytes, byte, rank, window):
    """MPI_Put or MPI_Get of `num_bytes` at displacement 8 of `rank`, and a flush after each."""
    code = 0
    sample = 0
    while sample < num_samples:
        begin = now_ns()
        done = 0
        while done < batch:
            if is_put != 0:
                code |= put(buffer, num_bytes, byte, rank, 8, num_bytes, byte, window)
            else:
                code |= get(buffer, num_bytes, byte, rank, 8, num_bytes, byte, window)
            code |= flush(rank, window)
            done += 1
        store_f64(out, sample, (now_ns() - begin) * 1e-9 / batch)
        sample += 1
    return code


@cpu_kernel("int32(int64, int64, int64, int64, int64, int64, int64, int64, int64)", group="mpi")
def collective_many(out, num_samples, batch, src, dst, count, datatype, add, world):
    """MPI_Allreduce of `count` elements, or MPI_Alltoall of `count` a pair where `add` is 0."""
    code = barrier(world)
    sample = 0
    while sample < num_samples:
        begin = now_ns()
        done = 0
        while done < batch:
            if add != 0:
                code |= all_reduce(src, dst, count, datatype, add, world)
            else:
                code |= all_to_all(src, count, datatype, dst, count, datatype, world)
            done += 1
        store_f64(out, sample, (now_ns() - begin) * 1e-9 / batch)
        sample += 1
    return code
