"""The agent's memory, made and filled: its words, slots, rings, tables and the descriptors that it watches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ...errors import RankLost
from ...kernels.build.compile import c_callback
from ...kernels.page.control import CONTROL_EPOCH, CONTROL_PEER_STATE, DEAD
from ...memory.control_page import ControlPage
from .. import layout
from ..private_memory import PrivateMemory, Words
from ..spins import Spins
from .liveness import note_lost_connection
from .queue import ring_words
from .service import receive_request

if TYPE_CHECKING:
    from ...fabric.ucx.fabric import UcxFabric
    from .gpu_memory import GpuMemory

WORD = layout.WORD
SLACK_BYTES = 4096  # for the ends of lines, and the C structures


class Ranks(Protocol):
    """A world, as far as the agent needs one."""

    rank: int
    num_ranks: int

    @property
    def usable_cores(self) -> Sequence[int]:
        """Cores that this rank may use, wherever its own thread is pinned."""
        ...

    @property
    def core(self) -> int | None:
        """The core that this rank's own thread is pinned to, if it is."""
        ...

    @property
    def hosts(self) -> Sequence[str]:
        """The host of each rank."""
        ...

    def shares_pids(self, rank: int) -> bool:
        """Whether `rank` is a process of this machine, whatever its host is called."""
        ...

    def pidfd(self, rank: int) -> int:
        """A descriptor that becomes readable when `rank`, which runs on this machine, dies."""
        ...


def build_state(
    world: Ranks,
    page: ControlPage,
    fabric: UcxFabric | None,
    gpu_memory: GpuMemory | None,
    credits: int,
    spins: Spins,
    local_fd: int,
) -> Words:
    """The state of the agent of `world.rank`, ready for the loop; without a fabric it has no slots.

    Ranks that are dead already are published on the page. `credits` requests of each rank and its agent together
    have a slot.
    """
    num_ranks = world.num_ranks
    num_slots = 0 if fabric is None else num_ranks * credits
    ring = ring_words(num_slots)
    fds, fd_ranks = _descriptors(world, page, fabric, local_fd)
    table_words = layout.AGENT_WORDS + 2 * layout.NUM_OPERATIONS + num_ranks * layout.WATCH_WORDS
    slot_words = num_slots * layout.SLOT_WORDS
    num_words = table_words + slot_words + 4 * ring + 2 * len(fds)
    memory = PrivateMemory(num_words * WORD + num_slots * layout.ROOM_BYTES + SLACK_BYTES)
    state = memory.words(layout.AGENT_WORDS)
    state[layout.AGENT_CONTROL] = page.words.ctypes.data
    state[layout.AGENT_RANK] = world.rank
    state[layout.AGENT_NUM_RANKS] = num_ranks
    state[layout.AGENT_NUM_SLOTS] = num_slots
    state[layout.AGENT_SPIN_NS] = spins.close_ns
    state[layout.AGENT_SLOTS] = memory.take(slot_words * WORD)
    state[layout.AGENT_HANDLERS] = memory.take(2 * layout.NUM_OPERATIONS * WORD)
    state[layout.AGENT_LOCAL_FD] = local_fd
    if world.core is not None:
        sets = cpu_set(world.usable_cores) + cpu_set([world.core])
        state[layout.AGENT_CORES] = memory.bytes_of(sets)
    state[layout.AGENT_POLL_FDS] = memory.poll_fds(fds)
    state[layout.AGENT_NUM_POLL_FDS] = len(fds)
    state[layout.AGENT_POLL_LOCAL] = fds.index(local_fd)
    state[layout.AGENT_POLL_RANKS] = memory.words_of(fd_ranks).address
    for first in (layout.AGENT_FREE, layout.AGENT_READY, layout.AGENT_PENDING, layout.AGENT_SENDING):
        state[first + layout.RING_ITEMS] = memory.take(ring * WORD)
        state[first + layout.RING_MASK] = ring - 1
    free = Words(state[layout.AGENT_FREE + layout.RING_ITEMS], ring, memory)
    for slot in range(num_slots):
        free[slot] = slot
    state[layout.AGENT_FREE + layout.RING_TAIL] = num_slots
    watches = memory.words(num_ranks * layout.WATCH_WORDS)
    state[layout.AGENT_WATCHES] = watches.address
    if fabric is not None:
        state[layout.AGENT_SEND_PARAM] = memory.send_param(asks=False)
        state[layout.AGENT_ROOMS] = memory.take(num_slots * layout.ROOM_BYTES)
        regions = [(region.address, region.num_bytes) for region in fabric.context.regions]
        gpu = 0 if gpu_memory is None else gpu_memory.address
        own = memory.words_of([state[layout.AGENT_CONTROL], gpu, len(regions), *itertools.chain(*regions)])
        state[layout.AGENT_OWN] = own.address
        state[layout.AGENT_CHANNELS] = fabric.agent.address
        receive = receive_request.address
        fabric.agent.set_handler(layout.AM_REQUEST, receive, state.address, keeps_data=True)
        _watch_connections(world, fabric, state, watches)
    return state


def cpu_set(cores: Sequence[int]) -> bytes:
    """A cpu_set_t with the bits of `cores`."""
    return sum(1 << core for core in set(cores)).to_bytes(layout.CPU_SET_BYTES, "little")


def _descriptors(
    world: Ranks, page: ControlPage, fabric: UcxFabric | None, local_fd: int
) -> tuple[list[int], list[int]]:
    """What the loop polls, in the layout's order, and the rank whose death each one tells."""
    fds = [local_fd] if fabric is None else [*fabric.agent.event_fds, local_fd]
    fd_ranks = [-1] * len(fds)
    for rank in range(world.num_ranks):
        if rank != world.rank and world.hosts[rank] == world.hosts[world.rank]:
            try:
                fds.append(world.pidfd(rank))
            except RankLost:
                page.words[CONTROL_PEER_STATE + rank] = DEAD
                page.words[CONTROL_EPOCH] += 1
            else:
                fd_ranks.append(rank)
    return fds, fd_ranks


def _watch_connections(world: Ranks, fabric: UcxFabric, state: Words, watches: Words) -> None:
    """A connection of the agent's own to every agent that no pidfd tells of; the loop greets them."""
    fabric.agent.set_handler(layout.AM_HELLO, drop_greeting.address, state.address)
    for rank in range(world.num_ranks):
        if world.hosts[rank] == world.hosts[world.rank]:
            continue
        first = rank * layout.WATCH_WORDS
        watches[first + layout.WATCH_STATE] = state.address
        watches[first + layout.WATCH_HELLO] = world.rank
        watch, peer = watches.address + first * WORD, f"the agent of rank {rank}"
        address = fabric.agent_addresses[rank]
        endpoint = fabric.agent.of(rank).connect(address, peer, note_lost_connection.address, watch)
        watches[first + layout.WATCH_ENDPOINT] = endpoint.handle


@c_callback("int8(int64, int64, int64, int64, int64, int64)")
def drop_greeting(state, header, header_bytes, data, data_bytes, parameters):
    """Drop a greeting, which has no content: its purpose is the connection that it makes."""
    return 0
