"""The handlers every agent has: ping, small reads and writes, atomics on words of the home.

A handler is compiled, `handler(request, reply, context) -> status`, and runs in the home's agent thread;
`context`, for these, is the address of what describes the home's own memory. Atomics are the CPU's own,
so they are atomic with those of the home and of every rank that maps its memory; a read or write of one
aligned word of 1, 2, 4 or 8 bytes is never torn.
"""

from __future__ import annotations

from ...kernels import status
from ...kernels.build.compile import c_callback, device_function
from ...kernels.coherent.directory import block_value
from ...kernels.heap.layout import BLOCK_BYTES
from ...kernels.intrinsics.scalar import (
    compare_swap_i64,
    compare_swap_u32,
    exchange_i64,
    exchange_u32,
    fetch_add_i64,
    fetch_add_u32,
    load_acquire_i64,
    load_acquire_u32,
    load_i64,
    load_u8,
    load_u16,
    store_i64,
    store_release_i64,
    store_release_u32,
    store_u8,
    store_u16,
    store_u32,
)
from ...kernels.intrinsics.system import copy_bytes, now_ns
from ...kernels.page import operations
from ...kernels.page.control import CONTROL_COMPILED_UNTIL, CONTROL_RANK, contiguous_bytes, home_rank
from .. import layout
from ..layout import Operation
from .gpu_handlers import is_on_gpu, read_gpu, update_gpu, write_gpu

HANDLER = "int64(int64, int64, int64)"


@device_function
def argument(request, index):
    """The request's argument number `index`."""
    return load_i64(request, layout.REQUEST_WORDS + index)


@device_function
def check_range(own, address, num_bytes):
    """OK where [address, address + num_bytes) is this rank's own memory in one piece, else OUT_OF_RANGE; CACHED.

    `own` describes that memory (layout.OWN_*): addresses of the linear window and of the home's own view
    lie in its regions; one of the striped window is looked up.
    """
    if num_bytes < 0:
        return status.OUT_OF_RANGE
    region = 0
    while region < load_i64(own, layout.OWN_NUM_REGIONS):
        start = load_i64(own, layout.OWN_REGIONS + 2 * region)
        offset = address - start
        if offset >= 0 and num_bytes <= load_i64(own, layout.OWN_REGIONS + 2 * region + 1) - offset:
            return check_uncached(load_i64(own, layout.OWN_CONTROL), address, num_bytes)
        region += 1
    control = load_i64(own, layout.OWN_CONTROL)
    if home_rank(control, address) != load_i64(control, CONTROL_RANK):
        return status.OUT_OF_RANGE
    if num_bytes > contiguous_bytes(control, address):
        return status.OUT_OF_RANGE
    return check_uncached(control, address, num_bytes)


@device_function
def check_uncached(control, address, num_bytes):
    """OK where no rank keeps copies of this rank's own memory at `address`, else CACHED."""
    rank = load_i64(control, CONTROL_RANK)
    block = address & -BLOCK_BYTES
    while block < address + num_bytes:
        # A view of the home's own has no blocks: those who use it are asked for what is not cached.
        if home_rank(control, block) == rank and block_value(control, rank, block) != 0:
            return status.CACHED
        block += BLOCK_BYTES
    return status.OK


@device_function
def check_word(own, address, num_bytes):
    """OK for a naturally aligned word of 4 or 8 bytes of this rank's own memory."""
    if (num_bytes != 4 and num_bytes != 8) or address % num_bytes != 0:
        return status.BAD_REQUEST
    return check_range(own, address, num_bytes)


@c_callback(HANDLER)
def ping(request, reply, context):
    """Send the payload and the first argument back."""
    store_i64(reply, layout.REPLY_VALUE, argument(request, 0))
    store_i64(reply, layout.REPLY_PAYLOAD, load_i64(request, layout.REQUEST_PAYLOAD))
    store_i64(reply, layout.REPLY_PAYLOAD_BYTES, load_i64(request, layout.REQUEST_PAYLOAD_BYTES))
    return status.OK


@c_callback(HANDLER)
def read(request, reply, own):
    """Arguments: address, num_bytes. An aligned word is loaded once, with acquire ordering; more is sent from
    where it lies, so a store that races with the read may show in part."""
    address, num_bytes = argument(request, 0), argument(request, 1)
    if num_bytes > load_i64(reply, layout.REPLY_CAPACITY):
        return status.BAD_REQUEST
    code = check_range(own, address, num_bytes)
    if code != status.OK:
        return code
    room = load_i64(reply, layout.REPLY_PAYLOAD)
    if is_on_gpu(own, address):
        return read_gpu(own, request, reply, address, num_bytes)
    if num_bytes == 8 and address % 8 == 0:
        store_i64(room, 0, load_acquire_i64(address, 0))
    elif num_bytes == 4 and address % 4 == 0:
        store_u32(room, 0, load_acquire_u32(address, 0))
    elif num_bytes == 2 and address % 2 == 0:
        store_u16(room, 0, load_u16(address, 0))
    else:
        store_i64(reply, layout.REPLY_PAYLOAD, address)
    store_i64(reply, layout.REPLY_PAYLOAD_BYTES, num_bytes)
    return status.OK


@c_callback(HANDLER)
def write(request, reply, own):
    """Argument: address. An aligned word is stored once, with release ordering; more is copied plainly."""
    address = argument(request, 0)
    src = load_i64(request, layout.REQUEST_PAYLOAD)
    num_bytes = load_i64(request, layout.REQUEST_PAYLOAD_BYTES)
    code = check_range(own, address, num_bytes)
    if code != status.OK:
        return code
    if is_on_gpu(own, address):
        return write_gpu(own, request, address, src, num_bytes)
    if num_bytes == 8 and address % 8 == 0:
        store_release_i64(address, 0, load_i64(src, 0))
    elif num_bytes == 4 and address % 4 == 0:
        store_release_u32(address, 0, load_acquire_u32(src, 0))
    elif num_bytes == 2 and address % 2 == 0:
        store_u16(address, 0, load_u16(src, 0))
    elif num_bytes == 1:
        store_u8(address, 0, load_u8(src, 0))
    else:
        copy_bytes(address, src, num_bytes)
    return status.OK


@c_callback(HANDLER)
def fetch_add(request, reply, own):
    """Arguments: address, value, num_bytes (4 or 8). The reply's value is what stood there."""
    address, value, num_bytes = argument(request, 0), argument(request, 1), argument(request, 2)
    code = check_word(own, address, num_bytes)
    if code != status.OK:
        return code
    if is_on_gpu(own, address):
        return update_gpu(own, request, reply, operations.FETCH_ADD, address, num_bytes, value, 0)
    if num_bytes == 8:
        store_i64(reply, layout.REPLY_VALUE, fetch_add_i64(address, 0, value))
    else:
        store_i64(reply, layout.REPLY_VALUE, fetch_add_u32(address, 0, value))
    return status.OK


@c_callback(HANDLER)
def exchange(request, reply, own):
    """Arguments: address, value, num_bytes (4 or 8). The reply's value is what stood there."""
    address, value, num_bytes = argument(request, 0), argument(request, 1), argument(request, 2)
    code = check_word(own, address, num_bytes)
    if code != status.OK:
        return code
    if is_on_gpu(own, address):
        return update_gpu(own, request, reply, operations.EXCHANGE, address, num_bytes, value, 0)
    if num_bytes == 8:
        store_i64(reply, layout.REPLY_VALUE, exchange_i64(address, 0, value))
    else:
        store_i64(reply, layout.REPLY_VALUE, exchange_u32(address, 0, value))
    return status.OK


@c_callback(HANDLER)
def compare_swap(request, reply, own):
    """Arguments: address, expected, desired, num_bytes (4 or 8). The reply's value is what stood there."""
    address, num_bytes = argument(request, 0), argument(request, 3)
    expected, desired = argument(request, 1), argument(request, 2)
    code = check_word(own, address, num_bytes)
    if code != status.OK:
        return code
    if is_on_gpu(own, address):
        return update_gpu(own, request, reply, operations.COMPARE_SWAP, address, num_bytes, expected, desired)
    if num_bytes == 8:
        store_i64(reply, layout.REPLY_VALUE, compare_swap_i64(address, 0, expected, desired))
    else:
        store_i64(reply, layout.REPLY_VALUE, compare_swap_u32(address, 0, expected, desired))
    return status.OK


@c_callback(HANDLER)
def compiling(request, reply, own):
    """Argument: for how many ns from now on the rank that asks compiles at the latest."""
    word = load_i64(own, layout.OWN_CONTROL) + 8 * (
        CONTROL_COMPILED_UNTIL + load_i64(request, layout.REQUEST_SOURCE)
    )
    store_i64(word, 0, now_ns() + argument(request, 0))
    return status.OK


BUILT_IN = {
    Operation.PING: ping,
    Operation.READ: read,
    Operation.WRITE: write,
    Operation.FETCH_ADD: fetch_add,
    Operation.EXCHANGE: exchange,
    Operation.COMPARE_SWAP: compare_swap,
    Operation.COMPILING: compiling,
}
