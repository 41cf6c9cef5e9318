"""Modules of embeddings against torch's own, in every rank of a world: run by test_embedding.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import umem
from umem import embedding
from umem.errors import CheckpointError, ConfigError

NUM_ROWS, NUM_COLUMNS = 61, 10


def parts_of(tensors, space, num):
    """This rank's part of a batch of `num`."""
    begin, end = (num * part // space.num_ranks for part in (space.rank, space.rank + 1))
    return [tensor[begin:end] for tensor in tensors]


def check_bags(space, path):
    """Forward, gradients of the inputs, and weights after some steps, by every mode."""
    team = umem.Team(space)
    made = torch.Generator().manual_seed(4)
    for mode in ("sum", "mean", "max"):
        ours = umem.torch.EmbeddingBag(
            team, NUM_ROWS, NUM_COLUMNS, mode, padding_idx=3, optimizer="sgd", seed=9
        )
        theirs = nn.EmbeddingBag(NUM_ROWS, NUM_COLUMNS, mode=mode, padding_idx=3, _weight=ours.weight)
        optimizer = umem.torch.SparseOptimizer([ours], lr=0.5)
        reference = torch.optim.SGD(theirs.parameters(), lr=0.5)
        for _ in range(3):
            ids = torch.randint(0, NUM_ROWS, (24, 5), generator=made)
            weights = torch.rand(24, 5, generator=made) if mode == "sum" else None
            target = torch.randn(24, NUM_COLUMNS, generator=made)
            own_ids, own_target = parts_of((ids, target), space, 24)
            own_weights = None
            if weights is not None:
                weights.requires_grad_()
                own_weights = parts_of((weights.detach(),), space, 24)[0].requires_grad_()
            out = ours(own_ids, per_sample_weights=own_weights)
            expected = theirs(ids, per_sample_weights=weights)
            assert torch.allclose(out, parts_of((expected,), space, 24)[0], atol=1e-5)
            (out - own_target).square().sum().backward()
            reference.zero_grad()
            (expected - target).square().sum().backward()
            if weights is not None:
                assert torch.allclose(own_weights.grad, parts_of((weights.grad,), space, 24)[0], atol=1e-4)
            optimizer.step()
            reference.step()
            assert torch.allclose(ours.weight, theirs.weight, atol=1e-4), mode
    with pytest.raises(ConfigError, match="padding_idx"):
        umem.torch.EmbeddingBag(team, 10, 4, padding_idx=10)


def check_rows(space, path):
    """Single rows: bit-equal, with ids of any shape."""
    team = umem.Team(space)
    for dtype in (torch.float32, torch.bfloat16):
        ours = umem.torch.Embedding(team, NUM_ROWS, NUM_COLUMNS, dtype=dtype, optimizer="sgd", seed=2)
        theirs = nn.Embedding(NUM_ROWS, NUM_COLUMNS, _weight=ours.weight, dtype=dtype)
        ids = torch.arange(24).view(2, 12) * 5 % NUM_ROWS  # none twice
        own = parts_of((ids.reshape(-1),), space, 24)[0]
        assert torch.equal(ours(ids), theirs(ids)) and torch.equal(ours(ids[0, 0]), theirs(ids[0, 0]))
        ours(own).float().square().sum().backward()
        theirs(ids).float().square().sum().backward()
        umem.torch.SparseOptimizer([ours], lr=0.25).step()
        with torch.no_grad():
            stepped = (theirs.weight.float() - 0.25 * theirs.weight.grad.float()).to(dtype)
        assert torch.equal(ours.weight, stepped)


def check_accumulation(space, path):
    """Several backward passes before a step; a rank without a batch; a model around it."""
    team = umem.Team(space)
    ours = umem.torch.EmbeddingBag(team, NUM_ROWS, NUM_COLUMNS, "mean", optimizer="adagrad")
    optimizer = umem.torch.SparseOptimizer([nn.Sequential(ours)], lr=0.1)
    before = ours.weight
    for _ in range(2):
        if space.rank == 0:
            ours(torch.tensor([1, 2, 1]), torch.tensor([0, 2])).sum().backward()
    optimizer.step()
    moved = (ours.weight != before).any(1).nonzero().flatten().tolist()
    assert moved == [1, 2]
    optimizer.step()
    assert torch.equal(ours.weight[0], before[0]) and "61, 10" in repr(ours)


def check_saving(space, path):
    """What any number of ranks saved; cut short; another table."""
    team = umem.Team(space)
    table = umem.EmbeddingTable(team, 1001, 6, "float16", optimizer="adagrad")
    ids = np.arange(1001)
    if space.rank == 0:
        table.update_rows(ids, ids[:, None] % 100 + np.arange(6))
    space.barrier()
    for part in table.own_parts():
        states = part.own_states(team.position)
        states[:, 0] = np.arange(len(states)) * team.size + team.position
    table.num_steps = 7
    embedding.save(table, f"{path}/table")
    for placement, optimizer in (("rows", "adagrad"), (0, "adagrad"), ("columns", None)):
        other = umem.EmbeddingTable(team, 1001, 6, "float16", placement, optimizer)
        embedding.load(other, f"{path}/table")
        assert np.array_equal(other.lookup(ids), table.lookup(ids))
        assert other.num_steps == (7 if optimizer else 0)
        for part in other.own_parts() if optimizer else ():
            if part.num_rows:
                each = len(part.shard.homes)
                wanted = np.arange(part.shard.homes.index(team.position), 1001, each)
                assert np.array_equal(part.own_states(team.position)[:, 0], wanted)
        other.close()
    with pytest.raises(CheckpointError, match="num_columns is 6 there and 5"):
        embedding.load(umem.EmbeddingTable(team, 1001, 5, "float16"), f"{path}/table")
    space.barrier()
    half = umem.EmbeddingTable(team, 1001, 6, "float16")
    embedding.save(half, f"{path}/half")
    space.barrier()
    if space.rank == 0:
        file = next(iter(sorted((Path(path) / "half").glob("rows-*.npy"))))
        file.write_bytes(file.read_bytes()[:-100])
    space.barrier()
    with pytest.raises(CheckpointError, match="cut short"):
        embedding.load(half, f"{path}/half")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        embedding.load(half, f"{path}/nothing")


def check_models(space, path):
    """Inside of DistributedDataParallel, whose dense part alone is its; rows of int8, which are looked up alone."""
    team = umem.Team(space)
    bags = umem.torch.EmbeddingBag(team, NUM_ROWS, NUM_COLUMNS, "sum", optimizer="sgd")
    assert not list(bags.parameters())
    model = nn.Sequential(bags, nn.Linear(NUM_COLUMNS, 1))
    store = dist.FileStore(f"{path}/models", space.num_ranks)
    dist.init_process_group("umem", store=store, rank=space.rank, world_size=space.num_ranks)
    wrapped = nn.parallel.DistributedDataParallel(model)
    for _ in range(3):
        wrapped(torch.tensor([[1, 2], [3, 3]])).sum().backward()
        umem.torch.SparseOptimizer([model], lr=0.1).step()
    dist.destroy_process_group()
    floats = umem.torch.Embedding(team, NUM_ROWS, NUM_COLUMNS, padding_idx=4, optimizer=None, seed=1).weight
    ours = umem.torch.Embedding(
        team, NUM_ROWS, NUM_COLUMNS, padding_idx=4, dtype=torch.int8, optimizer=None, seed=1
    )
    assert ours.weight.dtype == torch.float32 and not ours.weight[4].any()
    assert torch.allclose(ours.weight, floats, atol=0.02) and not torch.equal(ours.weight, floats)


CHECKS = {
    check.__name__.removeprefix("check_"): check
    for check in (check_bags, check_rows, check_accumulation, check_saving, check_models)
}


def run(space, name, path):
    """One of the checks."""
    CHECKS[name](space, path)
