"""The lock of an arena: its word names the holder, so that it can be taken from the dead and only from them.

Under it also go the dead themselves: `heap_reclaim_dead` takes back what they had, once each.

holder = rank + 1 | incarnation << 16. The incarnation tells one life of a rank from the next.
"""

from __future__ import annotations

from .. import status
from ..build.compile import device_function
from ..intrinsics.scalar import (
    compare_swap_i64,
    load_i64,
    load_relaxed_i64,
    load_relaxed_u32,
    store_i64,
    store_relaxed_u32,
    store_release_i64,
)
from ..intrinsics.system import now_ns, pause, yield_cpu
from ..page.control import CONTROL_NUM_RANKS, CONTROL_SPIN_ROUNDS, CONTROL_STOP, peer_is_dead
from .layout import ARENA_LOCK, ARENA_NUM_BREAKS, ARENA_RECLAIMED
from .recover import rebuild, reclaim

HOLDER_RANK_MASK = (1 << 16) - 1
HOLDER_INCARNATION_SHIFT = 16


@device_function
def acquire_arena(control, arena, holder):
    """Take the lock of `arena` as `holder`. OK, AGAIN after a slice, INTERRUPTED when the space closes.

    From a holder whose death is confirmed on this rank's control page it is taken away, and the arena
    rebuilt. A holder that dies in that work is followed by the next in the same way.
    """
    spin_rounds = load_i64(control, CONTROL_SPIN_ROUNDS)
    rounds = 0
    started_ns = 0
    while True:
        seen = load_relaxed_i64(arena, ARENA_LOCK)
        if seen == 0:
            if compare_swap_i64(arena, ARENA_LOCK, 0, holder) == 0:
                return status.OK
        elif peer_is_dead(control, (seen & HOLDER_RANK_MASK) - 1):
            if compare_swap_i64(arena, ARENA_LOCK, seen, holder) == seen:
                rebuild(arena)
                store_i64(arena, ARENA_NUM_BREAKS, load_i64(arena, ARENA_NUM_BREAKS) + 1)
                return status.OK
        if rounds < spin_rounds:
            rounds += 1
            pause()
            continue
        if load_relaxed_i64(control, CONTROL_STOP) != 0:
            return status.INTERRUPTED
        if started_ns == 0:
            started_ns = now_ns()
        elif now_ns() - started_ns > status.SLICE_NS:
            return status.AGAIN
        yield_cpu()


@device_function
def release_arena(arena):
    """Let go of the lock of `arena`."""
    store_release_i64(arena, ARENA_LOCK, 0)


@device_function
def heap_reclaim_dead(control, arena, holder, freed):
    """Take back what ranks had in `arena` whose death is confirmed on this rank's control page, each once.

    Adds to the three words at `freed` as `reclaim` does. OK, AGAIN or INTERRUPTED. Any rank may call it;
    one that dies in it is followed by the next.
    """
    num_ranks = load_i64(control, CONTROL_NUM_RANKS)
    done = arena + ARENA_RECLAIMED * 8
    rank = 0
    while rank < num_ranks:
        bit = 1 << (rank & 31)
        # Looked at without the lock too, so never by plain accesses.
        if peer_is_dead(control, rank) and load_relaxed_u32(done, rank >> 5) & bit == 0:
            code = acquire_arena(control, arena, holder)
            if code != status.OK:
                return code
            before = load_relaxed_u32(done, rank >> 5)
            if before & bit == 0:
                reclaim(arena, rank, freed)
                store_relaxed_u32(done, rank >> 5, before | bit)
            release_arena(arena)
        rank += 1
    return status.OK
