"""Every kind of tensor arrives as it was sent, as functions that every rank of a world runs."""

from __future__ import annotations

import contextlib

import pytest
import torch

from umem.errors import WorldError
from umem.torch import install, recv, send, use_pool

from .checks_allocator import neighbour
from .checks_sharing import swap_tensors


def kinds_of_tensors() -> dict[str, torch.Tensor]:
    """One of each kind that a message must not change."""
    base, complexes = torch.arange(24.0).reshape(4, 6), torch.tensor([1 + 2j, 3 - 1j])
    named = torch.ones(3)
    named.note = "kept"
    kinds = {
        "conjugate": complexes.conj(),
        "negative": complexes.conj().imag,
        "both": torch._neg_view(complexes.conj()),
        "quantized": torch.quantize_per_tensor(base, 0.1, 0, torch.qint8),
        "quantized by channel": torch.quantize_per_channel(
            base, torch.full((4,), 0.5), torch.arange(4), 0, torch.qint8
        ),
        "COO": base.to_sparse(),
        "COO, conjugate": torch.sparse_coo_tensor([[0, 2]], complexes.conj(), (3,)),
        "not coalesced": torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (3,)),
        "CSR": base.to_sparse_csr(),
        "CSC": base.to_sparse_csc(),
        "BSR": base.to_sparse_bsr((2, 2)),
        "BSC": base.to_sparse_bsc((2, 2)),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)]),
        "jagged": torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)], layout=torch.jagged),
        "meta": torch.ones(3, device="meta"),
        "no dimension": torch.tensor(3.5),
        "no element": torch.empty(0, 3),
        "expanded": torch.tensor([2.0]).expand(5),
        "overlapping": torch.arange(10.0).as_strided((4, 3), (1, 1)),
        "view": base[1:, ::2].t(),
        "requires gradients": torch.ones(3, requires_grad=True),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "subclass": torch.ones(3).as_subclass(Subclass),
        "wrapper": Wrapper(torch.ones(3)),
        "with an attribute": named,
    }
    for dtype in (torch.bfloat16, torch.complex32, torch.float8_e4m3fn, torch.uint16, torch.bool):
        kinds[str(dtype)] = torch.tensor([1.0, 0.0]).to(dtype)
    return kinds


class Subclass(torch.Tensor):
    """One that adds nothing."""


class Wrapper(torch.Tensor):
    """One that has no memory of its own, as a DTensor has none."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    def __tensor_flatten__(self):
        return ["inner"], None

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        inner = [one.inner if isinstance(one, cls) else one for one in args]
        result = function(*inner, **(kwargs or {}))
        return cls(result) if isinstance(result, torch.Tensor) else result


def assert_same(name, sent, got):
    assert type(got) is type(sent) and got.dtype is sent.dtype, name
    assert got.layout is sent.layout and got.requires_grad == sent.requires_grad, name
    assert got.is_conj() == sent.is_conj() and got.is_neg() == sent.is_neg(), name
    assert got.device == sent.device and getattr(got, "note", None) == getattr(sent, "note", None), name
    if not sent.is_nested:
        assert got.shape == sent.shape, name
        assert sent.layout is not torch.strided or got.stride() == sent.stride(), name
    assert plain_values(got) == plain_values(sent), name


def plain_values(tensor):
    if isinstance(tensor, Wrapper):
        return tensor.inner.tolist()
    if tensor.is_meta:
        return "none"
    if tensor.is_nested:
        return [one.tolist() for one in tensor.unbind()]
    dense = tensor.dequantize() if tensor.is_quantized else tensor.to_dense()
    return dense.detach().resolve_conj().resolve_neg().to(torch.complex128).tolist()


def what_torch_can_pickle_arrives_as_it_was(space):
    peer = neighbour(space)
    for context in (contextlib.nullcontext(), use_pool(home=space.rank)):
        with context:
            kinds = kinds_of_tensors()
        through_queue = {name: one for name, one in kinds.items() if name != "with an attribute"}
        for name, got in swap_tensors(space, through_queue).items():
            assert_same(f"{name} by a queue", kinds[name], got)
        for staged in (False, True):
            for turn in (0, 1):
                if space.rank == turn:
                    send(kinds, peer, staged=staged)
                else:
                    for name, got in recv(peer).items():
                        assert_same(f"{name} by send", kinds[name], got)


def tied_tensors_stay_tied(space):
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    module[1].weight = module[0].weight
    whole = torch.arange(4.0)
    for turn in (0, 1):
        if space.rank == turn:
            space.send((module, whole, whole[1:]), neighbour(space))
        else:
            module, whole, part = space.recv(neighbour(space))
            assert module[0].weight is module[1].weight
            whole[1] = -1.0
            assert float(part[0]) == -1.0


LIVING = r"2 torch storages live(.|\n)*Parameter \(17, 3\) torch.float32, 204 (.|\n)*Tensor \(2, 5\) torch.float32, 40 "


def closing_is_refused_with_a_list(space):
    with use_pool(home=neighbour(space)):
        small, kept = torch.ones(2, 5), torch.nn.Parameter(torch.ones(17, 3))
    lazy, told = torch.nn.LazyLinear(4), []  # tensors that no list of the living must ask for their storage
    torch.vmap(lambda row: told.append(row) or row)(torch.ones(3))
    others = [
        lazy.weight,
        told[0],
        torch._efficientzerotensor((3,)),
        *kinds_of_tensors().values(),
    ]
    install(space, at_close="refuse")
    with pytest.raises(WorldError, match=LIVING):
        space.close()
    assert space.is_open and float(kept.detach().sum()) == 51
    install(space)
    del small, kept, others


MAPPED = {
    check.__name__: check
    for check in (
        what_torch_can_pickle_arrives_as_it_was,
        tied_tensors_stay_tied,
        closing_is_refused_with_a_list,
    )
}
