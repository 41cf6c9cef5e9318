"""Tensors of the pool travel as their addresses: through multiprocessing's queues and pipes, and by Space.send.

A storage of the pool is pickled as an address, a size and a generation; the receiver makes a storage at the
same address, with a reference of its own. A process that is no rank borrows the sender's (borrow.py). The rest of a
tensor is pickled as ever: in Space.send as pickle does, so that everything that pickle can write arrives as it was,
and in queues as torch.multiprocessing does.
"""

from __future__ import annotations

import io
import pickle
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import torch
from torch.multiprocessing import reductions

from ..errors import NotAllocated, RankLost
from ..kernels import status
from .borrow import Piece, borrow_by_descriptor, borrow_mapped, pieces_of
from .flight import ANYONE, land
from .layout import PAGE_ADDRESS
from .parts import SPARSE_LAYOUTS, sparse_parts
from .placement import find_whole, storage_at
from .pool import Pool, inherited, installed, pool_or_none
from .uses import note_use

STORED_UNTYPED = frozenset(torch.storage._new_dtypes())  # dtypes whose tensors pickle can write and not read


def register(pool: Pool) -> None:
    """Have multiprocessing and the space pickle storages of the pool by address; others are pickled as ever."""
    ForkingPickler.register(torch.UntypedStorage, reduce_storage)
    for kind in (torch.Tensor, torch.nn.Parameter):
        ForkingPickler.register(kind, reduce_tensor)
    pool.space.messages.make_pickler = partial(_MessagePickler, pool, False)


def reduce_storage(storage: torch.UntypedStorage) -> tuple[Any, ...]:
    """Pickle a storage for another process: by address where it is the pool's, else as torch.multiprocessing does."""
    pool = pool_or_none()
    if pool is None or not _is_in(pool, storage):
        return reductions.reduce_storage(storage)
    return _ticket(pool, storage, ANYONE)


def reduce_tensor(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Pickle a tensor for another process: as torch.multiprocessing does, or as pickle where that would lose a part."""
    if tensor.layout in SPARSE_LAYOUTS:
        return _reduce_sparse(tensor)
    if tensor.is_conj() or tensor.is_neg() or tensor.is_quantized:
        written: tuple[Any, ...] = tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return written
    return reductions.reduce_tensor(tensor)


def send(message: Any, rank: int, tag: int = 0, *, staged: bool = False) -> None:
    """Space.send; with `staged` tensors of the pool travel by value too.

    From the main thread. Raises NotMappable, and sends nothing, where `rank` cannot map a tensor's home.
    """
    pool = installed()
    pool.space.messages.send(message, rank, tag, partial(_MessagePickler, pool, staged))


def recv(rank: int, tag: int = 0) -> Any:
    """The next object that `rank` sent with `tag`: Space.recv. From the main thread. Raises RankLost, WaitTimeout."""
    return installed().space.recv(rank, tag)


class _MessagePickler(pickle.Pickler):
    """Writes a message for one rank."""

    def __init__(self, pool: Pool, staged: bool, file: io.BytesIO, rank: int):
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._pool, self._rank, self._staged = pool, rank, staged

    def reducer_override(self, item: Any) -> Any:
        """Pickle a storage on the CPU, once for all tensors over it; all else is left to pickle."""
        kind = type(item)  # not isinstance, which asks objects for their __class__
        if kind is torch.Tensor and item.layout in SPARSE_LAYOUTS:
            return _reduce_sparse(item)
        if issubclass(kind, torch.Tensor) and item.dtype in STORED_UNTYPED:
            return _with_typed_storage(*item.__reduce_ex__(pickle.HIGHEST_PROTOCOL))
        if issubclass(kind, torch.storage.TypedStorage) and item._untyped_storage.device.type == "cpu":
            is_plain = kind is torch.storage.TypedStorage
            return (reductions.reduce_typed_storage if is_plain else reductions.reduce_typed_storage_child)(
                item
            )
        if kind is not torch.UntypedStorage or item.device.type != "cpu":
            return NotImplemented
        if self._staged or not _is_in(self._pool, item):
            return _storage_of_bytes, (_bytes_of(item),)
        self._pool.check_mapped_by(self._rank, item.data_ptr())
        return _ticket(self._pool, item, self._rank)


def _reduce_sparse(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Pickle a sparse tensor by its parts: torch's own reader keeps what it has read until the next torch.load."""
    parts = sparse_parts(tensor)
    if tensor.layout is torch.sparse_coo:
        return _sparse_coo, (*parts, tensor.shape, tensor.is_coalesced())
    return _sparse_compressed, (*parts, tensor.shape, tensor.layout)


def _sparse_coo(
    indices: torch.Tensor, values: torch.Tensor, shape: torch.Size, is_coalesced: bool
) -> torch.Tensor:
    return torch.sparse_coo_tensor(indices, values, shape, is_coalesced=is_coalesced)


def _sparse_compressed(
    compressed: torch.Tensor,
    plain: torch.Tensor,
    values: torch.Tensor,
    shape: torch.Size,
    layout: torch.layout,
) -> torch.Tensor:
    return torch.sparse_compressed_tensor(compressed, plain, values, shape, layout=layout)


def _with_typed_storage(rebuild: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The result of Tensor.__reduce_ex__ for a dtype of STORED_UNTYPED, in a form that pickle too can read."""
    if rebuild is torch._tensor._rebuild_from_type_v2:
        inner, kind, inner_args, state = args
        inner, inner_args = _with_typed_storage(inner, inner_args)
        return rebuild, (inner, kind, inner_args, state)
    if rebuild is torch._utils._rebuild_tensor_v3:
        storage, *others = args
        return rebuild, (reductions.rebuild_typed_storage(storage, torch.uint8), *others)
    return rebuild, args


class Ticket(NamedTuple):
    """A storage on its way: `num_bytes` from `offset` on in the allocation at `address`.

    Also the sender, its reference in flight, and the segments in which a process that is no rank finds both.
    """

    sender: int
    pid: int
    address: int
    offset: int
    num_bytes: int
    generation: int
    word: int
    number: int
    board: Piece
    pieces: tuple[Piece, ...]


def _ticket(pool: Pool, storage: torch.UntypedStorage, receiver: int) -> tuple[Any, ...]:
    pointer, num_bytes = storage.data_ptr(), storage.nbytes()
    found = find_whole(pool, pointer, num_bytes)
    while note_use(PAGE_ADDRESS, found.address) == status.FULL:
        pool.grow_uses()
    word, number = pool.flights.start(storage, receiver)
    space = pool.space
    ticket = Ticket(
        space.rank,
        space.world.pids[space.rank],
        found.address,
        pointer - found.address,
        num_bytes,
        found.generation,
        word,
        number,
        pieces_of(space, word, 8)[0],
        pieces_of(space, pointer, num_bytes),
    )
    return arrive, tuple(ticket)


def arrive(*fields: Any) -> torch.UntypedStorage:
    """The storage of a ticket; the sender's reference in flight ends, or is held where this process is no rank."""
    ticket = Ticket(*fields)
    pool = pool_or_none()
    if pool is not None and _is_of(pool, ticket):
        return _arrive_at_rank(pool, ticket)
    pool = inherited()
    if pool is not None and _is_of(pool, ticket):
        pool.check_mapped(ticket.address)
        address = ticket.address + ticket.offset
        return borrow_mapped(address, ticket.num_bytes, ticket.word, ticket.number)
    return borrow_by_descriptor(ticket.pieces, ticket.board, ticket.number)


def _is_of(pool: Pool, ticket: Ticket) -> bool:
    """Whether the sender is a rank of the pool's world."""
    pids = pool.space.world.pids
    return ticket.sender < pool.space.num_ranks and pids[ticket.sender] == ticket.pid


def _arrive_at_rank(pool: Pool, ticket: Ticket) -> torch.UntypedStorage:
    sender = ticket.sender
    try:
        storage = storage_at(pool, ticket.address, ticket.num_bytes, ticket.generation, ticket.offset)
    except NotAllocated as error:
        if sender in pool.space.page.dead_ranks():
            raise RankLost(sender, f"it sent a tensor and died before that arrived ({error})") from error
        raise NotAllocated(
            f"a tensor of rank {sender} came after its lease: {error};"
            " umem.torch.install(space, lease_s=...) sets a longer one"
        ) from error
    land(ticket.word, ticket.number)
    pool.flights.collect()
    return storage


def _is_in(pool: Pool, storage: torch.UntypedStorage) -> bool:
    is_some = storage.device.type == "cpu" and storage.nbytes() > 0
    return is_some and pool.holds(storage.data_ptr())


def _bytes_of(storage: torch.UntypedStorage) -> bytes:
    whole = torch.empty(0, dtype=torch.uint8).set_(storage)
    return bytes(whole.numpy())


def _storage_of_bytes(data: bytes) -> torch.UntypedStorage:
    return torch.tensor(bytearray(data), dtype=torch.uint8).untyped_storage()
