"""Tells the world while this rank compiles, so that no deadline of a peer passes meanwhile (umem/world/waiting.py)."""

from __future__ import annotations

import ctypes
import time
import weakref
from contextlib import suppress

from ..agent import Agent
from ..agent.layout import Operation
from ..errors import UmemError
from ..kernels.build import compile
from ..kernels.page.control import CONTROL_COMPILED_UNTIL
from ..memory.address import AddressMap
from ..memory.control_page import ControlPage
from ..memory.segment import Segments
from ..world import waiting

LONGEST_S = 600.0  # a rank that compiles for longer hangs
TELL_S = 1.0  # for an agent to hear of it


def notify_of_compiling(
    rank: int, page: ControlPage, segments: Segments, plan: AddressMap, agent: Agent
) -> None:
    """Note in each rank's control page until when `rank`, this one, compiles: first the latest end, then the real one.

    This process's deadlines then heed its own `page`. Both end with the agent, which is closed before the memory
    goes, and which a forked child does not have.
    """
    mapped = sorted(segments.mapped_ranks)
    others = [other for other in range(plan.num_ranks) if other not in segments.mapped_ranks]
    running = weakref.ref(agent)

    def tell(begins: bool) -> None:
        agent = running()
        if agent is None or not agent.is_running:
            return
        more_ns = int(LONGEST_S * 1e9) if begins else 0
        for peer in mapped:
            word = plan.meta_address(peer) + 8 * (CONTROL_COMPILED_UNTIL + rank)
            ctypes.c_int64.from_address(word).value = time.monotonic_ns() + more_ns
        for peer in others:
            with suppress(UmemError):  # the deadline of a peer that cannot be told passes
                agent.call(
                    peer, Operation.COMPILING, arguments=(more_ns,), max_reply_bytes=0, timeout_s=TELL_S
                )

    def last_compile_s() -> float:
        agent = running()
        return page.last_compile_ns() * 1e-9 if agent is not None and agent.is_running else 0.0

    compile.observe(tell)
    waiting.heed(last_compile_s)
