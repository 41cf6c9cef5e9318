"""Cached memory at homes that are not mapped, from Python: the end of flits, and requests for whole blocks."""

from __future__ import annotations

import ctypes

from ..agent.asking.client import Client
from ..agent.asking.messages import check
from ..agent.layout import Operation
from ..errors import RankLost
from ..kernels import status
from ..kernels.coherent import layout as words
from ..kernels.coherent.span import finish
from ..kernels.heap.layout import BLOCK_BYTES
from ..kernels.page import operations
from ..memory.address import AddressMap
from .home.blocks import LIFT, LOOK, MARK, NEXT_HELD

BLOCK = int(Operation.BLOCK)


class RemoteLines:
    """The requests of `LineCache` to homes that this rank does not map, by the client of its agent."""

    def __init__(self, client: Client, gate: ctypes.Array[ctypes.c_int64], plan: AddressMap):
        """`gate` is the cache's own."""
        self._client, self._gate, self._plan = client, gate, plan

    def finish(self, cache: int, timeout_s: float) -> None:
        """Wait for the flit that compiled code has left in the header at `cache`, and end it.

        Where the wait is cut short the flit stays: a slot that it is to fill cannot be given up while the home
        may take this rank for the line's owner. The next coherent access goes on waiting. A home that died is
        RankLost, except where an owned line was only given back to make room: its loss is met by the next access to it.
        """
        flit = (ctypes.c_int64 * words.FLIT_WORDS).from_address(cache + 8 * words.CACHE_FLIT)
        if flit[words.FLIT_PHASE] in (words.NO_FLIT, words.MODIFIED_THERE):
            finish(cache, status.OK, 0)  # what was answered to an access that nobody makes again is dropped
            return
        is_put, home = flit[words.FLIT_PHASE] == words.PUTTING, self._plan.home(flit[words.FLIT_ADDRESS])
        try:
            reply = self._client.settle_gate(self._gate, flit[words.FLIT_LEFT], home, timeout_s)
        except BaseException as error:
            if isinstance(error, RankLost) or not self._client.is_left:
                finish(cache, status.RANK_LOST, 0)
            if is_put and isinstance(error, RankLost):
                return
            raise
        finish(cache, reply.status, reply.value)

    def look(self, home: int, address: int) -> int:
        """The block word of an address at `home`."""
        return self._client.value(home, BLOCK, LOOK, address)

    def mark(self, home: int, address: int, value: int) -> None:
        """Have a block at `home` cached as the block word says; address 0: only say that cached memory exists."""
        self._client.value(home, BLOCK, MARK, address, value)

    def lift(self, home: int, address: int, line_log2: int) -> None:
        """Lift the poison of a line at `home`."""
        self._client.value(home, BLOCK, LIFT, address, line_log2)

    def call_home(self, home: int, block: int) -> None:
        """Have every line of a block at `home` uncached, the poison of lost ones lifted."""
        value = self.look(home, block)
        line_log2 = value & words.LINE_LOG2_MASK
        request = words.RECALL_OWNED | value << words.FLIT_BLOCK_SHIFT
        line = 0
        while True:
            line = self._client.value(home, BLOCK, NEXT_HELD, block, line)
            if line >= BLOCK_BYTES >> line_log2:
                return
            address = block + (line << line_log2)
            reply = self._client.request(home, operations.FLIT, address, request)
            if reply.status == status.POISONED:
                self.lift(home, address, line_log2)
            else:
                check(home, operations.FLIT, reply)
            line += 1
