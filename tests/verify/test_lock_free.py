"""Lock-free algorithms, model-checked in weak memory: a stack whose top is counted, and the heap's magazines, in
which two ranks free one slot, or one frees what another takes back from the dead.
"""

from __future__ import annotations

import pytest

from umem.kernels.build.variants import variant
from umem.kernels.heap import alloc, recover
from umem.kernels.heap import layout as layout
from umem.kernels.heap.classes import reciprocal
from umem.kernels.heap.record import owner_bits
from umem.kernels.intrinsics.scalar import (
    compare_swap_i64,
    load_acquire_i64,
    load_relaxed_i64,
    store_i64,
    store_relaxed_i64,
    store_release_i64,
)
from umem.verify import Result, explore

# --- a stack: what is on top, and how often that has changed

TOP, A, B, C = 64, 128, 192, 256
COUNT_SHIFT = 16
NODE_MASK = (1 << COUNT_SHIFT) - 1


def counted(top, node, count_mask):
    """The word at TOP after `top` with `node` there."""
    return (((top >> COUNT_SHIFT) + 1) & count_mask) << COUNT_SHIFT | node


def push(node, count_mask, swap):
    """Put `node`, whose first word names the next one, on the stack."""
    while True:
        top = load_relaxed_i64(TOP, 0)
        store_relaxed_i64(node, 0, top & NODE_MASK)
        if swap(TOP, 0, top, counted(top, node, count_mask)) == top:
            return


def pop(count_mask, swap):
    """Take the node on top; 0 where there is none."""
    while True:
        top = load_acquire_i64(TOP, 0)
        node = top & NODE_MASK
        if node == 0:
            return 0
        below = load_relaxed_i64(node, 0)
        if swap(TOP, 0, top, counted(top, below, count_mask)) == top:
            return node


def reuse(count_mask, swap):
    """Take two nodes and put the first back: the same node is on top again, over another one."""
    first, second = pop(count_mask, swap), pop(count_mask, swap)
    if first:
        push(first, count_mask, swap)
    return first, second


def give(node, count_mask, swap):
    """Fill a new node, plainly, and push it."""
    store_i64(node + 8, 0, node)
    push(node, count_mask, swap)
    return 0, 0


def no_node_twice(results, memory):
    """Whether each node is on the stack or with one lane."""
    places, node = [], memory[TOP] & NODE_MASK
    while node and places.count(node) < 2:
        places.append(node)
        node = memory[node]
    popped, (_, kept) = results[:2]
    places += [node for node in (popped, kept) if node]
    doubled = {node for node in places if places.count(node) > 1}
    return f"{doubled} in two places" if doubled else None


def stack(count_mask, swap=compare_swap_i64):
    words = {TOP: A, A: B, B: 0, C: 0, C + 8: 0}
    return [(pop, count_mask, swap), (reuse, count_mask, swap)], words, no_node_twice


COUNTED, UNCOUNTED = 15, 0


def test_a_stack_with_a_count_is_right():
    verdict = explore(*stack(COUNTED))
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")


def test_a_stack_with_a_count_is_right_for_three_lanes():
    lanes, words, final = stack(COUNTED)
    verdict = explore([*lanes, (give, C, COUNTED, compare_swap_i64)], words, final)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")


def test_a_stack_without_a_count_is_found():
    verdict = explore(*stack(UNCOUNTED))
    assert verdict.result is Result.BUG and "two places" in verdict.bug


def swap_relaxed(address, index, expected, desired):
    """A compare-and-swap that publishes nothing: a release that was left out, as a store of a lone writer."""
    if load_acquire_i64(address, index) != expected:
        return expected + 1
    store_relaxed_i64(address, index, desired)
    return expected


def take_filled():
    """Pop what `give` has pushed, and read it plainly."""
    node = pop(COUNTED, compare_swap_i64)
    return node and load_plain(node)


def load_plain(node):
    """What `give` has put into a node."""
    return alloc.load_i64(node + 8, 0)


@pytest.mark.parametrize(("swap", "is_right"), [(compare_swap_i64, True), (swap_relaxed, False)])
def test_a_push_publishes_what_is_in_the_node(swap, is_right):
    verdict = explore([(give, C, COUNTED, swap), (take_filled,)], {TOP: 0, C: 0, C + 8: 0})
    if is_right:
        assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")
    else:
        assert verdict.result is Result.BUG and "data race" in verdict.bug


# --- magazines: a heap of one slot of 64 B

HEAP, SPANS, RECORDS, ARENA, FREED, MAGAZINES = 1 << 40, 1 << 20, 1 << 21, 1 << 22, 1 << 23, 1 << 24
STATE, SIZE = RECORDS + 8 * layout.RECORD_STATE, RECORDS + 8 * layout.RECORD_SIZE
OWNER = 1  # rank that has allocated the slot
SLOT_BYTES = 64


def magazine(rank):
    """Address of a rank's magazine."""
    return MAGAZINES + (rank << 16)


def count_word(rank):
    """Address of the number of entries in its row of the smallest class."""
    return magazine(rank) + 8 * layout.MAGAZINE_COUNTS


def heap_words(*ranks):
    """(words, constants) of a heap in which OWNER has allocated the slot, and of the magazines of `ranks`, by lane."""
    span = layout.SPAN_SLAB | reciprocal(0) << layout.ARGUMENT_SHIFT
    words = {STATE: 7 << layout.GENERATION_SHIFT | owner_bits(OWNER) | layout.SLOT_LIVE, SIZE: 1}
    constants = {SPANS: span, ARENA + 8 * layout.ARENA_RECORDS: RECORDS}
    for lane, rank in enumerate(ranks):
        fields = {
            layout.MAGAZINE_THREAD: 1 + lane,  # what `thread_pointer` says there
            layout.MAGAZINE_BASE: HEAP,
            layout.MAGAZINE_NUM_BYTES: layout.SPAN_BYTES,
            layout.MAGAZINE_SPANS: SPANS,
            layout.MAGAZINE_RECORDS: RECORDS,
            layout.MAGAZINE_POOL: layout.SPAN_SLAB,
            layout.MAGAZINE_LIVE: owner_bits(rank) | layout.SLOT_LIVE,
            layout.MAGAZINE_CACHED: owner_bits(rank) | layout.SLOT_CACHED,
            layout.MAGAZINE_LIMITS: 4,
        }
        constants |= {magazine(rank) + 8 * field: value for field, value in fields.items()}
        words |= {count_word(rank): 0, magazine(rank) + 8 * layout.MAGAZINE_ROWS: -1}
    return words, constants


def free(rank, push_slot):
    """1 where the slot went to the rank's magazine."""
    return push_slot(magazine(rank), HEAP)


def free_and_allocate(rank, push_slot):
    """As `free`; who has the slot then allocates it again."""
    freed = push_slot(magazine(rank), HEAP)
    if freed:
        address = alloc.pop_slot(magazine(rank), SLOT_BYTES, SLOT_BYTES)
        assert address == HEAP, address
    return freed


def take_back():
    """What `reclaim` does with the slot, once OWNER is dead."""
    recover.reclaim_slot(ARENA, 0, OWNER, SLOT_BYTES, FREED)


def in_one_place(*ranks):
    """A check of an end: the slot is in the row of the rank that its record names, or in none and not cached."""

    def check(results, memory):
        rows = {rank for rank in ranks if memory[count_word(rank)]}
        state = memory[STATE]
        owners = {
            rank
            for rank in ranks
            if (state >> layout.RECORD_OWNER_SHIFT) & layout.RECORD_OWNER_MASK == rank + 1
        }
        wanted = owners if state & layout.RECORD_STATE_MASK == layout.SLOT_CACHED else set()
        return None if rows == wanted else f"in the rows of {rows}, and its record says {wanted}"

    return check


def swap_in_two_steps(address, index, expected, desired):
    """A compare-and-swap that is none."""
    seen = load_acquire_i64(address, index)
    if seen == expected:
        store_release_i64(address, index, desired)
    return seen


push_in_two_steps = variant(alloc.push_slot, "push_in_two_steps", compare_swap_i64=swap_in_two_steps)


def two_frees(push_slot):
    words, constants = heap_words(OWNER, 2)
    lanes = [(free, OWNER, push_slot), (free, 2, push_slot)]
    return explore(lanes, words, in_one_place(OWNER, 2), constants=constants)


def test_of_two_ranks_that_free_one_slot_one_has_it():
    verdict = two_frees(alloc.push_slot)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")
    assert {sum(results) for results, _ in verdict.outcomes} == {1}
    assert two_frees(push_in_two_steps).result is Result.BUG, "and where the swap is none, both have it"


def test_three_ranks_that_free_and_allocate_again_keep_one_slot():
    words, constants = heap_words(OWNER, 2, 3)
    lanes = [
        (free_and_allocate, OWNER, alloc.push_slot),
        (free, 2, alloc.push_slot),
        (free_and_allocate, 3, alloc.push_slot),
    ]
    verdict = explore(lanes, words, in_one_place(OWNER, 2, 3), constants=constants)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")


def reclaim_beside_free(push_slot):
    words, constants = heap_words(2)
    words |= {FREED + 8 * word: 0 for word in range(3)}
    lanes = [(free, 2, push_slot), (take_back,)]
    return explore(lanes, words, freed_once, constants=constants)


def freed_once(results, memory):
    """A check of an end: either the one that frees has the slot, or it was taken back, and counted."""
    count = results[0] + memory[FREED]
    return in_one_place(2)(results, memory) or (None if count == 1 else f"freed {count} times")


def test_what_is_taken_back_from_the_dead_is_not_freed_too():
    verdict = reclaim_beside_free(alloc.push_slot)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")
    assert {(results[0], memory[FREED]) for results, memory in verdict.outcomes} == {(1, 0), (0, 1)}
    assert reclaim_beside_free(push_in_two_steps).result is Result.BUG
