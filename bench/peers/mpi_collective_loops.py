"""Collectives of MPI in compiled loops, their buffers touched as umem's are. Import only after libmpi is loaded.

Handles are passed as int64: pointers of Open MPI, and of MPICH and Intel MPI numbers of which the lower half counts.
"""

from __future__ import annotations

from umem.bench.parts.touch import TOUCHED, touched_operations
from umem.kernels.build.compile import cpu_kernel, device_function
from umem.kernels.build.variants import variant
from umem.kernels.intrinsics.scalar import load_i64

from .mpi_loops import _I32, _I64, _mpi, all_reduce, all_to_all, barrier

# (send buffer, count, datatype, receive buffer, count, datatype, communicator)
all_gather = _mpi("MPI_Allgather", _I64, _I32, _I64, _I64, _I32, _I64, _I64)
# (send buffer, receive buffer, count, datatype, operation, communicator)
reduce_scatter = _mpi("MPI_Reduce_scatter_block", _I64, _I64, _I32, _I64, _I64, _I64)
# (buffer, count, datatype, root, communicator)
broadcast = _mpi("MPI_Bcast", _I64, _I32, _I64, _I32, _I64)

OPERATIONS = ("barrier", "all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all")
# Words of `operation`; the count is of a block.
OF_MPI_KIND, OF_MPI_SRC, OF_MPI_DST, OF_MPI_COUNT, OF_MPI_DATATYPE, OF_MPI_OP, OF_MPI_WORLD = range(7)


@device_function
def do_operation(operation, epoch, end_ns):
    """One operation; what MPI returns."""
    kind, world = load_i64(operation, OF_MPI_KIND), load_i64(operation, OF_MPI_WORLD)
    src, dst = load_i64(operation, OF_MPI_SRC), load_i64(operation, OF_MPI_DST)
    count, datatype = load_i64(operation, OF_MPI_COUNT), load_i64(operation, OF_MPI_DATATYPE)
    op = load_i64(operation, OF_MPI_OP)
    if kind == 0:
        return barrier(world)
    if kind == 1:
        return all_reduce(src, dst, count, datatype, op, world)
    if kind == 2:
        return all_gather(src, count, datatype, dst, count, datatype, world)
    if kind == 3:
        return reduce_scatter(src, dst, count, datatype, op, world)
    if kind == 4:
        return broadcast(dst, count, datatype, 0, world)
    return all_to_all(src, count, datatype, dst, count, datatype, world)


@device_function
def meet(world, epoch, end_ns):
    """A barrier."""
    return barrier(world)


by_mpi = cpu_kernel(TOUCHED, group="mpi")(
    variant(touched_operations, "by_mpi", do_operation=do_operation, meet=meet)
)
