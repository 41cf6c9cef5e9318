"""A rank's part of a collective operation of gloo, through torch.distributed as its users call it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from umem.errors import Waived
from umem.units import MIB

from ..harness.collective import Operation
from ..harness.stats import Samples
from ..parts.touch import Plan
from .gloo import TRIAL_ROUNDS, Gloo

GLOO_REDUCTIONS = {"sum": "SUM", "prod": "PRODUCT", "min": "MIN", "max": "MAX"}
UNKNOWN = ("int16",)
SUM_OF_TRIAL_BYTES = 32 * MIB


class Collective(Gloo):
    """One operation, each timed. `context` is the torch.distributed module."""

    def __init__(self, context: Any, operation: str, num_bytes: int, dtype: str, op: str, in_place: bool):
        import torch

        if dtype in UNKNOWN or op not in GLOO_REDUCTIONS:
            raise Waived(f"gloo has no {op} of {dtype}")
        self.dist, self.errors = context, 0
        self.rank, self.num_ranks = context.get_rank(), context.get_world_size()
        self.trial_rounds = max(2, min(TRIAL_ROUNDS, SUM_OF_TRIAL_BYTES // max(num_bytes, 1)))
        what = Operation(operation, num_bytes, self.num_ranks, self.rank, dtype, op, in_place)
        buffers = [torch.zeros(max(num_bytes, 8), dtype=torch.uint8) for _ in range(what.num_buffers)]
        src, dst = what.places([buffer.data_ptr() for buffer in buffers])
        self.what, self.plan = what, Plan(what, src, dst)
        kind = getattr(torch, dtype)
        src -= buffers[0].data_ptr()
        dst -= buffers[-1].data_ptr()
        self.src = buffers[0][src : src + what.src_bytes].view(kind)
        self.dst = buffers[-1][dst : dst + what.dst_bytes].view(kind)
        self.op = getattr(context.ReduceOp, GLOO_REDUCTIONS[op])
        self._pin_if_faster()

    def block(self, num_samples: int) -> Samples:
        """Seconds per operation, at every rank."""
        samples = np.empty(num_samples)
        for sample in range(num_samples):
            self.plan.write_inputs()
            self.dist.barrier()
            begin = time.perf_counter()
            self._do()
            samples[sample] = time.perf_counter() - begin
            self.plan.read_outputs()
        return samples

    def num_errors(self) -> int:
        """Wrong words since the last call."""
        return self.plan.num_wrong()

    def _do(self) -> None:
        match self.what.name:
            case "barrier":
                self.dist.barrier()
            case "all_reduce":
                if not self.what.in_place:  # it knows no other
                    self.dst.copy_(self.src)
                self.dist.all_reduce(self.dst, self.op)
            case "all_gather":
                self.dist.all_gather_into_tensor(self.dst, self.src)
            case "reduce_scatter":
                self.dist.reduce_scatter_tensor(self.dst, self.src, self.op)
            case "broadcast":
                self.dist.broadcast(self.dst, 0)
            case "all_to_all":
                self.dist.all_to_all_single(self.dst, self.src)
