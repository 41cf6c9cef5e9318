"""The global address space of one rank: open it, allocate, load and store, synchronise."""

from __future__ import annotations

import ctypes
import json
import math
import operator
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np

from . import current, startup
from .agent.near import Near
from .array import Array
from .errors import AddressError, AlignmentError, ConfigError, NotMappable, UnknownName, WorldError
from .kernels import access, gate, status
from .kernels.control import CONTROL_BYTES
from .messages import Messages
from .switch import Switch
from .world import World, WorldSpec, join

# What `control` names after close: a page of zeros, by which no address has a home.
_CLOSED_PAGE = np.zeros(CONTROL_BYTES // 8, np.int64)

_ready: dict[Any, access.Access] = {}  # by every spelling of a dtype that was met


def init(spec: WorldSpec | None = None) -> Space:
    """Join the world that this process was started in (`umem run`, `umem.launch`, torchrun, else alone).

    Collective: every rank of the world. Returns an open space; use it as a context manager.
    """
    world = join(spec)
    try:
        return open_space(world)
    except BaseException:
        world.leave()  # else this process could never join again
        raise


def open_space(world: World) -> Space:
    """Make this rank's part of the global address space of `world`. Collective."""
    if current.is_open():
        raise WorldError("this process already has an open space; close it first")
    space = Space(world)
    current.enter(space)
    return space


class Space:
    """One rank's view of the world's memory.

    Scalar accesses name a dtype (`"float32"`, `numpy.float32`, ...), are naturally aligned, and are
    ordered: a load acquires, a store releases, read-modify-writes do both. Bulk accesses (`get`, `put`,
    `copy`, views) are plain: order them by `barrier`, a signal or a scalar access.

    Raises AddressError outside all segments, AlignmentError, RankLost for a home that died,
    WaitTimeout past `timeout_s`.
    """

    def __init__(self, world: World):
        self.world = world
        self.rank, self.num_ranks = world.rank, world.num_ranks
        self.timeout_s = world.spec.timeout_s
        parts = startup.connect(world)
        self.segments, self.page, self.fabric = parts.segments, parts.page, parts.fabric
        self.mapped, self.agent, self.heap = parts.mapped, parts.agent, parts.heap
        # Homes that are not mapped are asked in one compiled call: the switch's own way through Python takes
        # 35 us where nothing is in the caches, as long as the home takes to answer.
        self._remote = self.agent.remote
        self._is_partly_unmapped = len(self.segments.mapped_ranks) < self.num_ranks
        self.switch = Switch(self.segments, self.mapped, self._remote)
        if self._remote is not None:
            self.switch.traffic.sources.append(self._remote.traffic)
        self.messages = Messages(self.fabric)
        self.control = self.segments.control
        self._gate = (ctypes.c_int64 * gate.GATE_WORDS)()
        self._gate[gate.CONTROL], self._gate_pointer = self.control, ctypes.addressof(self._gate)
        self._get, self._put = gate.get.compiled, gate.put.compiled
        if self._remote is not None:
            self._remote.serve_gate(self._gate)
        self._synchronise = parts.synchronise
        self._views: set[int] = set()  # identities of the views that are alive; ctypes arrays have no hash
        self._close_checks: list[Callable[[bool], None]] = []
        self.barrier()

    # --- scalars

    def load(self, address: int, dtype: Any) -> Any:
        """The element at `address`, with acquire ordering."""
        element = _ready.get(dtype) or _access(dtype)
        code, value = element.load(self._gate_pointer, address)
        return value if code == status.OK else self._finish(address, element, code)

    def store(self, address: int, value: Any, dtype: Any) -> None:
        """Put `value` at `address`, with release ordering."""
        element = _ready.get(dtype) or _access(dtype)
        code = element.store(self._gate_pointer, address, value)
        if code != status.OK:
            self._finish(address, element, code)

    def fetch_add(self, address: int, value: int, dtype: Any = "int64") -> int:
        """Add `value` to the integer at `address`, atomically; returns what stood there."""
        element = self._atomic(dtype)
        code, old = element.fetch_add(self._gate_pointer, address, value)
        return old if code == status.OK else self._finish(address, element, code)

    def exchange(self, address: int, value: int, dtype: Any = "int64") -> int:
        """Put `value` at `address`, atomically; returns what stood there."""
        element = self._atomic(dtype)
        code, old = element.exchange(self._gate_pointer, address, value)
        return old if code == status.OK else self._finish(address, element, code)

    def compare_swap(self, address: int, expected: int, desired: int, dtype: Any = "int64") -> int:
        """Put `desired` at `address` if `expected` stands there, atomically; returns what stood there."""
        element = self._atomic(dtype)
        code, old = element.compare_swap(self._gate_pointer, address, expected, desired)
        return old if code == status.OK else self._finish(address, element, code)

    # --- bulk

    def get(self, dst: np.ndarray, address: int) -> None:
        """Fill the contiguous array `dst` from `address`; complete on return."""
        pointer = _pointer_to(dst, writable=True)
        if self._is_partly_unmapped:
            code = self._get(self._gate_pointer, address, pointer, dst.nbytes)
            if self._is_done(code, dst):
                return
        for offset, route in self.switch.routes(address, "get", dst.nbytes):
            route.fabric.get(route.rank, route.address, pointer + offset, route.num_bytes, keep=dst)

    def put(self, address: int, src: np.ndarray) -> None:
        """Copy the contiguous array `src` to `address`; complete at the home on return."""
        pointer = _pointer_to(src, writable=False)
        if self._is_partly_unmapped:
            code = self._put(self._gate_pointer, address, pointer, src.nbytes)
            if self._is_done(code, src):
                return
        for offset, route in self.switch.routes(address, "put", src.nbytes):
            route.fabric.put(route.rank, route.address, pointer + offset, route.num_bytes, keep=src)

    def copy(self, dst: int, src: int, num_bytes: int) -> None:
        """Copy `num_bytes` from address `src` to address `dst`, which must not overlap; complete on return."""
        if num_bytes < 0 or abs(dst - src) < num_bytes:
            raise AddressError(f"{num_bytes} bytes from {src:#x} to {dst:#x} overlap or are negative")
        for start, size in self.segments.map.pieces(dst, num_bytes):
            source = src + start - dst
            for offset, route in self.switch.routes(source, "get", size):
                self._copy_piece(start + offset, source + offset, route.num_bytes)

    def _copy_piece(self, dst: int, src: int, num_bytes: int) -> None:
        from_route = self.switch.route(src, "get", num_bytes)
        to_route = self.switch.route(dst, "put", num_bytes)
        if from_route.fabric is self.mapped:
            to_route.fabric.put(to_route.rank, to_route.address, self.pointer(src), num_bytes)
        elif to_route.fabric is self.mapped:
            from_route.fabric.get(from_route.rank, from_route.address, self.pointer(dst), num_bytes)
        else:
            step = min(num_bytes, 1 << 20)
            bounce = np.empty(step, np.uint8)
            for offset in range(0, num_bytes, step):
                size = min(step, num_bytes - offset)
                pointer = bounce.ctypes.data
                from_route.fabric.get(
                    from_route.rank, from_route.address + offset, pointer, size, keep=bounce
                )
                to_route.fabric.put(to_route.rank, to_route.address + offset, pointer, size, keep=bounce)

    @cached_property
    def near(self) -> Near:
        """Operations that are shipped to the home and run beside the data. Needs UCX, in every world."""
        return Near(self.agent.client, self.segments.map)

    # --- memory

    def alloc(self, num_bytes: int, home: int | str = "local", align: int = 64) -> int:
        """Address of `num_bytes` of new memory at `home`, uninitialised.

        `home` is a rank, "local", "striped" (over all ranks, in blocks) or "host" (this rank's host
        memory). Raises OutOfMemory, which says what is free where.
        """
        self.switch.check_open()
        return self.heap.alloc(num_bytes, home, align)

    def free(self, address: int) -> None:
        """Give back what `alloc` returned; any rank may. Raises DoubleFree, NotAllocated, and changes nothing then."""
        self.switch.check_open()
        self.heap.free(address)

    def empty(self, shape: int | Sequence[int], dtype: Any, home: int | str = "local") -> Array:
        """A new array of this rank's own, uninitialised."""
        dims, kind = _shape(shape), np.dtype(dtype)
        address = self.alloc(max(math.prod(dims) * kind.itemsize, 1), home)
        return Array(self, address, dims, kind)

    def shared(self, name: str, shape: int | Sequence[int], dtype: Any, home: int | str = 0) -> Array:
        """One array for all ranks, zeroed. Collective: every rank, in the same order, with the same arguments."""
        dims, kind = _shape(shape), np.dtype(dtype)
        wanted = json.dumps([name, dims, kind.str, home]).encode()
        asked = self.world.exchange("shared", wanted)
        for rank, other in enumerate(asked):
            if other != asked[0]:  # every rank sees it, so that none is left waiting
                raise ConfigError(
                    f"shared array: rank 0 asks for {asked[0].decode()}, rank {rank} for {other.decode()}"
                )
        if self.rank == 0:
            array = self.empty(dims, kind, home)
            self.heap.give(array.address)  # to all ranks: it outlives the one that asked for it
            self._zero(array)
            self._announce(name, array)
        self.barrier()
        return self.find(name, self.timeout_s)

    def publish(self, name: str, array: Array) -> None:
        """Let every rank `find` this array by name."""
        self._announce(name, array)

    def find(self, name: str, timeout_s: float | None = None) -> Array:
        """The array of this name, once a rank has published it. Raises WaitTimeout."""
        found = self.world.get(f"array/{name}", self.timeout_s if timeout_s is None else timeout_s)
        fields = json.loads(found)
        return Array(self, fields["address"], tuple(fields["shape"]), np.dtype(fields["dtype"]))

    def view(self, address: int, num_bytes: int) -> np.ndarray:
        """The bytes at `address` as a writable uint8 array, no copy. Raises NotMappable where a home is not mapped."""
        self.switch.check_open()
        for start, _ in self.segments.map.pieces(address, num_bytes):
            home = self.segments.map.home(start)
            if home not in self.segments.mapped_ranks:
                raise NotMappable(
                    f"address {start:#x} lives at rank {home}, whose memory this rank cannot map;"
                    " use read/write, get/put or the scalar accesses"
                )
        memory = (ctypes.c_uint8 * num_bytes).from_address(address)
        self._views.add(id(memory))
        weakref.finalize(memory, self._views.discard, id(memory)).atexit = False
        return np.ctypeslib.as_array(memory)

    def pointer(self, address: int) -> int:
        """What this process dereferences for `address`: on the host the same number."""
        self.segments.map.place(address)
        return address

    def address(self, pointer: int) -> int:
        """The address of what `pointer` points to. Raises AddressError for memory outside the space."""
        self.segments.map.place(pointer)
        return pointer

    # --- ranks

    def fence(self) -> None:
        """Order this rank's accesses before it against those after it: a store, too, is seen before a later load.

        Needed between a scalar store and a load of another address; everything else is ordered already. An
        access to a home that is not mapped is complete when it returns, so the fence covers it too.
        """
        self.switch.check_open()
        access.fence()

    def barrier(self, timeout_s: float | None = None) -> None:
        """Wait for every rank; what each stored before is visible to all after. Collective."""
        self.switch.check_open()
        self._synchronise(self.timeout_s if timeout_s is None else timeout_s)

    def send(self, message: Any, rank: int, tag: int = 0) -> None:
        """Send any object that can be pickled to `rank`; returns when it has been handed over.

        Arrays of the space travel as their addresses, and so do torch's tensors in its memory where
        umem.torch is installed; all else by value. Messages with one tag arrive in the order sent.
        """
        self.switch.check_open()
        self.messages.send(message, rank, tag)

    def recv(self, rank: int, tag: int = 0) -> Any:
        """What `rank` has sent with `tag`, in the order sent. Raises RankLost, WaitTimeout, FabricMissing."""
        self.switch.check_open()
        return self.messages.recv(rank, tag)

    def before_close(self, check: Callable[[bool], None]) -> None:
        """Call `check(is_forced)` when the space is about to close, the latest first; it may raise to keep it open.

        `is_forced`: the space closes whatever it says, because an exception has left the context.
        """
        self._close_checks.append(check)

    def keep_mapped(self) -> None:
        """Let the memory stay mapped when the space closes, until the process ends; others may point into it."""
        self._views.add(id(self))

    def close(self, *, is_forced: bool = False) -> None:
        """Leave the world. Collective where all ranks live; the memory goes with the last rank that maps it.

        Where numpy or torch views are still alive, their pages stay mapped until the process ends, so
        that using one is never a crash; this process can then not open another space.
        """
        if not self.is_open:
            return
        for check in reversed(self._close_checks):
            check(is_forced)
        if not current.leave(self):
            return
        self.page.stop()
        self.heap.close()
        self.agent.close()
        if self.fabric is not None:
            self.fabric.close()
        self.world.leave()
        self.switch.close()
        self.control = self._gate[gate.CONTROL] = _CLOSED_PAGE.ctypes.data
        if not self._views:
            self.segments.close()

    @property
    def is_open(self) -> bool:
        """Whether this space can be used."""
        return not self.switch.is_closed

    def __enter__(self) -> Space:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.is_open and not self.page.dead_ranks():
            self.barrier()
        self.close(is_forced=kind is not None)

    def __repr__(self) -> str:
        return f"umem.Space(rank={self.rank}, num_ranks={self.num_ranks}, world={self.world.spec.kind!r})"

    # --- helpers

    def _atomic(self, dtype: Any) -> access.Access:
        element = _ready.get(dtype) or _access(dtype)
        if element.fetch_add is None:
            raise UnknownName("dtype of an atomic", dtype, access.ATOMIC_NAMES)
        return element

    def _finish(self, address: int, element: access.Access, code: int) -> Any:
        """What a scalar access comes to that compiled code has not done: the value, or the error."""
        self.switch.check_open()
        if code == status.MISALIGNED:
            raise AlignmentError(address, element.num_bytes, f"a {element.name} needs it")
        if code == status.OUT_OF_RANGE:
            raise AddressError(f"address {address:#x} lies in no segment of this world")
        assert code in (status.PENDING, status.NOT_MAPPED), code
        if self._remote is None:
            self.switch.fabric_to(self.segments.map.home(address))  # raises, and says what is missing
            raise AssertionError(address)
        return element.from_bits(self._remote.finish_gate())

    def _is_done(self, code: int, keep: np.ndarray) -> bool:
        """Whether a bulk access was one request to its home; waits for what compiled code has left PENDING."""
        if code == status.PENDING and self._remote is not None:
            self._remote.finish_gate(keep)
            return True
        return code == status.OK

    def _zero(self, array: Array) -> None:
        step = np.zeros(min(array.nbytes, 1 << 20), np.uint8)
        for offset in range(0, array.nbytes, 1 << 20):
            self.put(array.address + offset, step[: array.nbytes - offset])

    def _announce(self, name: str, array: Array) -> None:
        fields = {"address": array.address, "shape": array.shape, "dtype": array.dtype.str}
        self.world.set(f"array/{name}", json.dumps(fields).encode())


def _access(dtype: Any) -> access.Access:
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in access.NAMES:
        raise UnknownName("dtype", dtype, tuple(access.NAMES))
    ready = _ready[dtype] = access.ready(name)
    return ready


def _shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    dims = (shape,) if isinstance(shape, int) else tuple(operator.index(extent) for extent in shape)
    if any(extent < 0 for extent in dims):
        raise ConfigError(f"shape {dims} has a negative extent")
    return dims


def _pointer_to(array: np.ndarray, writable: bool) -> int:
    if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
        raise ConfigError("the array must be a C-contiguous numpy array; use numpy.ascontiguousarray")
    if array.flags.writeable and array.nbytes:
        # `array.ctypes` would cost half of an access.
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    if writable and array.nbytes:
        raise ConfigError("the destination array is read-only")
    return array.ctypes.data
