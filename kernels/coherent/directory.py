"""The directory: for each line of cached memory one word at its home, which says which ranks hold copies.

The lowest bit of the word is the line's lock. All that a transaction does for a line happens under it, by
whichever rank, but that a new owner's own tag may follow; so a transition is one step to all others. A lock whose
holder is dead is taken over: the word says what held before the dead one's transaction, or what was to hold behind it.

Sharers stand as a bit a rank up to 48 ranks; in larger worlds as up to five ranks by number, and beyond that
as a bit a group of ranks: then more ranks are asked to drop a copy than have one.
"""

from __future__ import annotations

from .. import status
from ..build.compile import device_function, inlined_function
from ..heap.layout import BLOCK_LOG2
from ..intrinsics.scalar import (
    compare_swap_i64,
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_release_i64,
)
from ..intrinsics.system import count_trailing_zeros_u64, now_ns, pause, yield_cpu
from ..page.control import (
    CONTROL_COHERENCE,
    CONTROL_META_BASE,
    CONTROL_META_STRIDE_LOG2,
    CONTROL_SPIN_ROUNDS,
    CONTROL_STOP,
    peer_is_dead,
    place_of,
)
from . import layout as words
from .layout import (
    BIT_A_GROUP,
    BIT_A_RANK,
    DIRECTORY_LOCK,
    DIRECTORY_STATE_MASK,
    DIRECTORY_STATE_SHIFT,
    DIRECTORY_WORDS_A_BLOCK,
    FORMAT_MASK,
    FORMAT_SHIFT,
    HOLDER_SHIFT,
    HOLDERS_BITS,
    HOLDERS_SHIFT,
    LINE_OWNED,
    LINE_SHARED,
    MAX_RANKS_WITH_BITS,
    NUM_POINTERS,
    POINTER_BITS,
    POINTERS,
    RANK_MASK,
)

NO_RANK = -1
HOLDERS_MASK = (1 << HOLDERS_BITS) - 1
COUNT_BITS = 3  # of the ranks in the format POINTERS
LINES_APART_LOG2 = 3  # neighbours' words lie on different lines of the processor


@inlined_function
def cache_of(control, rank):
    """Address of the coherence header of `rank`; its metadata must be mapped."""
    meta = load_i64(control, CONTROL_META_BASE) + (rank << load_i64(control, CONTROL_META_STRIDE_LOG2))
    return meta + load_i64(control, CONTROL_COHERENCE)


@inlined_function
def block_word(home_cache, kind, offset):
    """Address of the word that says how the block at a place (`place_of`) in the segments of a home is cached;
    `home_cache` is its header."""
    return load_i64(home_cache, words.CACHE_BLOCKS + kind) + (offset >> BLOCK_LOG2) * 8


@inlined_function
def block_value(control, home, address):
    """How the mapped `home` has the block of `address` cached, by its block word; 0 where it is not.

    So too where only an agent or a heap stands on the control page, and nothing of coherence.
    """
    if load_i64(control, CONTROL_COHERENCE) == 0:
        return 0
    _, kind, offset = place_of(control, address)
    return load_acquire_i64(block_word(cache_of(control, home), kind, offset), 0)


@inlined_function
def directory_word_at(home_cache, kind, offset, line_log2):
    """Address of the directory word of the line at a place in the segments of a home."""
    block = offset >> BLOCK_LOG2
    line = (offset - (block << BLOCK_LOG2)) >> line_log2
    lines_log2 = BLOCK_LOG2 - line_log2 - LINES_APART_LOG2
    apart = line & ((1 << LINES_APART_LOG2) - 1)
    index = block * DIRECTORY_WORDS_A_BLOCK + (apart << lines_log2) + (line >> LINES_APART_LOG2)
    return load_i64(home_cache, words.CACHE_DIRECTORIES + kind) + index * 8


@inlined_function
def directory_word(control, home_cache, address, line_log2):
    """Address of the directory word of the line of `address`."""
    _, kind, offset = place_of(control, address)
    return directory_word_at(home_cache, kind, offset, line_log2)


# --- waiting and the lock


@device_function
def wait_turn(control, waited):
    """One turn of a wait: (code, what to hand to the next turn). `waited` is 0 at first.

    OK: look again. AGAIN after a slice, INTERRUPTED when the space closes.
    """
    spin_rounds = load_i64(control, CONTROL_SPIN_ROUNDS)
    if waited < spin_rounds:
        pause()
        return status.OK, waited + 1
    if load_relaxed_i64(control, CONTROL_STOP) != 0:
        return status.INTERRUPTED, waited
    now = now_ns()
    if waited <= spin_rounds:
        return status.OK, now  # from here on `waited` is when the spinning ended
    if now - waited > status.SLICE_NS:
        return status.AGAIN, waited
    yield_cpu()
    return status.OK, waited


@inlined_function
def lock_line(control, word, rank):
    """Lock the line of the directory word at `word` for `rank`: (code, the word's value without a lock).

    OK, AGAIN, INTERRUPTED. A dead rank's lock is taken over: what its transaction had begun is found out by
    the next one, from the tags.
    """
    waited = 0
    while True:
        seen = load_relaxed_i64(word, 0)
        free = unlocked(seen)
        if seen == free:
            if compare_swap_i64(word, 0, seen, locked(seen, rank)) == seen:
                return status.OK, free
        elif peer_is_dead(control, (seen >> HOLDER_SHIFT) & RANK_MASK):
            if compare_swap_i64(word, 0, seen, locked(free, rank)) == seen:
                return status.OK, free
        else:
            code, waited = wait_turn(control, waited)
            if code != status.OK:
                return code, free


@inlined_function
def unlock_line(word, value):
    """Publish `value`, a directory word without lock."""
    store_release_i64(word, 0, value)


@inlined_function
def locked(value, rank):
    """`value` with the lock of `rank`."""
    return value | DIRECTORY_LOCK | rank << HOLDER_SHIFT


@inlined_function
def unlocked(value):
    """`value` without lock."""
    return value & ~(DIRECTORY_LOCK | RANK_MASK << HOLDER_SHIFT)


# --- what a word says


@inlined_function
def line_state(value):
    """LINE_UNCACHED, LINE_SHARED, LINE_OWNED or LINE_POISONED."""
    return (value >> DIRECTORY_STATE_SHIFT) & DIRECTORY_STATE_MASK


@inlined_function
def owner_of(value):
    """The owner of an LINE_OWNED line."""
    return (value >> HOLDERS_SHIFT) & RANK_MASK


@inlined_function
def owned_by(rank):
    """The word of a line that `rank` owns."""
    return LINE_OWNED << DIRECTORY_STATE_SHIFT | rank << HOLDERS_SHIFT


@inlined_function
def shared_by_nobody(num_ranks):
    """The word of a line that is shared and has no sharer yet."""
    form = BIT_A_RANK if num_ranks <= MAX_RANKS_WITH_BITS else POINTERS
    return LINE_SHARED << DIRECTORY_STATE_SHIFT | form << FORMAT_SHIFT


@device_function
def group_size(num_ranks):
    """Ranks that one bit stands for in the format BIT_A_GROUP."""
    return (num_ranks + HOLDERS_BITS - 1) // HOLDERS_BITS


@device_function
def may_share(value, rank, num_ranks):
    """1 where `rank` may have a copy of a line that is shared."""
    form = (value >> FORMAT_SHIFT) & FORMAT_MASK
    holders = (value >> HOLDERS_SHIFT) & HOLDERS_MASK
    if form == BIT_A_RANK:
        return (holders >> rank) & 1
    if form == BIT_A_GROUP:
        return (holders >> (rank // group_size(num_ranks))) & 1
    place = 0
    while place < holders & ((1 << COUNT_BITS) - 1):
        if (holders >> (COUNT_BITS + place * POINTER_BITS)) & RANK_MASK == rank:
            return 1
        place += 1
    return 0


@inlined_function
def is_named(value, rank, num_ranks):
    """1 where the word says that `rank` itself shares the line: a group's bit does not."""
    form = (value >> FORMAT_SHIFT) & FORMAT_MASK
    if form == BIT_A_RANK:
        return (value >> (HOLDERS_SHIFT + rank)) & 1
    return may_share(value, rank, num_ranks) if form == POINTERS else 0


@inlined_function
def with_sharer(value, rank, num_ranks):
    """The word of a shared line with one more sharer."""
    if (value >> FORMAT_SHIFT) & FORMAT_MASK == BIT_A_RANK:
        return value | 1 << (HOLDERS_SHIFT + rank)
    return with_sharer_of_many(value, rank, num_ranks)


@device_function
def with_sharer_of_many(value, rank, num_ranks):
    """`with_sharer` where ranks stand by number or in groups."""
    if may_share(value, rank, num_ranks):
        return value
    holders = (value >> HOLDERS_SHIFT) & HOLDERS_MASK
    size = group_size(num_ranks)
    if (value >> FORMAT_SHIFT) & FORMAT_MASK == POINTERS:
        count = holders & ((1 << COUNT_BITS) - 1)
        if count < NUM_POINTERS:
            entry = (rank << (COUNT_BITS + count * POINTER_BITS)) + 1
            return value + (entry << HOLDERS_SHIFT)
        groups = 0
        place = 0
        while place < count:
            other = (holders >> (COUNT_BITS + place * POINTER_BITS)) & RANK_MASK
            groups |= 1 << (other // size)
            place += 1
        value = LINE_SHARED << DIRECTORY_STATE_SHIFT | BIT_A_GROUP << FORMAT_SHIFT | groups << HOLDERS_SHIFT
    return value | 1 << (HOLDERS_SHIFT + rank // size)


@device_function
def next_sharer(value, rank, num_ranks):
    """The first from `rank` on that may share the line; NO_RANK where none does."""
    if (value >> FORMAT_SHIFT) & FORMAT_MASK == BIT_A_RANK:
        if rank >= HOLDERS_BITS:
            return NO_RANK
        rest = ((value >> HOLDERS_SHIFT) & HOLDERS_MASK) >> rank
        return rank + count_trailing_zeros_u64(rest) if rest != 0 else NO_RANK
    while rank < num_ranks:
        if may_share(value, rank, num_ranks):
            return rank
        rank += 1
    return NO_RANK
