"""Tensors of the pool travel as their addresses: through multiprocessing's queues and pipes, and by Space.send.

A storage of the pool is pickled as an address, a size and a generation; the receiver makes a storage at the
same address, with a reference of its own. Strides, views, Parameter and requires_grad are torch's part of the
message and are kept. Tensors outside of the pool go the way torch sends them.

What is pickled for a process that is being spawned goes torch's own way too: a new process is no rank.
"""

from __future__ import annotations

import io
from functools import partial
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing import reductions

from ..errors import NotAllocated, RankLost, WorldError
from ..kernels import status
from .flight import ANYONE, land
from .layout import PAGE_ADDRESS
from .placement import storage_at
from .pool import Pool, installed, pool_or_none
from .uses import note_use


def register(pool: Pool) -> None:
    """Teach multiprocessing and the space how storages of the pool travel. torch's own way stays for all others."""
    ForkingPickler.register(torch.UntypedStorage, reduce_storage)
    pool.space.messages.make_pickler = partial(_MessagePickler, pool, False)


def reduce_storage(storage: torch.UntypedStorage) -> tuple[Any, ...]:
    """How a storage is pickled for another process: by address where it is the pool's."""
    pool = pool_or_none()
    if pool is None or get_spawning_popen() is not None or not _is_in(pool, storage):
        return reductions.reduce_storage(storage)
    return _ticket(pool, storage, ANYONE)


def send(message: Any, rank: int, tag: int = 0, *, staged: bool = False) -> None:
    """Space.send, with a choice: with `staged` tensors of the pool travel by value too.

    From the main thread. Raises NotMappable, and sends nothing, where `rank` cannot map a tensor's home.
    """
    pool = installed()
    pool.space.messages.send(message, rank, tag, partial(_MessagePickler, pool, staged))


def recv(rank: int, tag: int = 0) -> Any:
    """What `rank` has sent with `tag`, in the order sent. Raises RankLost, WaitTimeout; from the main thread."""
    return installed().space.recv(rank, tag)


class _MessagePickler(ForkingPickler):
    """Writes a message for one rank."""

    def __init__(self, pool: Pool, staged: bool, file: io.BytesIO, rank: int):
        super().__init__(file)
        self._pool, self._rank, self._staged = pool, rank, staged

    def reducer_override(self, item: Any) -> Any:
        """How a storage is written; all else is left to the pickler."""
        if type(item) is not torch.UntypedStorage:  # not isinstance, which asks objects for their __class__
            return NotImplemented
        if self._staged or not _is_in(self._pool, item):
            return _storage_of_bytes, (_bytes_of(item),)
        self._pool.check_mapped_by(self._rank, item.data_ptr())
        return _ticket(self._pool, item, self._rank)


def _ticket(pool: Pool, storage: torch.UntypedStorage, receiver: int) -> tuple[Any, ...]:
    address = storage.data_ptr()
    while note_use(PAGE_ADDRESS, address) == status.FULL:
        pool.grow_uses()
    word, number = pool.flights.start(storage, receiver)
    generation = pool.heap.find(address).generation
    sender = (pool.space.rank, pool.space.world.pids[pool.space.rank])
    return _arrive, (sender, address, storage.nbytes(), generation, word, number)


def _arrive(
    sender: tuple[int, int], address: int, num_bytes: int, generation: int, word: int, number: int
) -> torch.UntypedStorage:
    """A storage at the address that was sent; the sender's reference in flight ends."""
    pool = pool_or_none()
    rank, pid = sender
    if pool is None:
        raise WorldError(
            f"a tensor of rank {rank} travels as an address, which this process cannot use: only ranks of the"
            " world that have called umem.torch.install(space) can; send a copy made outside of use_pool"
        )
    if rank >= pool.space.num_ranks or pool.space.world.pids[rank] != pid:
        raise WorldError(f"a tensor came from process {pid}, which is not rank {rank} of this world")
    try:
        storage = storage_at(pool, address, num_bytes, generation)
    except NotAllocated as error:
        if rank in pool.space.page.dead_ranks():
            raise RankLost(rank, f"it sent a tensor and died before that arrived ({error})") from error
        raise NotAllocated(
            f"a tensor of rank {rank} came after its lease: {error};"
            " umem.torch.install(space, lease_s=...) sets a longer one"
        ) from error
    land(word, number)
    pool.flights.collect()
    return storage


def _is_in(pool: Pool, storage: torch.UntypedStorage) -> bool:
    return storage.device.type == "cpu" and pool.holds(storage.data_ptr())


def _bytes_of(storage: torch.UntypedStorage) -> bytes:
    whole = torch.empty(0, dtype=torch.uint8).set_(storage)
    return bytes(whole.numpy())


def _storage_of_bytes(data: bytes) -> torch.UntypedStorage:
    return torch.tensor(bytearray(data), dtype=torch.uint8).untyped_storage()
