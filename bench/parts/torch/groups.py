"""torch.distributed over umem, over gloo, and over a backend that does nothing: in the same ranks, in turns."""

from __future__ import annotations

import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import Work
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from umem import config
from umem.space.space import Space
from umem.torch.backend import register

from ...harness.stats import Samples
from ..base import SpacePart

ROWS_OF_STEP = 32  # rows
MODEL_SHAPES = {"small": (64, 128, 10), "4M": (512, 1024, 512)}  # of a model with one hidden layer
CALLS_OF_SAMPLE = 100


class Nothing(dist.ProcessGroup):
    """The least that a backend in Python does: it returns a Work."""

    class Ended(Work):
        """A Work that has ended."""

        def wait(self, timeout: Any = None) -> bool:
            return True

    def allreduce(self, tensors: Any, opts: Any = None) -> Work:
        return self.Ended()

    def size(self) -> int:
        return dist.get_world_size()

    def shutdown(self) -> None:
        """Nothing."""

    def setGroupName(self, name: str) -> None:
        """Nothing."""

    _set_group_name = _set_group_desc = setGroupName


@cache
def groups(space: Space) -> dict[str, Any]:
    """A group of all ranks for each backend. Collective, once in a process."""
    register()
    path = tempfile.mkdtemp(prefix="umem-bench-") if space.rank == 0 else ""
    folder = Path(space.world.exchange("bench/groups", path.encode())[0].decode())
    store = dist.FileStore(str(folder / "store"), space.num_ranks)
    dist.init_process_group("umem", store=store, rank=space.rank, world_size=space.num_ranks)
    dist.Backend.register_backend(
        "nothing", lambda opts, _: Nothing(opts.group_rank, opts.group_size), True, devices=["cpu"]
    )
    with config.environment({"GLOO_SOCKET_IFNAME": "lo"}):
        made = {"umem": dist.group.WORLD, "gloo": dist.new_group(backend="gloo")}
    made["nothing"] = dist.new_group(backend="nothing")
    space.barrier()
    if space.rank == 0:
        (folder / "store").unlink()
        folder.rmdir()
    return made


class AllReduce(SpacePart):
    """dist.all_reduce of a tensor of `num_bytes`."""

    def __init__(self, space: Space, num_bytes: int):
        super().__init__(space)
        self.tensor = torch.ones(num_bytes // 4)
        self.group: Any = None

    def run(self, num_samples: int, backend: str) -> Samples | None:
        """Mean seconds of a call, of a number of calls each."""
        self.group = groups(self.space)[backend]
        self.tensor.fill_(self.rank + 1)
        dist.all_reduce(self.tensor, group=self.group)
        num_ranks = self.space.num_ranks
        wanted = self.rank + 1 if backend == "nothing" else num_ranks * (num_ranks + 1) / 2
        self.expect(bool((self.tensor == wanted).all()))
        self.tensor.zero_()
        num_calls = 1 if backend == "gloo" else CALLS_OF_SAMPLE
        return self.timed(num_samples, num_calls, lambda: self._calls(num_calls))

    def _calls(self, num_calls: int) -> int:
        for _ in range(num_calls):
            dist.all_reduce(self.tensor, group=self.group)
        return 0


class Training(SpacePart):
    """One training step of a small model in every rank, wrapped by DDP or FSDP2: a copy of it for each backend."""

    def __init__(self, space: Space, wrapper: str, model: str):
        super().__init__(space)
        torch.set_num_threads(1)
        self.made = groups(space)
        self.models: dict[str, Any] = {}
        for backend in ("umem", "gloo", "alone"):
            plain = network(*MODEL_SHAPES[model])
            wrapped: Any = plain
            if backend != "alone" and wrapper == "ddp":
                wrapped = DistributedDataParallel(plain, process_group=self.made[backend])
            elif backend != "alone":
                mesh = DeviceMesh.from_group(self.made[backend], "cpu")
                for layer in plain:
                    fully_shard(layer, mesh=mesh)
                fully_shard(plain, mesh=mesh)
            self.models[backend] = wrapped, torch.optim.SGD(plain.parameters(), lr=0.01), plain
        made = torch.Generator().manual_seed(space.rank)
        self.inputs = torch.randn(ROWS_OF_STEP, MODEL_SHAPES[model][0], generator=made)
        self.steps = dict.fromkeys(self.models, 0)
        self.weights: dict[tuple[str, int], torch.Tensor] = {}

    def run(self, num_samples: int, backend: str) -> Samples | None:
        """Seconds of each step; after equal numbers of steps the weights are those of the other backend."""
        wrapped, optimizer, plain = self.models[backend]
        samples = np.empty(num_samples)
        for sample in range(num_samples):
            self.space.barrier()
            begin = time.perf_counter_ns()
            optimizer.zero_grad()
            wrapped(self.inputs).square().mean().backward()
            optimizer.step()
            samples[sample] = (time.perf_counter_ns() - begin) * 1e-9
        if backend != "alone":
            self.steps[backend] += num_samples
            self._compare(backend, plain)
        return samples if self.is_timed else None

    def _compare(self, backend: str, plain: nn.Module) -> None:
        first = next(plain.parameters()).detach()
        own = first.to_local() if hasattr(first, "to_local") else first
        num_steps = self.steps[backend]
        other = self.weights.pop(("gloo" if backend == "umem" else "umem", num_steps), None)
        if other is None:
            self.weights[backend, num_steps] = own.clone()
        else:
            self.expect(torch.allclose(own, other, rtol=1e-4, atol=1e-5))


def network(num_inputs: int, num_hidden: int, num_outputs: int) -> nn.Sequential:
    """The model, the same in all ranks."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(num_inputs, num_hidden), nn.ReLU(), nn.Linear(num_hidden, num_outputs))
