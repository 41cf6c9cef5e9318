"""Cached memory at homes that are not mapped, asked for from Python: what ends a flit, and blocks as a whole."""

from __future__ import annotations

import ctypes

from ..agent.client import Client
from ..agent.layout import Operation
from ..errors import RankLost
from ..kernels import coherence_layout as words
from ..kernels import status
from ..kernels.coherent_lines import finish
from ..kernels.heap_layout import BLOCK_BYTES
from .blocks import LIFT, LOOK, MARK, NEXT_HELD

BLOCK, FLIT = int(Operation.BLOCK), int(Operation.FLIT)


class RemoteLines:
    """What `LineCache` asks of homes that this rank does not map, by the client of its agent."""

    def __init__(self, client: Client):
        self._client = client

    def finish(self, cache: int, timeout_s: float) -> None:
        """Wait for the flit that compiled code has left in the header at `cache`, and end it.

        Where the wait is cut short the flit stays: a slot that it is to fill cannot be given up while the home
        may take this rank for the line's owner. The next coherent access goes on waiting. A home that died is
        RankLost, but not where a line was only to make room: that is lost to who asks for it.
        """
        is_put = (
            ctypes.c_int64.from_address(cache + 8 * (words.FLIT + words.FLIT_PHASE)).value == words.PUTTING
        )
        try:
            reply = self._client.settle_gate(timeout_s)
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
            reply = self._client.request(home, FLIT, address, request)
            if reply.status == status.POISONED:
                self.lift(home, address, line_log2)
            elif reply.status < 0:
                self._client.value(home, FLIT, address, request)  # raises, and says why
            line += 1
