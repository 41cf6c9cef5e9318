"""An access that a home's agent does at its own memory for another rank, the line locked or the memory not cached."""

from __future__ import annotations

from ...agent.layout import REPLY_VALUE, REQUEST_PAYLOAD, REQUEST_PAYLOAD_BYTES, REQUEST_WORDS, WORD
from ...agent.serving.handlers import argument
from ...kernels import device_function
from ...kernels.coherent.layout import FLIT_BYTES_SHIFT, FLIT_OPERATION_SHIFT
from ...kernels.coherent.typed import raw_change
from ...kernels.data.shared_copy import copy_in
from ...kernels.intrinsics.scalar import (
    fetch_add_f32,
    fetch_add_f64,
    load_f32,
    load_f64,
    load_i64,
    store_f32,
    store_f64,
    store_i64,
)
from ...kernels.page import operations

OPERATION_MASK, BYTES_MASK = 15, 255
_change_i8, _change_i16, _change_i32, _change_i64 = (raw_change(name) for name in ("i8", "i16", "i32", "i64"))


@device_function
def modify_home(request, reply, asked):
    """Do the operation of the flit's word at its address: on an element of 1 to 8 bytes, or on the payload's bytes.

    The reply's value is what stood there, as a word of the same bits.
    """
    address, first, second = argument(request, 0), argument(request, 2), argument(request, 3)
    operation = (asked >> FLIT_OPERATION_SHIFT) & OPERATION_MASK
    num_bytes = (asked >> FLIT_BYTES_SHIFT) & BYTES_MASK
    value = reply + REPLY_VALUE * WORD
    operand = request + (REQUEST_WORDS + 2) * WORD
    if num_bytes == 0:
        payload, size = load_i64(request, REQUEST_PAYLOAD), load_i64(request, REQUEST_PAYLOAD_BYTES)
        copy_in(address, payload, size)
    elif operation == operations.FETCH_ADD_FLOAT and num_bytes == 4:
        store_f32(value, 0, fetch_add_f32(address, 0, load_f32(operand, 0)))
    elif operation == operations.FETCH_ADD_FLOAT:
        store_f64(value, 0, fetch_add_f64(address, 0, load_f64(operand, 0)))
    elif num_bytes == 8:
        store_i64(value, 0, _change_i64(address, operation, first, second))
    elif num_bytes == 4:
        store_i64(value, 0, _change_i32(address, operation, first, second))
    elif num_bytes == 2:
        store_i64(value, 0, _change_i16(address, operation, first, second))
    else:
        store_i64(value, 0, _change_i8(address, operation, first, second))
