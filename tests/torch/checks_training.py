"""Training with its state elsewhere, as functions that every rank of a world runs."""

from __future__ import annotations

import pytest
import torch

from umem.errors import UnknownName
from umem.torch import home, install, offload_activations, offload_optimizer, use_pool
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
        parameters_are_not_copied,
        bad_homes_are_named_before_anything_moves,
        a_model_borrows_its_neighbours_memory,
    )
}
