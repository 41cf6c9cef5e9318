"""The home agent's handlers for blocks of cached memory, for ranks that do not map them."""

from __future__ import annotations

from ...agent.layout import REPLY_VALUE
from ...agent.serving.handlers import HANDLER, argument
from ...kernels import c_callback, status
from ...kernels.coherent import layout as words
from ...kernels.coherent.blocks import lift_poison, mark
from ...kernels.coherent.directory import block_value, directory_word
from ...kernels.heap.layout import BLOCK_BYTES
from ...kernels.intrinsics.scalar import load_acquire_i64, load_i64, store_i64
from ...kernels.page.control import CONTROL_RANK, home_rank
from .prober import FLIT_KERNELS

LOOK, MARK, NEXT_HELD, LIFT = 0, 1, 2, 3  # first argument; the second is an address


@c_callback(HANDLER, group=FLIT_KERNELS)
def serve_block(request, reply, context):
    """LOOK: the block word. MARK: set it to the third argument. NEXT_HELD: the first line from the third argument
    on whose directory word is not that of an uncached line. LIFT: lift the poison of a line.

    The context's first word is the address of this rank's coherence header.
    """
    cache = load_i64(context, 0)
    control = load_i64(cache, words.CACHE_CONTROL)
    kind, address, third = argument(request, 0), argument(request, 1), argument(request, 2)
    rank = load_i64(control, CONTROL_RANK)
    if kind == MARK:
        store_i64(cache, words.CACHE_IN_USE, 1)
        if address == 0:
            return status.OK
    if home_rank(control, address) != rank:
        return status.OUT_OF_RANGE
    value = block_value(control, rank, address)
    if kind == LOOK:
        store_i64(reply, REPLY_VALUE, value)
        return status.OK
    if kind == MARK:
        mark(cache, rank, address, third)
        return status.OK
    if kind == LIFT:
        code = lift_poison(cache, rank, address, third)
        return status.PENDING if code == status.AGAIN else code
    line_log2 = value & words.LINE_LOG2_MASK
    line = third
    while line < BLOCK_BYTES >> line_log2:
        word = directory_word(control, cache, address + (line << line_log2), line_log2)
        if load_acquire_i64(word, 0) != 0:
            break
        line += 1
    store_i64(reply, REPLY_VALUE, line)
    return status.OK
