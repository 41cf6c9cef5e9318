"""Where a tensor lives, and tensors at a place of one's choice."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch.nn.parameter import is_lazy

from ..errors import (
    AddressError,
    AlignmentError,
    ConfigError,
    DoubleFree,
    NotAllocated,
    UmemError,
    WaitTimeout,
)
from ..heap.report import Allocation
from ..kernels import status
from ..kernels.heap.record import ANY_GENERATION
from ..memory.waiting import unless_again
from ..world.waiting import Deadline, until
from .layout import PAGE_ADDRESS, PAGE_CONTROL, PAGE_SITES, SITE_ARENA, SITE_WORDS, THREAD_PLACE
from .parts import pointers_of
from .pool import Home, Homes, Pool, installed, use_pool
from .uses import add_use

TensorOrModule = TypeVar("TensorOrModule", torch.Tensor, torch.nn.Module)


def home(tensor: torch.Tensor) -> int | str | None:
    """The rank in whose memory a tensor lives, "striped" over all, or None where it is not in the pool.

    A DTensor lives where its local tensor does. Raises ConfigError where the parts of one tensor live apart.
    """
    pool = installed()
    homes = {_home_at(pool, pointer) for pointer in pointers_of(tensor)} or {None}
    if len(homes) > 1:
        raise ConfigError(
            f"the parts of a {type(tensor).__name__} live at {', '.join(sorted(map(repr, homes)))}; ask for the home"
            " of each part"
        )
    return homes.pop()


def _home_at(pool: Pool, pointer: int) -> int | str | None:
    if not pool.holds(pointer):
        return None
    return "striped" if pointer >= pool.space.segments.map.striped_base else pool.rank_of(pointer)


def to_home(what: TensorOrModule, home: Home, spill: Homes = ()) -> TensorOrModule:
    """The tensor or module `what` at `home`: itself where it lives there already, else a copy, as by `Tensor.to`.

    Gradients flow through the copy. A module is changed in place, as by `Module.to`: its parameters stay the
    same objects. A tensor without memory, a lazy parameter or one on the meta device, stays as it is. Raises
    what use_pool raises.
    """
    move = mover(home, spill)
    if isinstance(what, torch.nn.Module):
        return what._apply(move)
    return move(what)


def mover(home: Home, spill: Homes = ()) -> Callable[[torch.Tensor], torch.Tensor]:
    """`to_home` as a function, for many tensors: homes are looked up once. Use it at once, for a rank may die."""
    context, pool = use_pool(home, spill), installed()
    sites = {pool.number_of(one) for one in (home, *spill)}

    def is_there(pointer: int) -> bool:
        return pool.holds(pointer) and pool.number_at(pointer) in sites

    def move(tensor: torch.Tensor) -> torch.Tensor:
        pointers = pointers_of(tensor)
        if pointers and all(map(is_there, pointers)):
            return tensor
        if not pointers and (is_lazy(tensor) or tensor.is_meta):
            return tensor
        with context:
            return tensor.clone()

    return move


def empty(*size: Any, home: Home = "local", spill: Homes = (), **options: Any) -> torch.Tensor:
    """torch.empty at `home`: sizes and options as there."""
    with use_pool(home, spill):
        return torch.empty(*size, **options)


def adopt(address: int, shape: int | tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A contiguous tensor over memory of the heap, without a copy: all of an allocation, or a part of it.

    The tensor holds a reference. Of an allocation of this rank it takes over the rank's own: the memory is freed
    with the last tensor over it, and must not be freed besides. To one of another rank it adds a reference. Adopting
    the memory of a living tensor is a mistake: take views of that tensor. Raises NotAllocated, AddressError
    past the end of the allocation, AlignmentError, NotMappable, also of cached memory.
    """
    pool = installed()
    dims = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(extent < 0 for extent in dims):
        raise ConfigError(f"shape {dims} has a negative extent")
    num_bytes = math.prod(dims) * dtype.itemsize
    found = find_whole(pool, address, num_bytes)
    offset = address - found.address
    if offset % dtype.itemsize:
        raise AlignmentError(address, dtype.itemsize, f"a {dtype} needs it")
    pool.space.cache.refuse_raw(found.address, found.num_bytes)
    storage = storage_at(pool, found.address, found.num_bytes, found.generation)
    whole = torch.empty(0, dtype=dtype, device="cpu")
    return whole.set_(cast(Any, storage), offset // dtype.itemsize, dims, _row_major(dims))


def find_whole(pool: Pool, address: int, num_bytes: int) -> Allocation:
    """The allocation that covers all of [address, address + num_bytes). Raises NotAllocated, AddressError."""
    found = pool.heap.find(address)
    if address + num_bytes > found.address + found.num_bytes:
        raise AddressError(
            f"{num_bytes} bytes at {address:#x} reach past the allocation at {found.address:#x} of"
            f" {found.num_bytes} bytes"
        )
    return found


def storage_at(
    pool: Pool, address: int, num_bytes: int, generation: int = ANY_GENERATION, offset: int = 0
) -> torch.UntypedStorage:
    """A storage of `num_bytes` from `offset` on in the allocation at `address`, holding this rank's reference to it.

    Raises NotMappable; NotAllocated where the allocation is gone, or is not that of `generation` any more.
    """
    pool.check_mapped(address)
    _take_reference(pool, address, generation)
    part = pool.threads.current()
    part.words[THREAD_PLACE] = address
    try:
        # Not UntypedStorage(n, device="cpu"): that takes an allocator of its own.
        whole = torch.empty(offset + num_bytes, dtype=torch.uint8, device="cpu")
    finally:
        part.words[THREAD_PLACE] = 0
    assert whole.data_ptr() == address, "torch's allocator is not ours any more"
    if offset:  # a storage over a part keeps the whole alive by an array over it
        whole = torch.from_numpy(whole.numpy()[offset:])
    return whole.untyped_storage()


def _take_reference(pool: Pool, address: int, generation: int) -> None:
    site = PAGE_SITES + pool.number_at(address) * SITE_WORDS
    arena, control = pool.page[site + SITE_ARENA], pool.page[PAGE_CONTROL]
    words = (control, arena, pool.heap.holder, address, pool.heap.rank, generation)

    def look() -> int | None:
        while (code := add_use(PAGE_ADDRESS, *words)) == status.FULL:
            pool.grow_uses()
        return unless_again(code)

    code = until(look, Deadline(pool.heap.timeout_s))
    if code is None:
        raise WaitTimeout(f"the lock of the heap at {address:#x} was held for {pool.heap.timeout_s:g} s")
    if code != status.OK:
        raise _reason(address, code)


def _reason(address: int, code: int) -> UmemError:
    if code == status.DOUBLE_FREE:
        return DoubleFree(f"the allocation at {address:#x} has been freed")
    if code == status.STALE:
        return NotAllocated(f"another allocation has taken the place of {address:#x}")
    return NotAllocated(f"no allocation begins at {address:#x}: {status.name(code)}")


def _row_major(dims: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(dims[index + 1 :]) for index in range(len(dims)))
