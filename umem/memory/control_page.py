"""This rank's control page, written once before any kernel runs; kernels/page/control.py has the layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..kernels.page import control as layout
from .address import AddressMap, Kind

SPIN_ROUNDS_OWN_CORE = 2000  # about 50 us of polling: longer than a peer's reply, shorter than a time slice
SPIN_ROUNDS_SHARED_CORE = 20  # the peer may need this very core, so give it up soon


class ControlPage:
    """A view of the control page at `words`, an int64 array of CONTROL_BYTES / 8 words."""

    def __init__(self, words: np.ndarray):
        assert words.dtype == np.int64 and words.nbytes >= layout.CONTROL_BYTES
        self.words = words
        self.departed: Callable[[], Mapping[int, str]] = dict  # ranks that errors made leave, and by which

    def initialise(self, rank: int, plan: AddressMap, has_own_core: bool) -> None:
        """Write everything that is fixed when the world is made; peers are ABSENT and unmapped until `admit`.

        `has_own_core`: there is a core for each rank of this host, so that a wait may poll for long.
        """
        words = self.words
        words[: layout.CONTROL_BYTES // 8] = 0
        words[layout.CONTROL_RANK] = rank
        words[layout.CONTROL_NUM_RANKS] = plan.num_ranks
        words[layout.CONTROL_META_BASE] = plan.meta_address(0)
        words[layout.CONTROL_META_STRIDE_LOG2] = plan.meta_stride.bit_length() - 1
        words[layout.CONTROL_LINEAR_BASE] = plan.linear_base
        words[layout.CONTROL_STRIDE_LOG2] = plan.stride.bit_length() - 1
        words[layout.CONTROL_LINEAR_END] = plan.linear_base + 2 * plan.num_ranks * plan.stride
        words[layout.CONTROL_STRIPED_BASE] = plan.striped_base
        words[layout.CONTROL_STRIPED_END] = plan.striped_end
        words[layout.CONTROL_BLOCK_LOG2] = plan.block_bytes.bit_length() - 1
        words[layout.CONTROL_NUM_MEMBERS] = len(plan.members)
        words[layout.CONTROL_STRIPED_OFFSET] = plan.linear_bytes
        words[layout.CONTROL_SPIN_ROUNDS] = SPIN_ROUNDS_OWN_CORE if has_own_core else SPIN_ROUNDS_SHARED_CORE
        for peer in range(plan.num_ranks):
            for kind in Kind:
                words[layout.CONTROL_SEGMENT_BYTES + 2 * peer + kind] = plan.slot_bytes(kind)
        for position, member in enumerate(plan.members):
            words[layout.CONTROL_MEMBERS + position] = member
        words[layout.CONTROL_MAGIC] = layout.CONTROL_MAGIC_VALUE

    def admit(self, reach: Sequence[int]) -> None:
        """Mark every rank as alive, and write down what this rank reaches: a word a rank (reach.py)."""
        self.words[layout.CONTROL_PEER_STATE : layout.CONTROL_PEER_STATE + len(reach)] = layout.ALIVE
        self.words[layout.CONTROL_REACH : layout.CONTROL_REACH + len(reach)] = reach

    def stop(self) -> None:
        """Tell every compiled wait of this rank to return: the space is closing."""
        self.words[layout.CONTROL_STOP] = 1

    @property
    def epoch(self) -> int:
        """Changes whenever a rank's death is confirmed."""
        return int(self.words[layout.CONTROL_EPOCH])

    def last_compile_ns(self) -> int:
        """When (CLOCK_MONOTONIC) the last living rank ended compiling; later than now while one does."""
        num_ranks = int(self.words[layout.CONTROL_NUM_RANKS])
        until = self.words[layout.CONTROL_COMPILED_UNTIL : layout.CONTROL_COMPILED_UNTIL + num_ranks]
        states = self.words[layout.CONTROL_PEER_STATE : layout.CONTROL_PEER_STATE + num_ranks]
        return int(until[states != layout.DEAD].max(initial=0))

    def dead_ranks(self) -> list[int]:
        """Ranks whose death this rank's agent has confirmed."""
        num_ranks = int(self.words[layout.CONTROL_NUM_RANKS])
        states = self.words[layout.CONTROL_PEER_STATE : layout.CONTROL_PEER_STATE + num_ranks]
        return [int(rank) for rank in np.flatnonzero(states == layout.DEAD)]

    def lost_ranks(self) -> dict[int, str]:
        """Ranks that are dead or that an error made leave, each with the reason as far as it is known."""
        return {**dict.fromkeys(self.dead_ranks(), ""), **self.departed()}
