"""Handlers that compute beside the data: gather rows, sum bags of rows, add a block to memory.

`near` semantics ships the operation to the home: indices or a block travel there, rows, sums or nothing
come back. The loops are kernels/data/gather.py, kernels/data/gather_sum.py and kernels/data/reduce.py, so results have
the same bits as by the same loop over mapped memory. `own` describes the home's memory: every row is checked to
be the home's before it is touched. Other types than float32 are served where Agent.serve_other_types was
called: loading them would lengthen every start.
"""

from __future__ import annotations

from ...kernels import status
from ...kernels.build.compile import c_callback, device_function
from ...kernels.data.gather import check_indices, gather_rows
from ...kernels.data.gather_sum import GATHER_SUM
from ...kernels.data.reduce import REDUCE, TYPE_BYTES
from ...kernels.intrinsics.scalar import load_i64, store_i64
from .. import layout
from ..layout import Operation
from .gpu_handlers import is_on_gpu
from .gpu_near import gather_gpu, gather_sum_gpu, reduce_gpu
from .handlers import HANDLER, argument, check_range

WORD = layout.WORD
NEVER_STREAM = 1 << 62  # a reply is read at once, by the transport
NEAR_TYPE_KERNELS = "near types"  # group of handlers that not every world's start waits for

ROW_TYPES = ("f32", "f16", "bf16")  # by the code that travels
REDUCE_TYPES = ("f32", "f64", "i32", "i64", "f16", "bf16")
REDUCE_TYPE_BYTES = tuple(TYPE_BYTES[name] for name in REDUCE_TYPES)

_sum_f32, _sum_f16, _sum_bf16 = (GATHER_SUM[name] for name in ROW_TYPES)
_add_f32, _add_f64, _add_i32, _add_i64, _add_f16, _add_bf16 = (REDUCE[name] for name in REDUCE_TYPES)


@device_function
def check_rows(own, table, num_rows, row_bytes, indices, num_indices):
    """OK where every index names a row of the table that is wholly this rank's own, else OUT_OF_RANGE.

    A table in one piece is checked once; one that is striped over homes, row by row.
    """
    if num_rows <= 0 or row_bytes <= 0 or num_rows > layout.MAX_TABLE_BYTES // row_bytes:
        return status.OUT_OF_RANGE
    if check_range(own, table, num_rows * row_bytes) == status.OK:
        return check_indices(indices, num_indices, num_rows)
    position = 0
    while position < num_indices:
        index = load_i64(indices, position)
        if index < 0 or index >= num_rows:
            return status.OUT_OF_RANGE
        if check_range(own, table + index * row_bytes, row_bytes) != status.OK:
            return status.OUT_OF_RANGE
        position += 1
    return status.OK


@c_callback(HANDLER)
def gather(request, reply, own):
    """Arguments: table, num_rows, row_bytes; payload: indices (int64). The reply's payload: those rows."""
    table, num_rows, row_bytes = argument(request, 0), argument(request, 1), argument(request, 2)
    indices = load_i64(request, layout.REQUEST_PAYLOAD)
    num_indices = load_i64(request, layout.REQUEST_PAYLOAD_BYTES) // WORD
    code = check_rows(own, table, num_rows, row_bytes, indices, num_indices)
    if code != status.OK:
        return code
    if num_indices * row_bytes > load_i64(reply, layout.REPLY_CAPACITY):
        return status.BAD_REQUEST
    if is_on_gpu(own, table):
        return gather_gpu(own, request, reply, table, num_indices, row_bytes)
    dst = load_i64(reply, layout.REPLY_PAYLOAD)
    gather_rows(dst, table, indices, num_indices, row_bytes, NEVER_STREAM, 0, 1)
    store_i64(reply, layout.REPLY_PAYLOAD_BYTES, num_indices * row_bytes)
    return status.OK


@device_function
def check_offsets(offsets, num_bags, num_indices):
    """OK where `offsets` ascend from 0 to `num_indices`, else BAD_REQUEST."""
    if load_i64(offsets, 0) != 0 or load_i64(offsets, num_bags) != num_indices:
        return status.BAD_REQUEST
    bag = 0
    while bag < num_bags:
        if load_i64(offsets, bag) > load_i64(offsets, bag + 1):
            return status.BAD_REQUEST
        bag += 1
    return status.OK


@device_function
def check_bags(request, reply, own, element_bytes):
    """OK where a request for sums of bags is sound, its rows are this rank's own, and the reply has room."""
    table, num_rows, row_bytes = argument(request, 0), argument(request, 1), argument(request, 2)
    num_columns, num_bags = argument(request, 3), argument(request, 5)
    offsets = load_i64(request, layout.REQUEST_PAYLOAD)
    num_words = load_i64(request, layout.REQUEST_PAYLOAD_BYTES) // WORD
    if num_bags < 0 or num_bags >= num_words or num_columns < 0 or num_columns * element_bytes > row_bytes:
        return status.BAD_REQUEST
    if num_bags > load_i64(reply, layout.REPLY_CAPACITY) // max(4 * num_columns, 1):
        return status.BAD_REQUEST
    num_indices = num_words - num_bags - 1
    code = check_offsets(offsets, num_bags, num_indices)
    if code == status.OK:
        store_i64(reply, layout.REPLY_PAYLOAD_BYTES, num_bags * num_columns * 4)
        code = check_rows(own, table, num_rows, row_bytes, offsets + (num_bags + 1) * WORD, num_indices)
    return code


@c_callback(HANDLER)
def gather_sum(request, reply, own):
    """Arguments: table, num_rows, row_bytes, num_columns, place of the type in ROW_TYPES, num_bags; payload:
    num_bags + 1 offsets, then indices (int64). The reply's payload: a row of float32 for each bag."""
    if argument(request, 4) != 0:
        return status.BAD_REQUEST
    code = check_bags(request, reply, own, 4)
    if code == status.OK:
        table, row_bytes = argument(request, 0), argument(request, 2)
        num_columns, num_bags = argument(request, 3), argument(request, 5)
        if is_on_gpu(own, table):
            return gather_sum_gpu(own, request, reply, 0, table, row_bytes, num_columns, num_bags)
        offsets, dst = load_i64(request, layout.REQUEST_PAYLOAD), load_i64(reply, layout.REPLY_PAYLOAD)
        indices = offsets + (num_bags + 1) * WORD
        _sum_f32(dst, table, indices, offsets, num_bags, num_columns, row_bytes, 0, 1)
    return code


@c_callback(HANDLER, group=NEAR_TYPE_KERNELS)
def gather_sum_half(request, reply, own):
    """`gather_sum` of rows of float16 and bfloat16."""
    row_type = argument(request, 4)
    if row_type != 1 and row_type != 2:
        return status.BAD_REQUEST
    code = check_bags(request, reply, own, 2)
    if code == status.OK:
        table, row_bytes = argument(request, 0), argument(request, 2)
        num_columns, num_bags = argument(request, 3), argument(request, 5)
        if is_on_gpu(own, table):
            return gather_sum_gpu(own, request, reply, row_type, table, row_bytes, num_columns, num_bags)
        offsets, dst = load_i64(request, layout.REQUEST_PAYLOAD), load_i64(reply, layout.REPLY_PAYLOAD)
        indices = offsets + (num_bags + 1) * WORD
        if row_type == 1:
            _sum_f16(dst, table, indices, offsets, num_bags, num_columns, row_bytes, 0, 1)
        else:
            _sum_bf16(dst, table, indices, offsets, num_bags, num_columns, row_bytes, 0, 1)
    return code


@device_function
def check_block(request, own, element_bytes):
    """OK where a request to add a block is sound; leaves {dst, block} in the request's scratch words."""
    dst, num_elements = argument(request, 0), argument(request, 1)
    num_bytes = load_i64(request, layout.REQUEST_PAYLOAD_BYTES)
    if num_elements * element_bytes != num_bytes or dst % element_bytes != 0:
        return status.BAD_REQUEST
    sources = request + layout.REQUEST_SCRATCH * WORD
    store_i64(sources, 0, dst)
    store_i64(sources, 1, load_i64(request, layout.REQUEST_PAYLOAD))
    return check_range(own, dst, num_bytes)


@device_function
def reduce_in_gpu(request, reply, own, element_type, element_bytes):
    """`reduce` in this rank's GPU; the request's scratch words say how far it is."""
    dst, num_elements = argument(request, 0), argument(request, 1)
    num_bytes = load_i64(request, layout.REQUEST_PAYLOAD_BYTES)
    if num_elements * element_bytes != num_bytes or dst % element_bytes != 0:
        return status.BAD_REQUEST
    code = check_range(own, dst, num_bytes)
    if code == status.OK:
        code = reduce_gpu(own, request, reply, element_type, dst, num_elements)
    return code


@c_callback(HANDLER)
def reduce(request, reply, own):
    """Arguments: dst, num_elements, place of the type in REDUCE_TYPES; payload: a block. dst[i] += block[i].

    Blocks that several ranks send to one `dst` are added one after the other, because one thread adds
    them; stores that others make there in the meantime may be lost.
    """
    if argument(request, 2) != 0:
        return status.BAD_REQUEST
    if is_on_gpu(own, argument(request, 0)):
        return reduce_in_gpu(request, reply, own, 0, 4)
    code = check_block(request, own, 4)
    if code == status.OK:
        sources = request + layout.REQUEST_SCRATCH * WORD
        _add_f32(argument(request, 0), sources, 2, argument(request, 1), NEVER_STREAM, 0, 1)
    return code


@c_callback(HANDLER, group=NEAR_TYPE_KERNELS)
def reduce_other(request, reply, own):
    """`reduce` of the other types."""
    dst, num_elements, element_type = argument(request, 0), argument(request, 1), argument(request, 2)
    if element_type < 1 or element_type >= len(REDUCE_TYPES):
        return status.BAD_REQUEST
    if is_on_gpu(own, dst):
        return reduce_in_gpu(request, reply, own, element_type, REDUCE_TYPE_BYTES[element_type])
    code = check_block(request, own, REDUCE_TYPE_BYTES[element_type])
    if code != status.OK:
        return code
    sources = request + layout.REQUEST_SCRATCH * WORD
    if element_type == 1:
        _add_f64(dst, sources, 2, num_elements, NEVER_STREAM, 0, 1)
    elif element_type == 2:
        _add_i32(dst, sources, 2, num_elements, NEVER_STREAM, 0, 1)
    elif element_type == 3:
        _add_i64(dst, sources, 2, num_elements, NEVER_STREAM, 0, 1)
    elif element_type == 4:
        _add_f16(dst, sources, 2, num_elements, NEVER_STREAM, 0, 1)
    else:
        _add_bf16(dst, sources, 2, num_elements, NEVER_STREAM, 0, 1)
    return status.OK


NEAR = {Operation.GATHER: gather, Operation.GATHER_SUM: gather_sum, Operation.REDUCE: reduce}
NEAR_OTHER_TYPES = {Operation.GATHER_SUM_HALF: gather_sum_half, Operation.REDUCE_OTHER: reduce_other}
