"""Near operations in memory of this rank's GPU: the payload goes to its scratch, a kernel computes beside the data, and
its results are copied out; three steps in the order of one stream."""

from __future__ import annotations

from ...kernels import status
from ...kernels.build.compile import device_function
from ...kernels.intrinsics.scalar import load_i64, store_i64
from .. import layout
from .gpu_handlers import (
    CUDA_SUCCESS,
    KERNEL_GATHER,
    KERNEL_GATHER_SUM,
    KERNEL_REDUCE,
    NEAR_LANES,
    SERVED_COPY_IN,
    SERVED_COPY_OUT,
    SERVED_KERNELS,
    SERVED_OFFSET,
    SERVED_SCRATCH,
    SERVED_STREAM,
    SERVED_VALUES,
    WORD,
    begun,
    call_driver,
    ended,
    launch,
    may_begin,
)

RESULTS = layout.MAX_PAYLOAD_BYTES  # places in the scratch: behind what is sent
SOURCES = 2 * layout.MAX_PAYLOAD_BYTES
NEVER_STREAM = 1 << 62


@device_function
def compute(gpu, request, reply, kernel, result_bytes):
    """Send the payload in, start `kernel` with the SERVED_VALUES, copy `result_bytes` out: the driver's status."""
    stream, scratch = load_i64(gpu, SERVED_STREAM), load_i64(gpu, SERVED_SCRATCH)
    payload = load_i64(request, layout.REQUEST_PAYLOAD)
    num_bytes = load_i64(request, layout.REQUEST_PAYLOAD_BYTES)
    code = (
        call_driver(gpu, SERVED_COPY_IN, scratch, payload, num_bytes, stream)
        if num_bytes > 0
        else CUDA_SUCCESS
    )
    if code == CUDA_SUCCESS:
        code = launch(gpu, kernel, 1, NEAR_LANES)
    if code == CUDA_SUCCESS and result_bytes > 0:
        room = load_i64(reply, layout.REPLY_PAYLOAD)
        code = call_driver(gpu, SERVED_COPY_OUT, room, scratch + RESULTS, result_bytes, stream)
    return code


@device_function
def gather_gpu(own, request, reply, table, num_indices, row_bytes):
    """Handler of GATHER, its indices checked."""
    gpu = load_i64(own, layout.OWN_GPU)
    num_bytes = num_indices * row_bytes
    if may_begin(gpu, request):
        values, scratch = gpu + SERVED_VALUES * WORD, load_i64(gpu, SERVED_SCRATCH)
        store_i64(values, 0, scratch + RESULTS)
        store_i64(values, 1, table + load_i64(gpu, SERVED_OFFSET))
        store_i64(values, 2, scratch)
        store_i64(values, 3, num_indices)
        store_i64(values, 4, row_bytes)
        code = begun(gpu, request, compute(gpu, request, reply, KERNEL_GATHER, num_bytes))
        if code != status.OK:
            return code
    code = ended(gpu, request)
    if code == status.OK:
        store_i64(reply, layout.REPLY_PAYLOAD_BYTES, num_bytes)
    return code


@device_function
def gather_sum_gpu(own, request, reply, row_type, table, row_bytes, num_columns, num_bags):
    """Handler of GATHER_SUM, its offsets and indices checked; a row of float32 for each bag."""
    gpu = load_i64(own, layout.OWN_GPU)
    kernel = KERNEL_GATHER_SUM + row_type
    if load_i64(gpu, SERVED_KERNELS + kernel) == 0:
        return layout.UNKNOWN_OPERATION
    if may_begin(gpu, request):
        values, scratch = gpu + SERVED_VALUES * WORD, load_i64(gpu, SERVED_SCRATCH)
        store_i64(values, 0, scratch + RESULTS)
        store_i64(values, 1, table + load_i64(gpu, SERVED_OFFSET))
        store_i64(values, 2, scratch + (num_bags + 1) * WORD)
        store_i64(values, 3, scratch)
        store_i64(values, 4, num_bags)
        store_i64(values, 5, num_columns)
        store_i64(values, 6, row_bytes)
        code = begun(gpu, request, compute(gpu, request, reply, kernel, num_bags * num_columns * 4))
        if code != status.OK:
            return code
    return ended(gpu, request)


@device_function
def reduce_gpu(own, request, reply, element_type, dst, num_elements):
    """Handler of REDUCE, its block checked: dst[i] += block[i]."""
    gpu = load_i64(own, layout.OWN_GPU)
    kernel = KERNEL_REDUCE + element_type
    if load_i64(gpu, SERVED_KERNELS + kernel) == 0:
        return layout.UNKNOWN_OPERATION
    if may_begin(gpu, request):
        values, scratch = gpu + SERVED_VALUES * WORD, load_i64(gpu, SERVED_SCRATCH)
        pointer = dst + load_i64(gpu, SERVED_OFFSET)
        store_i64(values, 0, pointer)
        store_i64(values, 1, scratch)
        sources = scratch + SOURCES
        code = call_driver(gpu, SERVED_COPY_IN, sources, values, 2 * WORD, load_i64(gpu, SERVED_STREAM))
        store_i64(values, 1, sources)
        store_i64(values, 2, 2)
        store_i64(values, 3, num_elements)
        store_i64(values, 4, NEVER_STREAM)
        if code == CUDA_SUCCESS:
            code = compute(gpu, request, reply, kernel, 0)
        code = begun(gpu, request, code)
        if code != status.OK:
            return code
    return ended(gpu, request)
