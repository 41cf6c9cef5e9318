"""A tensor of the pool in a process that is no rank: a worker that a rank has started, or a rank of another world.

A forked worker has the rank's mappings. Any other process maps the same memory once more, by the descriptors that
the memory's owners have open; processes of one user may open each other's. Either way nothing is copied, and the
sender's reference in flight is held for as long as this process uses the memory.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ..errors import NotMappable
from ..memory.device import host as device
from ..memory.segment import segment_name
from ..units import align_up
from .flight import hold, let_go

if TYPE_CHECKING:
    from ..space.space import Space


class Piece(NamedTuple):
    """Bytes [offset, offset + num_bytes) of a segment, which process `pid` has open under `name`."""

    pid: int
    name: str
    offset: int
    num_bytes: int


def pieces_of(space: Space, address: int, num_bytes: int) -> tuple[Piece, ...]:
    """The segments that hold the bytes at an address of the space, as any process of this user can open them."""
    plan, pids = space.segments.map, space.world.pids
    return tuple(
        Piece(pids[place.rank], segment_name(place.rank, place.kind), place.offset, size)
        for place, size in ((plan.place(start), size) for start, size in plan.pieces(address, num_bytes))
    )


def borrow_mapped(address: int, num_bytes: int, word: int, number: int) -> torch.UntypedStorage:
    """A storage at an address that this process has inherited. Raises NotAllocated after the lease."""
    held = hold(word, number)
    return _storage_over(device.view(address, num_bytes), word, held, None)


def borrow_by_descriptor(pieces: tuple[Piece, ...], board: Piece, number: int) -> torch.UntypedStorage:
    """A storage over `pieces`, which are mapped here for it; its reference in flight stands at `board`.

    Raises NotMappable where the descriptors cannot be opened, NotAllocated after the lease.
    """
    board_room, word = _map((board,))
    room, address = _map(pieces)
    held = hold(word, number)
    num_bytes = sum(piece.num_bytes for piece in pieces)
    array = np.frombuffer(room, np.uint8, num_bytes, address - _address_of(room))
    return _storage_over(array, word, held, board_room)


def _storage_over(array: np.ndarray, word: int, held: int, board: mmap.mmap | None) -> torch.UntypedStorage:
    """A storage over `array` whose last use lets the reference go; `board` keeps the word mapped until then."""
    weakref.finalize(
        array, _end, word, held, board
    ).atexit = False  # the sender notices the end of the process
    return torch.from_numpy(array).untyped_storage()


def _end(word: int, held: int, board: mmap.mmap | None) -> None:
    let_go(word, held)


def _map(pieces: tuple[Piece, ...]) -> tuple[mmap.mmap, int]:
    """Map the pieces in a row: (the mapping, which lives as long as this object, and the address of the first byte)."""
    page = device.granularity
    inside = pieces[0].offset % page
    room = mmap.mmap(-1, align_up(inside + sum(piece.num_bytes for piece in pieces), page), mmap.MAP_PRIVATE)
    base = at = _address_of(room)
    for piece in pieces:
        offset = piece.offset // page * page  # all but the first begin at a page
        size = align_up(piece.offset - offset + piece.num_bytes, page)
        fd = open_descriptor(piece)
        try:
            device.map(fd, at, size, offset)
        finally:
            os.close(fd)
        at += size
    return room, base + inside


def open_descriptor(piece: Piece) -> int:
    """A descriptor of the piece's segment; the caller closes it."""
    folder = Path(f"/proc/{piece.pid}/fd")
    try:
        for entry in folder.iterdir():
            try:
                if entry.readlink().name.removesuffix(" (deleted)") == f"memfd:{piece.name}":
                    return os.open(entry, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:  # closed since it was listed
                continue
        why = f"process {piece.pid} has no {piece.name} open"
    except OSError as error:
        why = f"{folder}: {error.strerror}"
    raise NotMappable(
        f"a tensor of umem's memory cannot be mapped in process {os.getpid()}, which is no rank of its world: {why};"
        " send a copy that is made outside of umem.torch.use_pool"
    )


def _address_of(room: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(room))
