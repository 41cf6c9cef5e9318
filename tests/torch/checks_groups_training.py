"""Training over the backend "umem", compared with gloo: run by test_groups.py."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import umem
from umem.errors import ConfigError, RankLost, WorldError

NUM_STEPS = 4


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(37, 101), nn.ReLU(), nn.Linear(101, 101), nn.ReLU(), nn.Linear(101, 9))


def train(wrapped, plain, rank):
    # Plain descent: Adam would make much of the last bits of gradients that are nearly nothing.
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    for step in range(NUM_STEPS):
        inputs = torch.randn(8, 37, generator=torch.Generator().manual_seed(100 * step + rank))
        optimizer.zero_grad()
        wrapped(inputs).square().mean().backward()
        optimizer.step()


def close(weights, others):
    """Equal but for the order of a sum."""
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(weights, others, strict=True))


def gloo():
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    return dist.new_group(backend="gloo")


def check_ddp(rank, size):
    trained = []
    for group in (None, gloo()):
        plain = model()
        # Buckets of 4 KiB: several reductions run while backward goes on.
        train(DistributedDataParallel(plain, process_group=group, bucket_cap_mb=0.004), plain, rank)
        trained.append([p.detach().clone() for p in plain.parameters()])
    assert close(*trained)
    first = [weights.clone() for weights in trained[0]]
    for weights in first:
        dist.broadcast(weights, 0)
    assert all(
        torch.equal(a, b) for a, b in zip(first, trained[0], strict=True)
    )  # every rank has the same bits


def check_ddp_hooks(rank, size):
    """Communication hooks, gradients of float16, no_sync, unused parameters."""
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    plain = model()
    wrapped = DistributedDataParallel(plain, find_unused_parameters=True, static_graph=False)
    wrapped.register_comm_hook(None, default_hooks.fp16_compress_hook)
    with wrapped.no_sync():
        wrapped(torch.randn(4, 37)).sum().backward()
    wrapped(torch.randn(4, 37)).sum().backward()
    grads = [p.grad.clone() for p in plain.parameters()]
    for grad in grads:
        mine = grad.clone()
        dist.broadcast(mine, 0)
        assert torch.equal(mine, grad)


def check_fsdp(rank, size):
    trained = []
    for group in (dist.group.WORLD, gloo()):
        plain = model()
        mesh = DeviceMesh.from_group(group, "cpu")
        for layer in plain:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(plain, mesh=mesh)
        train(plain, plain, rank)
        trained.append([p.full_tensor().detach() for p in plain.parameters()])
    assert close(*trained)


def check_tensor_parallel(rank, size):
    mesh = dist.init_device_mesh("cpu", (size,))
    torch.manual_seed(5)
    plain = nn.Sequential(nn.Linear(16, 8 * size), nn.ReLU(), nn.Linear(8 * size, 12))
    inputs = torch.randn(6, 16)
    wanted = plain(inputs)
    wanted.sum().backward()
    gradient = plain[0].weight.grad.clone()
    plain.zero_grad()
    parallelize_module(plain, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    out = plain(inputs)
    assert torch.allclose(out, wanted, atol=1e-5)
    out.sum().backward()
    assert torch.allclose(plain[0].weight.grad.full_tensor(), gradient, atol=1e-5)


def check_death(space, path):
    """Everyone hears of a death, and goes on without the rank that died."""
    rank, size = space.rank, space.num_ranks
    died = 1
    store = dist.FileStore(f"{path}/death", size)
    dist.init_process_group("umem", store=store, rank=rank, world_size=size)
    one = torch.ones(100_000)
    dist.all_reduce(one)
    waiting = dist.all_reduce(one, async_op=True) if rank != died else None
    if rank == died:
        time.sleep(0.2)  # the others wait by now, or will
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(RankLost, match=f"rank {died}"):
        waiting.wait()
    with pytest.raises(RankLost):
        dist.barrier()
    with pytest.raises(ConfigError, match="exclude"):
        umem.torch.shrink([size])
    group = umem.torch.shrink([died])
    left = size - 1
    assert (dist.get_world_size(), dist.get_rank()) == (left, rank - (rank > died))
    one = torch.ones(3)
    dist.all_reduce(one, group=group)
    assert one.tolist() == [left] * 3
    got = [None] * left
    dist.all_gather_object(got, rank)
    assert got == [r for r in range(size) if r != died]
    dist.all_reduce(one, group=dist.new_group([0, 1]))
    dist.destroy_process_group()
    with pytest.raises((WorldError, ValueError)):
        dist.all_reduce(one)


def check_refused(space, path):
    """What torch asks of another rank is refused, and a space that was opened for it is closed again."""
    store = dist.FileStore(f"{path}/refused", space.num_ranks)
    turned = (space.rank + 1) % space.num_ranks
    with pytest.raises(WorldError, match="start both with the same launcher"):
        dist.init_process_group("umem", store=store, rank=turned, world_size=space.num_ranks)
    assert space.is_open and not dist.is_initialized()
