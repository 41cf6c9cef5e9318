"""A rank's coherent cache, for Python: allocate cached memory, access it, settle accesses under way, count.

Compiled code does the accesses (kernels/coherent/typed.py); what it cannot end within a slice comes back here, is
waited for with a deadline, and is asked for again.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

import numpy as np

from ..agent.private_memory import PrivateMemory
from ..arguments import home_of, whole
from ..errors import (
    AddressError,
    AlignmentError,
    ConfigError,
    Interrupted,
    LinePoisoned,
    NotMappable,
    UmemError,
    UnknownName,
    WaitTimeout,
    WorldError,
)
from ..kernels import status
from ..kernels.build.precompile import compile_here
from ..kernels.coherent import blocks
from ..kernels.coherent import layout as words
from ..kernels.coherent.entries import CHANGES, COHERENCE_KERNELS, LOADS
from ..kernels.coherent.hits import WINDOW_LOG2
from ..kernels.coherent.span import read, write
from ..kernels.heap.layout import BLOCK_BYTES, BLOCK_LOG2
from ..memory.address import AddressMap
from ..memory.control_page import ControlPage
from ..units import align_up
from ..world.forks import MakeError, belongs_here, refuse
from ..world.waiting import Deadline, until
from . import report
from .layout import LineLayout
from .needs import Heap, Peers

__all__ = ["ATTRIBUTES", "COHERENCE_KERNELS", "LineCache"]
ATTRIBUTES = {"none": words.NONE, "back": words.BACK, "through": words.THROUGH, "private": words.PRIVATE}


class LineCache:
    """The cache of one rank. Coherent kernels take its `address`; all waits end after `timeout_s`."""

    def __init__(
        self,
        layout: LineLayout,
        plan: AddressMap,
        page: ControlPage,
        rank: int,
        gate: ctypes.Array[ctypes.c_int64] | None,
        mapped_ranks: frozenset[int],
        heap: Heap,
        peers: Peers | None,
        timeout_s: float,
    ):
        compile_here(COHERENCE_KERNELS, "cached memory")
        self.layout, self.plan, self.rank, self.timeout_s = layout, plan, rank, timeout_s
        self.address = layout.header(plan, rank)
        self._gate = gate
        # Where all ranks are mapped, threads access at once. Else one at a time: there is one flit under way, and what
        # it came to waits for the access that sent it.
        self._turn: AbstractContextManager[Any] = (
            nullcontext() if len(mapped_ranks) == plan.num_ranks else threading.RLock()
        )
        self._page, self._heap, self._peers, self._mapped = page, heap, peers, mapped_ranks
        self._notes = PrivateMemory(1 << WINDOW_LOG2 - BLOCK_LOG2)
        self._counters = np.zeros(words.COUNTER_WORDS, np.int64)
        self._room = np.zeros(1 << words.MAX_LINE_LOG2, np.uint8)
        header = (ctypes.c_int64 * (words.CACHE_HEADER_BYTES // 8)).from_address(self.address)
        header[words.CACHE_NOTES] = self._notes.take(1 << WINDOW_LOG2 - BLOCK_LOG2)
        header[words.CACHE_COUNTERS] = self._counters.ctypes.data
        header[words.CACHE_ROOM] = self._room.ctypes.data
        header[words.CACHE_GATE] = 0 if gate is None else ctypes.addressof(gate)
        self._in_use = ctypes.c_int64.from_address(self.address + 8 * words.CACHE_IN_USE)
        belongs_here(self)

    @property
    def is_in_use(self) -> bool:
        """Whether any rank has ever allocated cached memory."""
        return self._in_use.value != 0

    # --- memory

    def alloc(
        self,
        num_bytes: int,
        home: int | str,
        cache: str,
        line: int,
        prepare: Callable[[int], None] | None = None,
    ) -> int:
        """Address of new memory that ranks keep coherent copies of, in lines of `line` bytes, uninitialised.

        It takes whole blocks of 2 MiB of addresses (backed as they are touched) and belongs to all ranks. `prepare`
        is called with the address while nobody can have copies: to fill the memory raw. Raises UnknownName,
        ConfigError for a line size that is no power of two from 64 to 4096, OutOfMemory, NotMappable for a home whose
        memory is a GPU's.
        """
        if cache not in ATTRIBUTES:
            raise UnknownName("cache attribute", cache, tuple(ATTRIBUTES))
        num_bytes, line = whole(num_bytes, "num_bytes", 0), whole(line, "line")
        line_log2 = line.bit_length() - 1
        if line <= 0 or line & (line - 1) or not words.MIN_LINE_LOG2 <= line_log2 <= words.MAX_LINE_LOG2:
            raise ConfigError(
                f"line={line} is not a power of two from {1 << words.MIN_LINE_LOG2} to {1 << words.MAX_LINE_LOG2}"
            )
        self._refuse_gpu(home)
        size = align_up(max(num_bytes, 1), BLOCK_BYTES)
        address = self._heap.alloc(size, home, BLOCK_BYTES)
        value = line_log2 | ATTRIBUTES[cache] << words.ATTRIBUTE_SHIFT
        try:
            self._heap.give(address)
            if prepare is not None:
                prepare(address)
            self._tell_all()
            for block in range(address, address + size, BLOCK_BYTES):
                self._mark(block, value)
        except BaseException:
            with suppress(UmemError):  # a home that died took it along
                self.free(address, size)
            raise
        return address

    def _refuse_gpu(self, home: int | str) -> None:
        """Raise NotMappable where memory at `home` would be a GPU's, of which no rank keeps coherent copies."""
        named = home_of(home)
        by_word = {"local": (self.rank,), "striped": self.plan.members}
        for rank in (named,) if isinstance(named, int) else by_word.get(named, ()):
            if rank in self.plan.gpu_ranks:
                raise NotMappable(
                    f"home={home!r}: the memory of rank {rank} is a GPU's, and ranks keep copies of host memory only;"
                    ' use home="host", the home of a rank that works on the CPU, or cache="none"'
                )

    def free(self, address: int, num_bytes: int) -> None:
        """Call every copy of an allocation home, and free it. No rank may access it meanwhile."""
        for block in range(address, address + num_bytes, BLOCK_BYTES):
            home = self.plan.home(block)
            if home in self._mapped:
                self._call_home(home, block)
            else:
                self._remote.call_home(home, block)
            self._mark(block, 0)
        self._heap.free(address)

    def attribute(self, address: int) -> tuple[str, int]:
        """(attribute, line size) of the memory at `address`; ("none", 0) where no rank keeps copies."""
        address = whole(address, "address")
        home = self.plan.home(address)
        is_mapped = home in self._mapped
        value = blocks.look(self.address, home, address) if is_mapped else self._remote.look(home, address)
        if value == 0:
            return "none", 0
        names = {code: name for name, code in ATTRIBUTES.items()}
        return names[value >> words.ATTRIBUTE_SHIFT & words.ATTRIBUTE_MASK], 1 << (
            value & words.LINE_LOG2_MASK
        )

    def holds(self, address: int, num_bytes: int) -> bool:
        """Whether ranks keep copies of the memory at `address`, where `num_bytes` are to be accessed."""
        return num_bytes > 0 and self.attribute(address)[1] != 0

    def refuse_raw(self, address: int, num_bytes: int) -> None:
        """Raise NotMappable where any of the memory is cached: raw accesses would pass the copies by."""
        if not self.is_in_use:
            return
        for start, size in self.plan.pieces(address, num_bytes):
            for block in range(start & -BLOCK_BYTES, start + size, BLOCK_BYTES):
                attribute, _ = self.attribute(block)
                if attribute != "none":
                    raise NotMappable(
                        f"the memory at {block:#x} is cache={attribute!r}: a raw view would miss what other ranks'"
                        " caches hold; use read/write, get/put, the scalar accesses or coherent kernels"
                    )

    def reset(self, address: int) -> None:
        """Make the poisoned line at `address` usable, with the data last written back. Raises AddressError where no
        memory is cached."""
        home, (_, line) = self.plan.home(address), self.attribute(address)
        if line == 0:
            raise AddressError(f"no memory at {address:#x} is cached, so no line of it can be poisoned")
        start, line_log2 = address & -line, line.bit_length() - 1
        if home in self._mapped:
            with self._turn:
                self.until_ok(lambda: blocks.lift(self.address, home, start, line_log2), lambda: start)
        else:
            self._remote.lift(home, start, line_log2)

    # --- access

    def load(self, address: int, num_bytes: int) -> int:
        """The 1, 2, 4 or 8 bytes at `address`, as a signed integer of the same bits; acquires."""
        return self._element(_of_size(LOADS, num_bytes), num_bytes, address)

    def change(self, address: int, operation: int, first: int, second: int, num_bytes: int) -> int:
        """Do an operation of kernels/page/operations.py (WRITE, FETCH_ADD, ...); returns the old bits, signed."""
        return self._element(_of_size(CHANGES, num_bytes), num_bytes, address, operation, first, second)

    def read(self, dst: int, address: int, num_bytes: int) -> None:
        """Copy `num_bytes` at `address`, all cached, to the pointer `dst`."""
        self._range(
            lambda done: read(self.address, dst + done, address + done, num_bytes - done), address, num_bytes
        )

    def write(self, address: int, src: int, num_bytes: int) -> None:
        """Copy `num_bytes` at the pointer `src` to `address`, all cached."""
        self._range(
            lambda done: write(self.address, address + done, src + done, num_bytes - done), address, num_bytes
        )

    def until_ok(
        self,
        step: Callable[[], int],
        where: Callable[[], int | None] = lambda: None,
        timeout_s: float | None = None,
    ) -> None:
        """Call `step`, which calls a coherent kernel, until it returns OK; in between `settle` its codes.

        `where` returns the address of the access that is not done, for errors to name. Raises what `settle` raises,
        WaitTimeout after `timeout_s`.
        """
        code = step()
        if code == status.OK:
            return
        deadline = Deadline(self.timeout_s if timeout_s is None else timeout_s)

        def look() -> bool | None:
            nonlocal code
            self.settle(code, where(), deadline.left_s())
            code = step()
            return True if code == status.OK else None

        if until(look, deadline) is None:
            raise WaitTimeout(f"{_access_at(where())}: others held the line for {deadline.timeout_s:g} s")

    def settle(self, code: int, address: int | None = None, timeout_s: float | None = None) -> None:
        """After a coherent kernel returned `code`: wait until it can go on, or raise the error.

        Then call the kernel again with the same arguments; `until_ok` does both. `address` is that of the access which
        gave `code`; errors name it. Raises LinePoisoned, AddressError, RankLost, WaitTimeout, Interrupted.
        """
        if code in (status.OK, status.AGAIN):
            return
        if code == status.PENDING:
            self._remote.finish(self.address, self.timeout_s if timeout_s is None else timeout_s)
            return
        where = _access_at(address)
        if code == status.POISONED:
            raise LinePoisoned(address)
        if code == status.MISALIGNED:
            raise AddressError(f"{where}: an element lies at a multiple of its size, so never across lines")
        if code == status.OUT_OF_RANGE:
            raise AddressError(f"{where}: it lies in no segment of this world")
        if code == status.INTERRUPTED:
            raise Interrupted(f"{where}: the space is closing")
        raise UmemError(f"{where}: {status.name(code)}")

    # --- counting

    def counters(self) -> dict[str, int]:
        """This rank's counters since the last `clear_counters`, by their names in kernels/coherent/layout.py."""
        found = {name: int(self._counters[index]) for index, name in enumerate(words.COUNTER_NAMES)}
        found["hits"] = int(self._counters[words.HIT_STRIPES :].sum())
        return found

    def invalidated(self) -> dict[int, int]:
        """Copies that this rank took from others, by rank: for its own accesses, and as the home of those of ranks
        that do not map it, or whose copies they do not map."""
        row = self._counters[words.INVALIDATED : words.INVALIDATED + self.plan.num_ranks]
        return {rank: int(number) for rank, number in enumerate(row) if number}

    def report(self) -> list[report.LineUse]:
        """Lines that others take from this rank again and again, those with most misses first.

        `umem.lines.report.gather` puts those of all ranks together, and finds false sharing.
        """
        return report.uses(self._counters, self.rank)

    def clear_counters(self) -> None:
        """Set every counter of this rank to 0, and forget what `report` tells."""
        self._counters[:] = 0

    def disown(self, make_error: MakeError) -> None:
        """Refuse, in a forked child, every call in the rank's name; whether memory is cached can be asked."""
        refuse(self, make_error, keep=("attribute", "holds", "refuse_raw"))

    def close(self) -> None:
        """Let compiled code find no gate any more, and refuse every call but counting: before the agent goes."""
        ctypes.c_int64.from_address(self.address + 8 * words.CACHE_GATE).value = 0
        keep = ("close", "counters", "invalidated", "report", "clear_counters")
        refuse(self, partial(WorldError, "the space of this cache is closed"), keep=keep)

    # --- helpers

    @property
    def _remote(self) -> Peers:
        assert self._peers is not None, "a world whose ranks are all mapped asks nobody"
        return self._peers

    def _element(
        self, kernel: Callable[..., tuple[int, int]], num_bytes: int, address: int, *more: int
    ) -> int:
        """What an access to the element at `address` returns once it says OK."""
        value = 0

        def step() -> int:
            nonlocal value
            code, value = kernel(self.address, address, *more)
            if code == status.MISALIGNED:
                raise AlignmentError(address, num_bytes, "an element lies at a multiple of its size")
            return code

        with self._turn:
            self.until_ok(step, lambda: address)
        return value

    def _range(self, kernel: Callable[[int], tuple[int, int]], address: int, num_bytes: int) -> None:
        """Have `kernel` move all bytes; it is called with how many are done."""
        done = 0

        def step() -> int:
            nonlocal done
            code, more = kernel(done)
            done += more
            return code

        with self._turn:
            self.until_ok(step, lambda: address + done)
        assert done == num_bytes, (done, num_bytes)

    def _call_home(self, home: int, block: int) -> None:
        first = 0

        def step() -> int:
            nonlocal first
            code, first = blocks.call_block_home(self.address, home, block, first)
            return code

        with self._turn:
            self.until_ok(step)

    def _mark(self, block: int, value: int) -> None:
        home = self.plan.home(block)
        if home in self._mapped:
            blocks.mark_block(self.address, home, block, value)
        else:
            self._remote.mark(home, block, value)

    def _tell_all(self) -> None:
        """Say to every rank that there is cached memory, before there is."""
        for rank in range(self.plan.num_ranks):
            if rank in self._mapped:
                header = self.layout.header(self.plan, rank)
                ctypes.c_int64.from_address(header + 8 * words.CACHE_IN_USE).value = 1
            else:
                self._remote.mark(rank, 0, 0)


def _access_at(address: int | None) -> str:
    """How errors call an access."""
    return "an access" if address is None else f"an access at {address:#x}"


def _of_size(kernels: Mapping[int, Any], num_bytes: int) -> Any:
    """The compiled access of so many bytes. Raises ConfigError."""
    if num_bytes not in kernels:
        raise ConfigError(
            f"an access to {num_bytes} bytes: an element has one of {', '.join(map(str, kernels))}"
        )
    return kernels[num_bytes].compiled
