"""What torch does with tensors of the pool is what it does with its own, bit for bit."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler

import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from umem.torch import home, install, use_pool
from umem.torch.pool import installed

from .checks_allocator import neighbour, num_live

TIMEOUT_S = 60  # of an answer of a worker


def same_in_the_pool(space, work):
    """`work()` gives a list of tensors; outside and inside of the pool they are equal."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    expected = [tensor.detach().clone() for tensor in work()]
    before = num_live()
    with use_pool(home=neighbour(space)):
        torch.manual_seed(0)
        got = [tensor.detach().clone() for tensor in work()]
    assert len(expected) == len(got) and expected
    for a, b in zip(expected, got, strict=True):
        assert a.dtype is b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    assert any(home(tensor) == neighbour(space) for tensor in got)
    del got, a, b
    assert num_live() == before


def gradients_are_right(space):
    install(space)
    modules = [
        (torch.nn.Linear(4, 3), (2, 4)),
        (torch.nn.Conv2d(2, 3, 3), (1, 2, 5, 5)),
        (torch.nn.LayerNorm(6), (2, 6)),
        (torch.nn.BatchNorm1d(3), (4, 3)),
        (torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh()), (2, 3)),
        (torch.nn.Softmax(dim=1), (2, 4)),
        (torch.nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), (1, 3, 4)),
    ]
    with use_pool(home=neighbour(space)):
        for module, shape in modules:
            data = torch.randn(shape, dtype=torch.float64, requires_grad=True)
            assert torch.autograd.gradcheck(copy.deepcopy(module).double(), (data,)), module


def recurrent_layers_agree(space):
    def work():
        lstm = torch.nn.LSTM(5, 7, num_layers=2)
        data = torch.randn(4, 3, 5, requires_grad=True)
        out, (hidden, cell) = lstm(data)
        (out.sum() + hidden.sum()).backward()
        return [out, hidden, cell, data.grad, *(p.grad for p in lstm.parameters())]

    same_in_the_pool(space, work)


def operations_agree(space):
    def work():
        a, b = torch.randn(33, 65), torch.randn(65, 17)
        symmetric = a @ a.t() + 33 * torch.eye(33)
        values = [a @ b, torch.linalg.cholesky(symmetric), torch.linalg.qr(a)[0], torch.fft.rfft(a).real]
        values += [
            torch.sort(a, dim=1)[0],
            a.topk(3)[0],
            torch.cumsum(a, 1),
            torch.cat([a, a], 1),
            a.t().contiguous(),
        ]
        values += [
            a[a > 0],
            torch.nonzero(a > 0),
            torch.unique(torch.randint(0, 9, (50,))),
            a.to(torch.float16),
        ]
        values += [
            torch.stack([a, a]),
            torch.einsum("ij,jk->ik", a, b),
            a.index_select(0, torch.tensor([1, 0])),
        ]
        values += [torch.nn.functional.embedding_bag(torch.randint(0, 33, (4, 5)), a), torch.quantile(a, 0.3)]
        out = torch.empty(0)
        torch.mul(a, 2, out=out)
        return [*values, out, a.clone().resize_(10), torch.zeros(3).new_ones(4)]

    same_in_the_pool(space, work)


def optimizers_agree(space):
    def work():
        results = []
        for kind, options in (
            (torch.optim.AdamW, {"foreach": True}),
            (torch.optim.AdamW, {"fused": True}),
            (torch.optim.AdamW, {"foreach": False, "amsgrad": True}),
            (torch.optim.SGD, {"momentum": 0.9, "foreach": True}),
            (torch.optim.SGD, {"momentum": 0.9, "fused": True}),
            (torch.optim.Adagrad, {"fused": True}),
            (torch.optim.LBFGS, {"max_iter": 3}),
        ):
            model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
            optimizer = kind(model.parameters(), lr=1e-2, **options)
            data = torch.randn(8, 8)

            def closure(model=model, optimizer=optimizer, data=data):
                optimizer.zero_grad()
                loss = model(data).square().mean()
                loss.backward()
                return loss

            for _ in range(3):
                optimizer.step(closure)
            results += list(model.parameters())
        return results

    same_in_the_pool(space, work)


def serialization_goes_around(space):
    def work():
        model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4))
        tied = {"model": model.state_dict(), "view": model[0].weight[1:], "scalar": torch.tensor(3)}
        results = []
        for options in ({}, {"_use_new_zipfile_serialization": False}):
            file = io.BytesIO()
            torch.save(tied, file, **options)
            file.seek(0)
            loaded = torch.load(file)
            results += [*loaded["model"].values(), loaded["view"], loaded["scalar"]]
        return [*results, *copy.deepcopy(model).parameters()]

    same_in_the_pool(space, work)


def checkpointing_agrees(space):
    def work():
        layers = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Dropout(0.2)) for _ in range(3)
        )
        data = hidden = torch.randn(4, 16, requires_grad=True)
        for layer in layers:
            hidden = checkpoint(layer, hidden, use_reentrant=False)
        hidden.sum().backward()
        return [hidden, data.grad, *(p.grad for p in layers.parameters())]

    same_in_the_pool(space, work)


def loaded_batches(context, num_workers):
    data = TensorDataset(torch.arange(48.0).reshape(24, 2), torch.arange(24))
    options = {"num_workers": num_workers, "multiprocessing_context": context}
    loader = DataLoader(data, batch_size=8, sampler=torch.randperm(24), **options)
    return [tensor for batch in loader for tensor in batch]


def forked_workers_agree(space):
    same_in_the_pool(space, lambda: loaded_batches("fork", 2))


def spawned_workers_agree(space):
    if space.rank == 0:  # a new process imports torch again: one is enough to see
        same_in_the_pool(space, lambda: loaded_batches("spawn", 1))


def workers_use_what_they_are_given(space):
    before = num_live()
    with multiprocessing.get_context("fork").Pool(1) as workers:
        is_mapped = space.num_ranks == len(space.segments.mapped_ranks)
        for place in ("local", "host", *((neighbour(space), "striped") if is_mapped else ())):
            with use_pool(home=place):
                given = torch.ones(10)
            answer = workers.apply_async(set_first, ({"given": given, "parts": [given[3:]]},)).get(TIMEOUT_S)
            assert float(given[0]) == 5.0, "worker and rank see one memory"
            assert answer.tolist() == given.tolist() and home(answer) is None
        workers.apply_async(keep, (given,)).get(TIMEOUT_S)
        address = given.data_ptr()
        del given, answer
        assert installed().flights.collect() == 1, "the worker holds it"
        with use_pool(home="host"):
            others = [torch.zeros(10) for _ in range(100)]
        assert address not in [other.data_ptr() for other in others]
        assert workers.apply_async(kept_sum).get(TIMEOUT_S) == 14.0
        flights, clock = installed().flights, installed().flights._clock
        flights._clock = lambda: clock() + flights.lease_s + 1
        try:
            with use_pool(home=space.rank):
                late = bytes(ForkingPickler.dumps(torch.ones(10)))
            assert flights.collect() == 2, "a worker may be slow: no lease is over while there is one"
            assert pickle.loads(late).tolist() == [1.0] * 10
        finally:
            flights._clock = clock
        del others
    assert num_live() == before and installed().flights.collect() == 0, "no worker is left"


def set_first(message):
    message["given"][0] = 5.0
    assert float(message["parts"][0].sum()) == 7.0
    return message["given"]


_kept: list[torch.Tensor] = []


def keep(tensor):
    _kept.append(tensor)


def kept_sum():
    return float(_kept[0].sum())


def managers_and_executors_read_the_pool(space):
    if space.rank == 0:
        fork = multiprocessing.get_context("fork")
        with use_pool(home=neighbour(space)):
            given = torch.arange(10.0)
        with fork.Manager() as manager, ProcessPoolExecutor(1, mp_context=fork) as executor:
            shared = manager.list([given])
            assert shared[0].tolist() == given.tolist()
            assert executor.submit(torch.sum, given).result(TIMEOUT_S) == 45.0


def shared_memory_leaves_the_pool(space):
    before = num_live()
    with use_pool(home=space.rank):
        tensor = torch.arange(100)
    tensor.share_memory_()
    assert tensor.is_shared() and home(tensor) is None and int(tensor.sum()) == 4950
    assert num_live() == before


def numpy_views_keep_the_memory(space):
    before = num_live()
    with use_pool(home=neighbour(space)):
        array = torch.arange(100).numpy()
    assert num_live() == before + 1 and int(array.sum()) == 4950
    del array
    assert num_live() == before


MAPPED = {
    check.__name__: check
    for check in (
        gradients_are_right,
        recurrent_layers_agree,
        operations_agree,
        optimizers_agree,
        serialization_goes_around,
        checkpointing_agrees,
        forked_workers_agree,
        spawned_workers_agree,
        workers_use_what_they_are_given,
        managers_and_executors_read_the_pool,
        shared_memory_leaves_the_pool,
        numpy_views_keep_the_memory,
    )
}
UNMAPPED = {check.__name__: check for check in (workers_use_what_they_are_given,)}
