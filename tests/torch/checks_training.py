"""Training with its state elsewhere, as functions that every rank of a world runs."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from umem.errors import ConfigError, UnknownName
from umem.torch import home, install, offload_activations, offload_optimizer, to_home, use_pool
from umem.torch.pool import installed

from .checks_allocator import neighbour, num_live

STEPS = 50


def block(width: int) -> torch.nn.Module:
    return torch.nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True, dropout=0.1)


def train(make, data, steps=STEPS, offload_to=None, pool_home=None, restart=False):
    """Weights after some steps of AdamW, and the optimizer."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    offloaded = offload_optimizer(optimizer, offload_to, min_bytes=512) if offload_to is not None else None
    for step in range(steps):
        optimizer.zero_grad()
        if offload_to is not None:
            with offload_activations(offload_to, keep=model, min_bytes=512):
                loss = model(data).square().mean()
        else:
            loss = model(data).square().mean()
        if offload_to is not None and step == 0:
            assert installed().num_live() > 3, "activations are in the pool"
        loss.backward()
        optimizer.step()
        if restart and step == steps // 2:
            optimizer.load_state_dict(optimizer.state_dict())
    if offloaded is not None:
        offloaded.remove()
    return [parameter.detach().clone() for parameter in model.parameters()], optimizer


def models():
    yield (
        lambda: torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 8)),
        torch.randn(16, 32),
    )
    yield lambda: block(32), torch.randn(4, 10, 32)


def training_in_the_pool_changes_no_bit(space):
    install(space)
    torch.manual_seed(0)
    for make, data in models():
        expected, _ = train(make, data)
        with use_pool(home=neighbour(space)):
            got, optimizer = train(make, data)
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
        assert {home(tensor) for tensor in got} == {neighbour(space)}
        del got, optimizer


def offloaded_state_changes_no_bit(space):
    torch.manual_seed(0)
    for restart in (False, True):
        for make, data in models():
            expected, _ = train(make, data, restart=restart)
            before = num_live()
            got, optimizer = train(make, data, offload_to=neighbour(space), restart=restart)
            assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
            states = [s["exp_avg"] for s in optimizer.state.values() if s["exp_avg"].nbytes >= 512]
            assert states and {home(tensor) for tensor in states} == {neighbour(space)}
            assert {home(s["step"]) for s in optimizer.state.values()} == {None}, "small ones stay"
            assert {home(tensor) for tensor in got} == {None}
            del optimizer, states
            assert num_live() == before, "nothing of backward is left in the pool"


def state_in_lists_is_moved_and_what_stays_is_named(space):
    def train_by_lbfgs(offload_to=None):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(64, 64))
        optimizer = torch.optim.LBFGS([weight], max_iter=3)
        offloaded = None if offload_to is None else offload_optimizer(optimizer, offload_to)
        for _ in range(3):
            optimizer.step(lambda: loss_of(weight))
        return weight.detach(), optimizer.state[weight], offloaded

    def loss_of(weight):
        weight.grad = None
        loss = (weight.square() - 1).square().mean()
        loss.backward()
        return loss

    expected, _, _ = train_by_lbfgs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got, state, offloaded = train_by_lbfgs(neighbour(space))
    assert torch.equal(expected, got)
    assert state["old_dirs"] and {home(one) for one in state["old_dirs"]} == {neighbour(space)}
    assert home(state["d"]) == neighbour(space)
    assert all(why.startswith("small") for why in offloaded.left_behind().values())

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))])
    flat, tied = torch.ones(4096), torch.ones(2048)
    first, second = (optimizer.state[one] for one in optimizer.param_groups[0]["params"])
    first.update(flat=flat[:2048], again=(tied, {"deep": tied}), steps=3)
    second.update(away=torch.ones(2048, device="meta"), hidden=range(3), small=torch.ones(2))
    with pytest.warns(RuntimeWarning, match=r"3 of the optimizer's states.*away of parameter 1 \(on meta\)"):
        offloaded = offload_optimizer(optimizer, neighbour(space))
    assert offloaded.left_behind() == {
        "flat of parameter 0": "a view of a larger tensor",
        "away of parameter 1": "on meta",
        "hidden of parameter 1": "in a range",
        "small of parameter 1": "small, 8 bytes",
    }
    moved, inside = first["again"]
    assert (
        moved is inside["deep"]
        and home(moved) == neighbour(space)
        and first["flat"].data_ptr() == flat.data_ptr()
    )
    del moved, inside, first, second, optimizer, offloaded, state


def distributed_tensors_are_moved_by_their_local_ones(space):
    """What a user of FSDP2 or of tensor parallelism has; a world of one of torch's, so that nothing is sent."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    mesh, there = init_device_mesh("cpu", (1,)), neighbour(space)
    try:
        outside = distribute_tensor(torch.ones(64, 64), mesh, [Shard(0)])
        inside = to_home(outside, there)
        assert (home(outside), home(inside)) == (None, there) and type(inside) is DTensor
        assert to_home(inside, there) is inside
        space.send(inside.to_local(), there)
        assert space.recv(there).sum() == 64 * 64

        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
        for layer in (*model, model):
            fully_shard(layer, mesh=mesh)
        optimizer = torch.optim.AdamW(model.parameters())
        offloaded = offload_optimizer(optimizer, there)
        with offload_activations(there, keep=model):
            loss = torch.sigmoid(model(torch.ones(64, 64))).sum()
        loss.backward()
        optimizer.step()
        weights = [parameter for parameter in model.parameters() if parameter.dim() == 2]
        assert {home(optimizer.state[weight]["exp_avg"]) for weight in weights} == {there}
        before = list(model.parameters())
        to_home(model, there)
        assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
        assert {home(parameter) for parameter in before} == {there}
        with use_pool(home=there):
            model(torch.ones(64, 64)).sum().backward()
        optimizer.step()
        offloaded.remove()
    finally:
        torch.distributed.destroy_process_group()
    space.barrier()


def what_has_no_memory_stays_as_it_is(space):
    module = torch.nn.Sequential(torch.nn.LazyLinear(4), torch.nn.Linear(4, 2))
    to_home(module, neighbour(space))
    assert home(module[0].weight) is None and home(module[1].weight) == neighbour(space)
    meta = torch.ones(3, device="meta")
    assert to_home(meta, 0) is meta
    sparse = to_home(torch.eye(5).to_sparse(), neighbour(space))
    assert home(sparse) == neighbour(space)
    parts = torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)], layout=torch.jagged)
    with pytest.raises(ConfigError, match="the parts of a NestedTensor live at"):
        home(to_home(parts, neighbour(space)))
    assert torch.vmap(lambda row: to_home(row, 0) * 2)(torch.ones(3)).tolist() == [2.0] * 3


def parameters_are_not_copied(space):
    linear = torch.nn.Linear(64, 64)
    data = torch.randn(64, 64, requires_grad=True)
    before = num_live()
    with offload_activations(neighbour(space), keep=linear, min_bytes=1):
        out = linear(data)
    assert num_live() == before, "a linear layer saves its input and its weight, both leaves"
    out.sum().backward()
    with offload_activations(neighbour(space), keep=[linear.weight], min_bytes=1):
        out = torch.sigmoid(linear(data * 2))
    assert num_live() > before
    out.sum().backward()
    del out
    assert num_live() == before


def bad_homes_are_named_before_anything_moves(space):
    module = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(module.parameters(), momentum=0.9)
    with pytest.raises(UnknownName):
        offload_optimizer(optimizer, 99)
    with pytest.raises(UnknownName), offload_activations(99):
        pass


def a_model_borrows_its_neighbours_memory(space):
    """Only rank 0 trains; its state is larger than its own memory for torch, and not larger than both."""
    if space.rank == 0:
        own = space.heap.usage_of(space.heap.sites.at_home(0)).free_bytes
        width = 1024
        num_layers = int(1.3 * own / (4 * 4 * width * width)) + 1  # weights, gradients, two moments of AdamW

        def make():
            return torch.nn.Sequential(
                *[torch.nn.Linear(width, width, bias=False) for _ in range(num_layers)]
            )

        assert num_layers * 4 * 4 * width * width > own
        data = torch.randn(4, width) / 32
        expected, _ = train(make, data, steps=2)
        with use_pool(home=0, spill=(1,)):
            got, optimizer = train(make, data, steps=2)
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
        homes = [home(tensor) for state in optimizer.state.values() for tensor in state.values()]
        assert {0, 1} <= {*homes, *map(home, got)}
        with use_pool(home=0), pytest.raises(RuntimeError, match="no room"):
            train(make, data, steps=2)
        del got, optimizer, homes

    space.barrier()


MAPPED = {
    check.__name__: check
    for check in (
        training_in_the_pool_changes_no_bit,
        offloaded_state_changes_no_bit,
        state_in_lists_is_moved_and_what_stays_is_named,
        distributed_tensors_are_moved_by_their_local_ones,
        what_has_no_memory_stays_as_it_is,
        parameters_are_not_copied,
        bad_homes_are_named_before_anything_moves,
        a_model_borrows_its_neighbours_memory,
    )
}
