"""The global address space of one rank: open it, allocate, load and store, synchronise."""

from __future__ import annotations

import ctypes
import gc
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..agent.asking.near import Near
from ..arguments import whole
from ..errors import NotMappable, RankLost
from ..fabric.switch import Switch
from ..kernels import access
from ..kernels.coherent.layout import CACHE_IN_USE
from ..kernels.page import gate
from ..kernels.page.control import CONTROL_BYTES
from ..memory.waiting import leave_calls, one_at_a_time
from ..world import Meeting, World, WorldSpec, join
from ..world.forks import MakeError, belongs_here, refuse
from . import current, startup
from .accesses import Accesses
from .array import Array
from .dtypes import elements
from .launching import Launches
from .messages import Messages
from .named import DEFAULT_LINE_BYTES, Named

if TYPE_CHECKING:
    from ..lines.cache import LineCache


class Part(Protocol):
    """Something that is used with the space's memory alone."""

    def end(self) -> None:
        """Have every later call raise."""


# The control page after close: zeros, by which no address has a home.
_CLOSED_PAGE = np.zeros(CONTROL_BYTES // 8, np.int64)


def init(spec: WorldSpec | None = None, meeting: Meeting | None = None) -> Space:
    """Join the world that this process was started in (`umem run`, `umem.launch`, torchrun, else alone).

    Collective: every rank of the world. Returns an open space; use it as a context manager. `meeting` is for those
    who bring a place where ranks meet: see `umem.world.join`.
    """
    current.check_free()  # before a peer waits for this rank
    world = join(spec, meeting)
    try:
        return open_space(world)
    except BaseException:
        world.leave()  # else this process could never join again
        raise


def open_space(world: World) -> Space:
    """Make this rank's part of the global address space of `world`. Collective."""
    space = Space(world)
    current.enter(space)
    return space


def current_space() -> Space:
    """The open space of this process. Raises WorldError where there is none."""
    space = current.opened()
    assert isinstance(space, Space)
    return space


class Space(Accesses, Named, Launches):
    """One rank's view of the world's memory.

    Scalar accesses name a dtype (`"float32"`, `numpy.float32`, ...), are naturally aligned, and are
    ordered: a load acquires, a store releases, read-modify-writes do both. Bulk accesses (`get`, `put`,
    `copy`, views) are plain: order them by `barrier`, a signal or a scalar access.

    Any thread of a rank may make any call at any time. What orders the accesses of one thread does not order those of
    another: only a scalar access, a message, a barrier or Python's own locks do, as between two ranks. Calls in other
    threads end with Interrupted or WorldError when the space closes.

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
        self._is_partly_unmapped = not self.segments.reach.is_whole
        self._remote = self.agent.remote if self._is_partly_unmapped else None
        remote_gpu = self.agent.remote_gpu if self.segments.map.gpu_ranks else None
        self.switch = Switch(self.segments, self.mapped, self._remote, remote_gpu)
        if self._remote is not None:
            self.switch.traffic.sources.append(self._remote.traffic)
        self.messages = Messages(self.fabric)
        self.control = self.segments.control
        self._gate = (ctypes.c_int64 * gate.GATE_WORDS)()
        self._gate[gate.GATE_CONTROL], self._gate_pointer = self.control, ctypes.addressof(self._gate)
        if self._remote is not None:
            # Homes that are not mapped are asked in one compiled call: the switch's own way through Python takes
            # 35 us where nothing is in the caches, as long as the home takes to answer.
            self._get, self._put = gate.get.compiled, gate.put.compiled
            self._remote.serve_gate(self._gate)
        self._synchronise = parts.synchronise
        self._lines, self._line_service = parts.lines, parts.line_service
        header = parts.lines.header(self.segments.map, self.rank)
        self._has_cached = ctypes.c_int64.from_address(header + 8 * CACHE_IN_USE)
        self._cache: LineCache | None = None
        self._making = threading.RLock()  # a finalizer may use the cache while it is made
        self._collective = threading.RLock()
        self._views: set[int] = set()  # identities of the views that are alive; ctypes arrays have no hash
        self._close_checks: list[Callable[[bool], None]] = []
        self._parts: weakref.WeakSet[Part] = weakref.WeakSet()
        self._is_forked = False
        belongs_here(self)
        self.barrier()

    @property
    def cache(self) -> LineCache:
        """This rank's coherent copies of cached memory: allocation, counters, and the address that kernels take."""
        if self._cache is None:
            self.switch.check_open()
            with self._making:
                if self._cache is None:
                    self._cache = self._make_cache()
        return self._cache

    def _make_cache(self) -> LineCache:
        # Imported here: they load kernels that spaces without cached memory never need.
        from ..lines.cache import LineCache
        from ..lines.remote import RemoteLines

        own_gate = (ctypes.c_int64 * gate.GATE_WORDS)()
        own_gate[gate.GATE_CONTROL] = self.control
        if self._remote is not None:
            self._remote.serve_gate(own_gate)
        peers = None if self._remote is None else RemoteLines(self.agent.client, own_gate, self.segments.map)
        mapped_ranks, plan = self.segments.mapped_ranks, self.segments.map
        places = (self._lines, plan, self.page, self.rank)
        cache = LineCache(*places, own_gate, mapped_ranks, self.heap, peers, self.timeout_s)
        self._gate[gate.GATE_CACHE] = cache.address  # from now on scalar accesses look there
        return cache

    @cached_property
    def near(self) -> Near:
        """Operations that are shipped to the home and run beside the data. Needs UCX, in every world."""
        self.switch.check_open()
        return Near(self.agent.client, self.segments.map)

    # --- memory

    def alloc(
        self,
        num_bytes: int,
        home: int | str = "local",
        align: int = 64,
        cache: str = "none",
        line: int = DEFAULT_LINE_BYTES,
    ) -> int:
        """Address of `num_bytes` of new memory at `home`, uninitialised.

        `home` is a rank, "local", "striped" (over all ranks, in blocks) or "host" (this rank's host
        memory). `cache` says whether ranks keep coherent copies, in lines of `line` bytes: see LineCache.alloc.
        Raises OutOfMemory, which lists the free memory of each home.
        """
        self.switch.check_open()
        if cache != "none":
            return self.cache.alloc(num_bytes, home, cache, line)
        return self.heap.alloc(num_bytes, home, align)

    def free(self, address: int) -> None:
        """Free the allocation at `address`; any rank may. Raises DoubleFree, NotAllocated, and changes nothing then."""
        self.switch.check_open()
        if self._has_cached.value and self.cache.attribute(address)[1]:
            self.cache.free(address, self.heap.find(address).num_bytes)
        else:
            self.heap.free(address)

    def empty(
        self,
        shape: int | Sequence[int],
        dtype: Any,
        home: int | str = "local",
        cache: str = "none",
        line: int = DEFAULT_LINE_BYTES,
    ) -> Array:
        """A new array, uninitialised, that this rank owns; one in cached memory (see `alloc`) belongs to all ranks."""
        dims, kind = elements(shape, dtype)
        num_bytes = max(math.prod(dims) * kind.itemsize, 1)
        return Array(self, self.alloc(num_bytes, home, cache=cache, line=line), dims, kind)

    def view(self, address: int, num_bytes: int) -> np.ndarray:
        """The bytes at `address` as a writable uint8 array, no copy. Raises NotMappable where a home is not mapped.

        Works in a forked child too, whose writes the rank sees.
        """
        if not self._is_forked:
            self.switch.check_open()
        address, num_bytes = whole(address, "address"), whole(num_bytes, "num_bytes", 0)
        for start, _ in self.segments.map.pieces(address, num_bytes):
            home, kind, _ = self.segments.map.place(start)
            if not self.segments.reach.by_cpu(home, kind):
                is_gpu = self.segments.map.is_gpu(home, kind)
                reason = "is a GPU's, and no CPU maps that" if is_gpu else "this rank cannot map"
                has_gpu = is_gpu and self.segments.gpu is not None
                on_gpu = " use Array.cupy() or Array.torch() on this rank's GPU, or" if has_gpu else " use"
                raise NotMappable(
                    f"address {start:#x} lives at rank {home}, whose memory {reason};{on_gpu}"
                    " read/write, get/put or the scalar accesses"
                )
        if self._has_cached.value:
            self.cache.refuse_raw(address, num_bytes)
        memory = (ctypes.c_uint8 * num_bytes).from_address(address)
        self._views.add(id(memory))
        weakref.finalize(memory, self._views.discard, id(memory)).atexit = False
        return np.ctypeslib.as_array(memory)

    def pointer(self, address: int) -> int:
        """This process's pointer to `address`: in memory of GPUs its GPU's, else its CPU's, which is the same number.

        Raises AddressError, NotMappable for memory of a GPU where this rank has none.
        """
        return self.segments.pointer(whole(address, "address"))

    def address(self, pointer: int) -> int:
        """The address of the memory at `pointer`. Raises AddressError for memory outside the space."""
        return self.segments.address(whole(pointer, "pointer"))

    # --- ranks

    def fence(self) -> None:
        """Order this rank's accesses before it against those after it: a store, too, is seen before a later load.

        Needed between a scalar store and a load of another address; everything else is ordered already. An
        access to a home that is not mapped is complete when it returns, so the fence covers it too.
        """
        self.switch.check_open()
        access.fence()

    def barrier(self, timeout_s: float | None = None) -> None:
        """Wait for every rank; every store from before it is visible to all ranks after it. Collective.

        Where several threads of a rank call it, or `shared`, one waits for the other: the ranks' calls pair in order.
        """
        self.switch.check_open()
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        with one_at_a_time(self._collective, timeout_s, "barrier"):
            self._synchronise(timeout_s)

    def send(self, message: Any, rank: int, tag: int = 0) -> None:
        """Send any object that can be pickled to `rank`; returns when it has been handed over.

        Arrays of the space travel as their addresses, and so do torch's tensors in its memory where
        umem.torch is installed; all else by value. Messages with one tag arrive in the order sent, and whole.

        A small message leaves at once; a large one once `rank` receives it, or waits in any `send` or `recv`, where it
        takes in arriving messages, up to 256 MiB or else one message, for its later `recv`. So ranks may send to each
        other before they receive. Raises ConfigError, RankLost, FabricMissing, WaitTimeout: then the message stays
        under way, its bytes are kept, and `rank` gets it whole if it asks for it.
        """
        self.switch.check_open()
        self.messages.send(message, rank, tag)

    def recv(self, rank: int, tag: int = 0) -> Any:
        """The next object that `rank` sent with `tag`; messages with one tag come in the order sent.

        A receive that fails or is interrupted takes no message; one that cannot unpickle its message takes only that
        one, and the messages behind it stay. Raises ConfigError, RankLost, WaitTimeout, FabricMissing.
        """
        self.switch.check_open()
        return self.messages.recv(rank, tag)

    def before_close(self, check: Callable[[bool], None]) -> None:
        """Have `close` first call `check(is_forced)`, the latest check first; it may raise to keep the space open.

        With `is_forced`, as after an exception that has left the context, it must not.
        """
        self._close_checks.append(check)

    def end_with(self, part: Part) -> None:
        """Have `part`, whose compiled code uses this memory, end when the space closes, and in forked children."""
        self._parts.add(part)

    def keep_mapped(self) -> None:
        """Let the memory stay mapped when the space closes, until the process ends; others may point into it."""
        self._views.add(id(self))

    def close(self, *, is_forced: bool = False, error: BaseException | None = None) -> None:
        """Leave the world, telling ranks that wait the `error` that is its reason. Collective where all ranks live.

        The memory is freed when the last rank has left. Where numpy or torch views are still alive, or another thread
        does not come back from a call, its pages stay mapped until the process ends, so that using a view is never a
        crash; this process can then not open another space.
        """
        if not self.is_open:
            return
        for check in reversed(self._close_checks):
            check(is_forced)
        if not current.leave(self):
            return
        self.page.stop()
        self._shut()
        if self._cache is not None:
            self._cache.close()
        self.heap.close()
        leave_calls()  # before the agent and the fabric that calls use are gone
        self.agent.close()
        if self.fabric is not None:
            self.fabric.close()
        self.world.leave(error)
        self._has_cached = ctypes.c_int64(0)  # the header that counts cached memory goes with the segments
        if self._views:
            gc.collect()  # frees views that only cycles hold
        if not self._views and leave_calls():
            self.segments.close()
        else:
            current.leave_mapped()

    def disown(self, make_error: MakeError) -> None:
        """Refuse, in a forked child, every call but `view`, whose memory child and rank share; `close` does nothing."""
        if not self.is_open:
            return
        self._is_forked = True
        self.switch.make_refusal = make_error
        self._shut()
        refuse(self, make_error, keep=("view", "reaches_by_cpu", "pointer", "address", "close"))

    @property
    def is_open(self) -> bool:
        """Whether this space can be used."""
        return not self.switch.is_closed

    def __enter__(self) -> Space:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.is_open:
            try:
                self.barrier()
            except RankLost:  # this rank's stores stand, and other living ranks may still use its memory
                self.world.await_living("close")
        self.close(is_forced=kind is not None, error=error)

    def __repr__(self) -> str:
        return f"umem.Space(rank={self.rank}, num_ranks={self.num_ranks}, world={self.world.spec.kind!r})"

    # --- helpers

    def _shut(self) -> None:
        """Refuse accesses from Python and from compiled code: no address has a home any more."""
        self.switch.close()
        for part in list(self._parts):
            part.end()
        self.control = self._gate[gate.GATE_CONTROL] = _CLOSED_PAGE.ctypes.data
