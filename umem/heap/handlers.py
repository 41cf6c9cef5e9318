"""The agent's handlers that operate on the heap for ranks that cannot map its metadata.

Compiled handlers, `handler(request, reply, context) -> status`. The context is a table of words: this
rank's control page, what it writes into locks, and for each kind of arena the arena and a magazine. The
agent is not the magazine's thread, so every operation goes through the core.
"""

from __future__ import annotations

from enum import IntEnum

from ..agent.layout import (
    REPLY_CAPACITY,
    REPLY_PAYLOAD,
    REPLY_PAYLOAD_BYTES,
    REPLY_VALUE,
    REQUEST_SOURCE,
    Operation,
)
from ..agent.serving.handlers import HANDLER, argument
from ..kernels import c_callback, device_function, status
from ..kernels.heap.alloc import heap_alloc_for, heap_free_for, heap_give, heap_retain
from ..kernels.heap.entries import heap_find
from ..kernels.heap.usage import LIST_WORDS, OWNER_WORDS, USAGE_OWNERS, heap_list, heap_usage
from ..kernels.intrinsics.scalar import load_i64, store_i64
from ..kernels.page.control import CONTROL_NUM_RANKS, peer_is_dead
from .layout import ArenaKind

CONTEXT_CONTROL = 0  # words of the context
CONTEXT_HOLDER = 1
CONTEXT_ARENAS = 2  # by kind: the arena, 0 where this rank has none; then magazines, by kind
CONTEXT_MAGAZINES = CONTEXT_ARENAS + len(ArenaKind)
CONTEXT_WORDS = CONTEXT_MAGAZINES + len(ArenaKind)
NUM_KINDS = len(ArenaKind)


class HeapOperation(IntEnum):
    """The heap's requests; the first argument is the kind of arena."""

    ALLOC = Operation.ALLOC  # num_bytes, align; value: the address
    FREE = Operation.FREE  # address
    USAGE = Operation.USAGE  # payload of the reply: the words of kernels.heap_usage
    RETAIN = 19  # address, rank, generation
    FIND = 20  # address; payload of the reply: one row
    GIVE = 21  # address, rank
    LIST = 22  # slot number, most rows; value: where to go on; payload of the reply: that many rows


@device_function
def requested_arena(request, context):
    """The arena that a request is about; 0 where this rank has no such."""
    kind = argument(request, 0)
    if kind < 0 or kind >= NUM_KINDS:
        return 0
    return load_i64(context, CONTEXT_ARENAS + kind)


@device_function
def serve_status(code):
    """A status as a handler returns it: a lock that was busy for a slice means `call me again`."""
    return status.PENDING if code == status.AGAIN else code


@c_callback(HANDLER)
def alloc(request, reply, context):
    """Allocate in the name of the rank that asks."""
    arena = requested_arena(request, context)
    control = load_i64(context, CONTEXT_CONTROL)
    source = load_i64(request, REQUEST_SOURCE)
    if arena == 0:
        return status.NOT_FOUND
    if peer_is_dead(control, source):
        return status.RANK_LOST  # what it had is being taken back; nobody would free this
    magazine = load_i64(context, CONTEXT_MAGAZINES + argument(request, 0))
    address = heap_alloc_for(control, arena, magazine, source, argument(request, 1), argument(request, 2))
    if address <= status.AGAIN:
        return serve_status(address)
    store_i64(reply, REPLY_VALUE, address)
    return status.OK


@c_callback(HANDLER)
def free(request, reply, context):
    """Drop the reference of the rank that asks."""
    arena = requested_arena(request, context)
    if arena == 0:
        return status.NOT_FOUND
    magazine = load_i64(context, CONTEXT_MAGAZINES + argument(request, 0))
    source = load_i64(request, REQUEST_SOURCE)
    return serve_status(
        heap_free_for(load_i64(context, CONTEXT_CONTROL), arena, magazine, source, argument(request, 1))
    )


@c_callback(HANDLER)
def retain(request, reply, context):
    """Give a rank a reference."""
    arena = requested_arena(request, context)
    if arena == 0:
        return status.NOT_FOUND
    control, holder = load_i64(context, CONTEXT_CONTROL), load_i64(context, CONTEXT_HOLDER)
    rank, generation = argument(request, 2), argument(request, 3)
    return serve_status(heap_retain(control, arena, holder, argument(request, 1), rank, generation))


@c_callback(HANDLER)
def give(request, reply, context):
    """Make another rank the owner of an allocation of the requester."""
    arena = requested_arena(request, context)
    if arena == 0:
        return status.NOT_FOUND
    control, holder = load_i64(context, CONTEXT_CONTROL), load_i64(context, CONTEXT_HOLDER)
    source = load_i64(request, REQUEST_SOURCE)
    return serve_status(heap_give(control, arena, holder, argument(request, 1), source, argument(request, 2)))


@c_callback(HANDLER)
def find(request, reply, context):
    """The allocation that covers an address."""
    arena = requested_arena(request, context)
    if arena == 0:
        return status.NOT_FOUND
    if load_i64(reply, REPLY_CAPACITY) < LIST_WORDS * 8:
        return status.BAD_REQUEST
    store_i64(reply, REPLY_PAYLOAD_BYTES, LIST_WORDS * 8)
    return heap_find(arena, argument(request, 1), load_i64(reply, REPLY_PAYLOAD))


@c_callback(HANDLER)
def usage(request, reply, context):
    """Count the contents of an arena, by owner."""
    arena = requested_arena(request, context)
    if arena == 0:
        return status.NOT_FOUND
    num_ranks = load_i64(load_i64(context, CONTEXT_CONTROL), CONTROL_NUM_RANKS)
    num_words = USAGE_OWNERS + (num_ranks + 1) * OWNER_WORDS
    if load_i64(reply, REPLY_CAPACITY) < num_words * 8:
        return status.BAD_REQUEST
    room = load_i64(reply, REPLY_PAYLOAD)
    word = 0
    while word < num_words:
        store_i64(room, word, 0)
        word += 1
    heap_usage(arena, num_ranks, room)
    store_i64(reply, REPLY_PAYLOAD_BYTES, num_words * 8)
    return status.OK


@c_callback(HANDLER)
def list_live(request, reply, context):
    """Rows of live allocations from a slot on; unused rows are zero."""
    arena = requested_arena(request, context)
    if arena == 0:
        return status.NOT_FOUND
    room, capacity = load_i64(reply, REPLY_PAYLOAD), argument(request, 2)
    if capacity <= 0 or capacity * LIST_WORDS * 8 > load_i64(reply, REPLY_CAPACITY):
        return status.BAD_REQUEST
    word = 0
    while word < capacity * LIST_WORDS:
        store_i64(room, word, 0)
        word += 1
    store_i64(reply, REPLY_VALUE, heap_list(arena, argument(request, 1), room, capacity))
    store_i64(reply, REPLY_PAYLOAD_BYTES, capacity * LIST_WORDS * 8)
    return status.OK


HEAP_HANDLERS = {
    HeapOperation.ALLOC: alloc,
    HeapOperation.FREE: free,
    HeapOperation.USAGE: usage,
    HeapOperation.RETAIN: retain,
    HeapOperation.GIVE: give,
    HeapOperation.FIND: find,
    HeapOperation.LIST: list_live,
}
