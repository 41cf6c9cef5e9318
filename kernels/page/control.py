"""Layout of a rank's control page, and the address arithmetic that reads it.

Every rank has one control page at the start of its metadata segment. It carries every value that
depends on the world (bases, strides, members, which ranks are alive), because a Python global in a compiled
kernel would be frozen into the cache. `control` is always the address of the running rank's own page.

All fields are int64 words; constants are word indices. The page is written before any kernel runs,
except the fields under "live", which their one writer (the rank's own agent) changes at run time.
"""

from __future__ import annotations

from ..build.compile import device_function, inlined_function
from ..intrinsics.scalar import load_acquire_i64, load_i64
from ..intrinsics.system import is_gpu

BASE = 0x2000_0000_0000  # of all windows (umem/memory/address.py); clear of ASLR, PIE and sanitizers on x86-64 Linux
CONTROL_BYTES = 1 << 16
MAX_RANKS = 512
CONTROL_MAGIC_VALUE = 0x756D_656D_0001

# --- fixed when the world is made
CONTROL_MAGIC = 0
CONTROL_RANK = 1
CONTROL_NUM_RANKS = 2
CONTROL_META_BASE = 3
CONTROL_META_STRIDE_LOG2 = 4
CONTROL_LINEAR_BASE = 5
CONTROL_STRIDE_LOG2 = 6
CONTROL_LINEAR_END = 7
CONTROL_STRIPED_BASE = 8
CONTROL_STRIPED_END = 9
CONTROL_BLOCK_LOG2 = 10
CONTROL_NUM_MEMBERS = 11
CONTROL_STRIPED_OFFSET = 12  # byte offset inside a device segment where its striped part begins
# polls before a waiter yields its core: large when every rank has a core, else small
CONTROL_SPIN_ROUNDS = 13
# byte offset inside a metadata segment of the coherence header (kernels/coherent/layout.py)
CONTROL_COHERENCE = 14

# --- live
CONTROL_STOP = 16  # 1: the space is closing, compiled waits return INTERRUPTED
CONTROL_EPOCH = 17  # bumped after CONTROL_PEER_STATE changes
CONTROL_HEARTBEAT = 18  # the agent's turns; stands still when the agent hangs
CONTROL_SERVED = (
    32  # what the kernel found that serves words of this rank's GPU (umem/agent/serving/gpu_handlers.py)
)

# --- tables
CONTROL_PEER_STATE = 64  # [MAX_RANKS] ABSENT, ALIVE, DEAD
# [MAX_RANKS] which segments of that rank are loaded and stored from here: bit `kind` by this rank's CPU, bit
# REACH_KINDS + `kind` by its GPU
CONTROL_REACH = CONTROL_PEER_STATE + MAX_RANKS
CONTROL_SEGMENT_BYTES = CONTROL_REACH + MAX_RANKS  # [2 * MAX_RANKS] bytes in the linear window, by slot
# [MAX_RANKS] rank of the n-th member of the striped window
CONTROL_MEMBERS = CONTROL_SEGMENT_BYTES + 2 * MAX_RANKS
CONTROL_BARRIER = CONTROL_MEMBERS + MAX_RANKS  # [32 words a flag line] see barrier.py
# [MAX_RANKS] until when (CLOCK_MONOTONIC here) that rank compiles at the latest, or did last; written by it
CONTROL_COMPILED_UNTIL = CONTROL_BARRIER + 64 * 32
assert (CONTROL_COMPILED_UNTIL + MAX_RANKS) * 8 <= CONTROL_BYTES

ABSENT, ALIVE, DEAD = 0, 1, 2
KIND_DEVICE, KIND_HOST, KIND_META = 0, 1, 2  # segments of a rank
REACH_KINDS = 4
NO_HOME = -1


@inlined_function
def place_of(control, address):
    """(home, kind, offset): the rank whose segment holds `address`, which of its segments, and the byte in it;
    NO_HOME where no segment does."""
    if load_i64(control, CONTROL_LINEAR_BASE) <= address < load_i64(control, CONTROL_LINEAR_END):
        relative = address - load_i64(control, CONTROL_LINEAR_BASE)
        stride_log2 = load_i64(control, CONTROL_STRIDE_LOG2)
        slot = relative >> stride_log2
        offset = relative - (slot << stride_log2)
        if offset < load_i64(control, CONTROL_SEGMENT_BYTES + slot):
            return slot >> 1, slot & 1, offset
    elif load_i64(control, CONTROL_STRIPED_BASE) <= address < load_i64(control, CONTROL_STRIPED_END):
        return place_in_stripes(control, address - load_i64(control, CONTROL_STRIPED_BASE))
    return NO_HOME, 0, 0


@device_function
def place_in_stripes(control, relative):
    """`place_of` a byte of the striped window; its blocks lie in the members' segments in turn."""
    block_log2, num_members = load_i64(control, CONTROL_BLOCK_LOG2), load_i64(control, CONTROL_NUM_MEMBERS)
    block = relative >> block_log2
    row = block // num_members
    offset = (
        load_i64(control, CONTROL_STRIPED_OFFSET) + (row << block_log2) + relative - (block << block_log2)
    )
    return load_i64(control, CONTROL_MEMBERS + block - row * num_members), 0, offset


@device_function
def home_rank(control, address):
    """Rank whose segment holds `address`, or NO_HOME where no segment does."""
    home, _, _ = place_of(control, address)
    return home


@inlined_function
def reaches(control, rank, kind):
    """1 where this processor, a CPU or a GPU, loads and stores the `kind` segment of `rank`, else 0."""
    return load_i64(control, CONTROL_REACH + rank) >> (kind + REACH_KINDS * is_gpu()) & 1


@inlined_function
def shares_meta(control, rank):
    """1 where this processor reaches the metadata of `rank`: its directory and the heap's records. So it does all that
    cached memory of that rank takes, for such memory lies where metadata does."""
    return reaches(control, rank, KIND_META)


@device_function
def reaches_address(control, address):
    """1 where this processor loads and stores what lies at `address`, else 0; 0 outside all segments."""
    home, kind, _ = place_of(control, address)
    return 0 if home == NO_HOME else reaches(control, home, kind)


@device_function
def contiguous_bytes(control, address):
    """Bytes from `address` to the end of what one home holds in one piece; 0 outside all segments."""
    if load_i64(control, CONTROL_LINEAR_BASE) <= address < load_i64(control, CONTROL_LINEAR_END):
        relative = address - load_i64(control, CONTROL_LINEAR_BASE)
        stride_log2 = load_i64(control, CONTROL_STRIDE_LOG2)
        slot = relative >> stride_log2
        left = load_i64(control, CONTROL_SEGMENT_BYTES + slot) - (relative - (slot << stride_log2))
        return left if left > 0 else 0
    if load_i64(control, CONTROL_STRIPED_BASE) <= address < load_i64(control, CONTROL_STRIPED_END):
        block_bytes = 1 << load_i64(control, CONTROL_BLOCK_LOG2)
        return block_bytes - ((address - load_i64(control, CONTROL_STRIPED_BASE)) & (block_bytes - 1))
    return 0


@device_function
def is_mapped(control, address, num_bytes):
    """1 where all of [address, address + num_bytes) can be dereferenced by this rank, else 0."""
    while num_bytes > 0:
        if not reaches_address(control, address):
            return 0
        piece = contiguous_bytes(control, address)
        address += piece
        num_bytes -= piece
    return 1


@device_function
def peer_is_dead(control, rank):
    """1 where this rank's agent has confirmed the death of `rank`; then all that it wrote is seen (acquire)."""
    return 1 if load_acquire_i64(control, CONTROL_PEER_STATE + rank) == DEAD else 0
