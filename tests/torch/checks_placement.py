"""Where tensors live and how they come to live elsewhere, as functions that every rank of a world runs."""

from __future__ import annotations

import pytest
import torch

from umem.errors import AddressError, AlignmentError, ConfigError, NotAllocated, NotMappable
from umem.torch import adopt, empty, home, install, memory_summary, placement, to_home, use_pool
from umem.torch.pool import installed

from .checks_allocator import neighbour, num_live


def home_names_the_rank(space):
    install(space)
    for rank in range(space.num_ranks):
        with use_pool(home=rank):
            assert home(torch.ones(100)) == rank
    with use_pool(home="host"):
        assert home(torch.ones(100)) == space.rank
    with use_pool(home="striped"):
        assert home(torch.ones(100)) == "striped"
    assert home(torch.ones(100)) is None
    assert home(torch.ones(3).to_sparse()) is None and home(torch.ones(3, device="meta")) is None


def to_home_copies_only_what_is_elsewhere(space):
    outside = torch.arange(12.0).reshape(3, 4).t()
    moved = to_home(outside, neighbour(space))
    assert home(moved) == neighbour(space) and torch.equal(moved, outside)
    assert moved.stride() == outside.stride()
    assert to_home(moved, neighbour(space)) is moved
    view = moved[1:]
    assert to_home(view, neighbour(space)) is view
    assert home(to_home(moved, space.rank)) == space.rank
    assert home(to_home(moved, "host")) == space.rank and to_home(moved, "host") is not moved
    assert to_home(moved, "host", spill=(neighbour(space),)) is moved, "a home of the list is as good"


def to_home_copies_what_is_there_in_part(space):
    with use_pool(home=space.rank):
        indices = torch.tensor([[0, 2]])
    with use_pool(home=neighbour(space)):
        values = torch.tensor([3.0, 4.0])
    mixed = torch.sparse_coo_tensor(indices, values, (3,), is_coalesced=True)
    with pytest.raises(ConfigError, match="live at"):
        home(mixed)
    for place in (space.rank, neighbour(space)):
        moved = to_home(mixed, place)
        assert home(moved) == place and torch.equal(moved.to_dense(), torch.tensor([3.0, 0.0, 4.0]))


def gradients_flow_through_the_copy(space):
    weight = torch.ones(3, requires_grad=True)
    (to_home(weight, neighbour(space)) * 2).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [2.0, 2.0, 2.0]
    module = torch.nn.Linear(4, 4)
    parameters, before = list(module.parameters()), [p.detach().clone() for p in module.parameters()]
    assert to_home(module, neighbour(space)) is module
    assert all(p is q for p, q in zip(module.parameters(), parameters, strict=True))
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
    assert {home(p) for p in module.parameters()} == {neighbour(space)}


def empty_takes_what_torch_takes(space):
    made = empty(3, 5, home=neighbour(space), dtype=torch.float64, requires_grad=True)
    assert made.shape == (3, 5) and made.dtype is torch.float64 and made.requires_grad
    assert home(made) == neighbour(space) and home(empty((2, 2))) == space.rank


def adopted_memory_is_the_allocation(space):
    before = num_live()
    address = space.alloc(4096, home=neighbour(space))
    whole, part = adopt(address, (32, 32)), adopt(address + 1024, 8, torch.int32)
    assert whole.data_ptr() == address and part.data_ptr() == address + 1024
    whole.fill_(2.5)
    assert space.load(address + 4092, "float32") == 2.5
    part.fill_(7)
    assert whole[8].view(torch.int32)[:8].tolist() == [7] * 8
    del whole
    assert int(part[0]) == 7, "the last tensor over it keeps it"
    assert num_live() == before + 1
    del part
    assert num_live() == before
    with pytest.raises(NotAllocated):
        space.heap.find(address)


def adopting_what_others_own_adds_a_reference(space):
    mine = space.alloc(256)
    space.store(mine, 1.5 + space.rank, "float32")
    addresses = [int(blob) for blob in space.world.exchange("adopt", str(mine).encode())]
    other = adopt(addresses[neighbour(space)], 64)
    space.barrier()
    space.free(mine)
    space.barrier()
    assert float(other[0]) == 1.5 + neighbour(space), "the owner has let go, the tensor holds it"
    address = other.data_ptr()
    del other
    with pytest.raises(NotAllocated):
        space.heap.find(address)


def bad_adoptions_are_named(space):
    address, before = space.alloc(256), num_live()
    with pytest.raises(AddressError, match="past the allocation"):
        adopt(address + 128, 33)
    with pytest.raises(AlignmentError):
        adopt(address + 2, 1)
    with pytest.raises(ConfigError, match="negative"):
        adopt(address, (-1, 2))
    cached = space.alloc(1024, cache="back")
    with pytest.raises(NotMappable, match="cache='back'"):
        adopt(cached, 64)
    space.free(cached)
    with pytest.raises(AddressError):
        adopt(0x1234, 1)
    space.free(address)
    with pytest.raises(NotAllocated):
        adopt(address, 1)
    assert num_live() == before


class Torch:
    """torch, without memory for another storage."""

    def __getattr__(self, name):
        return getattr(torch, name)

    def empty(self, *size, **options):
        raise MemoryError("no more")


def a_storage_that_is_not_made_leaves_its_place_to_nobody(space):
    address = space.alloc(256)
    placement.torch = Torch()
    try:
        with pytest.raises(MemoryError):
            placement.storage_at(installed(), address, 256)
    finally:
        placement.torch = torch
    with use_pool(home=space.rank):
        assert torch.ones(64).data_ptr() != address
    space.free(address)


def the_summary_counts(space):
    with use_pool(home="host"):
        kept = torch.empty(3 << 20, dtype=torch.uint8)
    text = memory_summary()
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1, text
    row = next(line for line in lines if line.startswith(f"| rank {space.rank} host"))
    assert "3M" in row, row
    count = next(line for line in lines if line.startswith("| live storages"))
    assert count.split("|")[2].strip() == str(installed().num_live())
    del kept


MAPPED = {
    check.__name__: check
    for check in (
        home_names_the_rank,
        to_home_copies_only_what_is_elsewhere,
        to_home_copies_what_is_there_in_part,
        gradients_flow_through_the_copy,
        empty_takes_what_torch_takes,
        adopted_memory_is_the_allocation,
        adopting_what_others_own_adds_a_reference,
        bad_adoptions_are_named,
        a_storage_that_is_not_made_leaves_its_place_to_nobody,
        the_summary_counts,
    )
}
