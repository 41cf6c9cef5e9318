"""A barrier over the ranks' control pages: n-way dissemination, for any number of ranks that map each other.

In step s a rank posts its own flag s and waits for the flags s of the RADIX - 1 ranks that stand 1, 2, ...
times RADIX**s before it; after the last step it has heard, directly or through others, from all. Up to
RADIX ranks exchange flags in a single step; 512 need three. (Hensgen, Finkel, Manber 1988; n-way: Hoefler
et al., "Fast barrier synchronization for InfiniBand", 2006.)

A flag is a signal (signal.py) whose value is the number of the round, and every rank writes to its own
page only. So a barrier that returned AGAIN is resumed by calling it again: what was posted stays posted,
nobody is counted twice. A rank that is one round ahead is harmless: flags are waited for as "at least".

A group is a set of ranks with flags of its own, in lines GROUP_LINES * group .. of the CONTROL_BARRIER region of
their control pages; group 0 is the world. Its members pass the same table, in the same order.
"""

from __future__ import annotations

from ..build.compile import cpu_kernel, device_function
from ..build.variants import variant
from ..intrinsics.scalar import load_i64, load_relaxed_i64, store_i64
from ..intrinsics.system import now_ns
from ..status import OK
from .control import (
    CONTROL_BARRIER,
    CONTROL_META_BASE,
    CONTROL_META_STRIDE_LOG2,
    CONTROL_NUM_RANKS,
    CONTROL_RANK,
)
from .signal import CUDA, poll_eagerly, post, wait_patiently

RADIX = 16  # flags that a rank looks at in one step: their cache misses overlap
FLAG_LINE_WORDS = 32
GROUP_LINES = 4  # flags of three steps, for up to RADIX**3 = 4096 ranks, and the round
ROUND_LINE = 3
NUM_GROUPS = 16  # 64 lines in the region
WORLD_GROUP = 0


@device_function
def flag_offset(group, line):
    """Byte offset in a control page of one of a group's lines."""
    return 8 * (CONTROL_BARRIER + (GROUP_LINES * group + line) * FLAG_LINE_WORDS)


@device_function
def page_of(control, rank):
    """Address of the control page of `rank`."""
    return load_i64(control, CONTROL_META_BASE) + (rank << load_i64(control, CONTROL_META_STRIDE_LOG2))


@device_function
def barrier(control, group, members, num_members, position, epoch, slice_ns):
    """Wait until every member has come to this barrier as often as this rank; acquire and release ordering.

    `members` is the address of `num_members` ranks (int64), or 0 where they are ranks 0, 1, ...;
    `position` is this rank's place among them. One lane, and one thread a rank. Writes this rank's flags
    and, when the round is complete, its round.
    Returns OK; AGAIN after about `slice_ns`: call again with the same arguments; INTERRUPTED, or
    EPOCH_CHANGED where a rank died since `epoch`: call again with the new epoch if it was no member.
    """
    round_line = control + flag_offset(group, ROUND_LINE)
    this_round = load_i64(round_line, 0) + 1
    deadline_ns = 0
    step = 0
    distance = 1
    while distance < num_members:
        flag = flag_offset(group, step)
        if load_relaxed_i64(control + flag, 0) >> 1 < this_round:
            post(control + flag, this_round)
        hop = distance
        while hop < num_members and hop < RADIX * distance:
            peer = position - hop
            if peer < 0:
                peer += num_members
            if members:
                peer = load_i64(members, peer)
            peer_flag = page_of(control, peer) + flag
            if poll_eagerly(control, peer_flag, this_round, 0) == 0:
                if deadline_ns == 0:
                    deadline_ns = now_ns() + slice_ns
                code = wait_patiently(control, peer_flag, this_round, 0, epoch, deadline_ns)
                if code != OK:
                    return code
            hop += distance
        distance *= RADIX
        step += 1
    store_i64(round_line, 0, this_round)
    return OK


@device_function
def world_barrier(control, epoch, slice_ns):
    """`barrier` of all ranks of the world."""
    num_ranks, rank = load_i64(control, CONTROL_NUM_RANKS), load_i64(control, CONTROL_RANK)
    return barrier(control, WORLD_GROUP, 0, num_ranks, rank, epoch, slice_ns)


cuda_barrier = variant(barrier, "cuda_barrier", post=CUDA.post, wait_patiently=CUDA.wait_patiently)

cpu_barrier = cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64)")(barrier)
cpu_world_barrier = cpu_kernel("int64(int64, int64, int64)")(world_barrier)
