"""The agent's service for coherence, where some ranks are not mapped: handlers, and the client of other agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...agent import Agent, layout
from ...agent.asking.client_state import build_client
from ...agent.asking.requests import receive_reply
from ...agent.layout import Operation
from ...agent.private_memory import PrivateMemory
from ...agent.spins import Spins
from .blocks import serve_block
from .flits import serve_flit
from .prober import (
    FLIT_KERNELS,
    PROBE_CREDITS,
    PROBER_CACHE,
    PROBER_CLIENT,
    PROBER_STATE,
    PROBER_TICKETS,
    PROBER_WORDS,
)
from .probes import serve_probe

if TYPE_CHECKING:
    from ...fabric.ucx.fabric import UcxFabric

WORD = 8
__all__ = ["FLIT_KERNELS", "LineService"]
FLIT_HANDLERS = {Operation.FLIT: serve_flit, Operation.PROBE: serve_probe, Operation.BLOCK: serve_block}


class LineService:
    """Serves flits, probes and blocks in the agent of a rank; before the agent's start. Lives as long as it."""

    def __init__(self, agent: Agent, fabric: UcxFabric, header: int, mapped_ranks: frozenset[int]):
        num_ranks = fabric.num_ranks
        prober = build_client(fabric.agent, agent.page, fabric.rank, num_ranks, PROBE_CREDITS, Spins())
        for rank in range(num_ranks):
            if rank not in mapped_ranks:
                prober.endpoints[rank] = agent.endpoint_to(rank)
        num_slots = agent.state[layout.AGENT_NUM_SLOTS]
        memory = PrivateMemory((PROBER_WORDS + num_slots * num_ranks) * WORD + 4096)
        context = memory.words(PROBER_WORDS)
        context[PROBER_CACHE], context[PROBER_STATE] = header, agent.state.address
        context[PROBER_CLIENT] = prober.words.address
        context[PROBER_TICKETS] = memory.take(num_slots * num_ranks * WORD)
        fabric.agent.set_handler(layout.AM_REPLY, receive_reply.address, prober.words.address)
        for operation, handler in FLIT_HANDLERS.items():
            agent.register(operation, handler, context=context.address)
        self._prober, self._context = prober, context
