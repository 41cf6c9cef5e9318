"""A rank's part of a collective operation of MPI: private buffers, as a program of MPI has them."""

from __future__ import annotations

from typing import Any

import numpy as np

from umem import limits
from umem.errors import FabricError, Waived

from ..harness.collective import REDUCING, Operation
from ..harness.stats import Samples
from ..parts.touch import Plan, operations_in_sample

DATATYPES = {
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "int8": "INT8_T",
    "int16": "INT16_T",
    "int32": "INT32_T",
    "int64": "INT64_T",
    "uint8": "UINT8_T",
}
MPI_REDUCTIONS = {"sum": "SUM", "prod": "PROD", "min": "MIN", "max": "MAX"}


class Collective:
    """One operation. `context` is the mpi4py.MPI module."""

    def __init__(self, context: Any, operation: str, num_bytes: int, dtype: str, op: str, in_place: bool):
        from . import mpi_collective_loops as loops

        self.loops = loops
        self.world = world = context.COMM_WORLD
        self.what = what = Operation(
            operation, num_bytes, world.Get_size(), world.Get_rank(), dtype, op, in_place
        )
        self.buffers = [np.zeros(max(num_bytes, 8), np.uint8) for _ in range(what.num_buffers)]
        src, dst = what.places([buffer.ctypes.data for buffer in self.buffers])
        if in_place and operation == "reduce_scatter":
            dst = src  # where MPI puts every rank's block
        self.plan = Plan(what, src, dst)
        datatype, count = self._elements(context)
        if in_place:  # what MPI takes for the buffer that is given once
            here = int(context.IN_PLACE)
            src, dst = {"all_reduce": (here, dst), "all_gather": (here, dst), "reduce_scatter": (here, src)}[
                operation
            ]
        handles = [context._handleof(thing) for thing in (datatype, self._reduction(context), world)]
        words = [loops.OPERATIONS.index(operation), src, dst, count, *map(int, handles)]
        self.call = np.array(words, np.int64)
        self.batch = operations_in_sample(what, what.num_ranks <= len(limits.usable_cores()))

    def block(self, num_samples: int) -> Samples:
        """Seconds per operation, at every rank."""
        times = np.zeros(num_samples, np.int64)
        self.world.Barrier()
        code = self.loops.by_mpi.compiled(
            self.call.ctypes.data,
            int(self.call[self.loops.OF_MPI_WORLD]),
            self.plan.address,
            num_samples,
            self.batch,
            times.ctypes.data,
            0,
            0,
        )
        if code:
            raise FabricError(f"MPI returned an error in {self.what.name}")
        return np.multiply(times, 1e-9)

    def num_errors(self) -> int:
        """Wrong words since the last call."""
        return self.plan.num_wrong()

    def close(self) -> None:
        """Nothing is held."""

    def _elements(self, context: Any) -> tuple[Any, int]:
        """(datatype, number of elements of a block)."""
        what = self.what
        if what.dtype in DATATYPES:
            datatype = getattr(context, DATATYPES[what.dtype])
            return datatype, what.block_bytes // what.item_bytes
        if what.name in REDUCING:
            raise Waived(f"MPI combines no {what.dtype}")
        return context.BYTE, what.block_bytes

    def _reduction(self, context: Any) -> Any:
        if self.what.op not in MPI_REDUCTIONS:
            raise Waived(f"MPI has no reduction {self.what.op!r}")
        return getattr(context, MPI_REDUCTIONS[self.what.op])
