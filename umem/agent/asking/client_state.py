"""The memory of a client, made and filled: of a rank's main thread, or of its agent's own requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...memory.control_page import ControlPage
from .. import layout
from ..private_memory import PrivateMemory, Words
from ..spins import Spins

if TYPE_CHECKING:
    from ...fabric.ucx.channels import Channels


@dataclass(frozen=True)
class ClientState:
    """Words of a client (layout.CLIENT_*), and the tables in it that Python looks at."""

    words: Words
    slots: Words
    ports: Words
    endpoints: Words


def build_client(
    channels: Channels, page: ControlPage, rank: int, num_ranks: int, credits: int, spins: Spins
) -> ClientState:
    """A client whose requests leave through `channels`; no endpoint is known yet."""
    num_slots = num_ranks * credits
    assert num_slots <= 1 << layout.SEQUENCE_SLOT_BITS
    slot_words = num_slots * layout.CLIENT_SLOT_WORDS
    port_words = num_ranks * layout.NUM_COUNTED * layout.COUNTED_WORDS
    memory = PrivateMemory(8 * (layout.CLIENT_WORDS + slot_words + port_words + 2 * num_ranks) + 4096)
    words = memory.words(layout.CLIENT_WORDS)
    endpoints, free = memory.words(num_ranks), memory.words(num_ranks)
    for peer in range(num_ranks):
        free[peer] = (1 << credits) - 1
    words[layout.CLIENT_CHANNELS] = channels.address
    words[layout.CLIENT_CONTROL] = page.words.ctypes.data
    words[layout.CLIENT_RANK] = rank
    words[layout.CLIENT_CREDITS] = credits
    words[layout.CLIENT_SPIN_NS] = spins.close_ns
    words[layout.CLIENT_LONE_SPIN_NS] = spins.lone_ns
    slots = memory.words(slot_words)
    words[layout.CLIENT_SLOTS] = slots.address
    ports = memory.words(port_words)
    words[layout.CLIENT_TRAFFIC] = ports.address
    words[layout.CLIENT_FREE] = free.address
    words[layout.CLIENT_ENDPOINTS] = endpoints.address
    words[layout.CLIENT_SEND_PARAM] = memory.send_param(asks=True)
    words[layout.CLIENT_NUM_SLOTS] = num_slots
    return ClientState(words, slots, ports, endpoints)
