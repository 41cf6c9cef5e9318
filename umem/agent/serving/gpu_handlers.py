"""Memory of this rank's GPU, served to CPUs by the rank's agent: by copies, and a kernel of one lane for words.

No CPU maps it, the rank's own neither: each asks the home's agent, which works on a stream of its own, beside whatever
the rank's program runs on the GPU, and needs no Python for it. One request is on the stream at a time; a handler whose
turn has not come, or whose work is under way, says PENDING and is called again.
"""

from __future__ import annotations

from ...kernels import status
from ...kernels.build.compile import device_function
from ...kernels.intrinsics.scalar import (
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    store_i64,
)
from ...kernels.intrinsics.system import call_with
from ...kernels.page import operations
from ...kernels.page.control import CONTROL_SERVED, reaches_address
from .. import layout

# --- the words SERVED_*
SERVED_OFFSET = 0  # what is added to an address to make a pointer of it
SERVED_CONTEXT = 1
SERVED_STREAM = 2
SERVED_SCRATCH = 3  # pointer to SCRATCH_BYTES of the GPU's memory
SERVED_IS_BUSY = 4  # 1 while a request is on the stream
# addresses of the driver's functions
SERVED_SET_CURRENT, SERVED_COPY_IN, SERVED_COPY_OUT, SERVED_LAUNCH, SERVED_QUERY = 5, 6, 7, 8, 9
SERVED_PARAMETERS = 10  # addresses of the SERVED_VALUES, what a kernel is called with
SERVED_VALUES = 18
NUM_VALUES = 8
SERVED_CALL = 26  # of the function that is called, CALL_WORDS
SERVED_KERNELS = 40  # handles, by the numbers below; 0 where it is not loaded
SERVED_ANSWER = 55  # address of the word that `serve_word` answers in
SERVED_WORDS = 56

KERNEL_WORD, KERNEL_GATHER = 0, 1
KERNEL_GATHER_SUM = 2  # and the next two: by ROW_TYPES
KERNEL_REDUCE = 5  # and the next five: by REDUCE_TYPES
NEAR_LANES = 256  # of a kernel beside the data: of up to 64 KiB of results
SCRATCH_BYTES = 3 * layout.MAX_PAYLOAD_BYTES
FUNCTIONS = {
    SERVED_SET_CURRENT: "cuCtxSetCurrent",
    SERVED_COPY_IN: "cuMemcpyHtoDAsync",
    SERVED_COPY_OUT: "cuMemcpyDtoHAsync",
    SERVED_LAUNCH: "cuLaunchKernel",
    SERVED_QUERY: "cuStreamQuery",
}
WORD = layout.WORD
CUDA_SUCCESS, CUDA_ERROR_NOT_READY = 0, 600
CU_STREAM_NON_BLOCKING = 1  # waits for no other stream, and none for it


@device_function
def is_on_gpu(own, address):
    """True where `address`, which is this rank's own, lies in its GPU's memory."""
    return load_i64(own, layout.OWN_GPU) != 0 and not reaches_address(
        load_i64(own, layout.OWN_CONTROL), address
    )


@device_function
def call_driver(gpu, function, first, second, third, fourth):
    """The driver's status of one of its FUNCTIONS with up to four arguments."""
    call = gpu + SERVED_CALL * WORD
    store_i64(call, 0, first)
    store_i64(call, 1, second)
    store_i64(call, 2, third)
    store_i64(call, 3, fourth)
    return call_with(load_i64(gpu, function), call)


@device_function
def launch(gpu, kernel, num_blocks, num_threads):
    """Start a kernel with the SERVED_VALUES: the driver's status."""
    call = gpu + SERVED_CALL * WORD
    store_i64(call, 0, load_i64(gpu, SERVED_KERNELS + kernel))
    index = 1
    while index < 7:
        store_i64(call, index, 1)
        index += 1
    store_i64(call, 1, num_blocks)
    store_i64(call, 4, num_threads)
    store_i64(call, 7, 0)
    store_i64(call, 8, load_i64(gpu, SERVED_STREAM))
    store_i64(call, 9, gpu + SERVED_PARAMETERS * WORD)
    store_i64(call, 10, 0)
    return call_with(load_i64(gpu, SERVED_LAUNCH), call)


@device_function
def launch_word(gpu, operation, pointer, num_bytes, first, second):
    """Start `serve_word` in one lane: the driver's status."""
    values = gpu + SERVED_VALUES * WORD
    store_i64(values, 0, operation)
    store_i64(values, 1, pointer)
    store_i64(values, 2, num_bytes)
    store_i64(values, 3, first)
    store_i64(values, 4, second)
    store_i64(values, 5, load_i64(gpu, SERVED_ANSWER))
    return launch(gpu, KERNEL_WORD, 1, 1)


@device_function
def may_begin(gpu, request):
    """True where the request is to be put on the stream now: it was not, and nothing else is there."""
    scratch = load_i64(request, layout.REQUEST_SCRATCH)
    if scratch != 0 or load_i64(gpu, SERVED_IS_BUSY) != 0:
        return False
    call_driver(gpu, SERVED_SET_CURRENT, load_i64(gpu, SERVED_CONTEXT), 0, 0, 0)
    return True


@device_function
def begun(gpu, request, code):
    """Note that the request is on the stream, unless the driver's status `code` says that it is not."""
    if code == CUDA_SUCCESS:
        store_i64(gpu, SERVED_IS_BUSY, 1)
        store_i64(request, layout.REQUEST_SCRATCH, 1)
        return status.OK
    return status.DEVICE_FAILED


@device_function
def ended(gpu, request):
    """OK once the request's work on the stream has ended; PENDING before; DEVICE_FAILED."""
    if load_i64(request, layout.REQUEST_SCRATCH) == 0:
        return status.PENDING
    code = call_driver(gpu, SERVED_QUERY, load_i64(gpu, SERVED_STREAM), 0, 0, 0)
    if code == CUDA_ERROR_NOT_READY:
        return status.PENDING
    store_i64(gpu, SERVED_IS_BUSY, 0)
    return status.OK if code == CUDA_SUCCESS else status.DEVICE_FAILED


@device_function
def is_word(address, num_bytes):
    """True for what one access of a GPU loads or stores."""
    return num_bytes in (1, 2, 4, 8) and address & (num_bytes - 1) == 0


@device_function
def read_gpu(own, request, reply, address, num_bytes):
    """Handler of READ: an aligned word is loaded by the GPU, with acquire ordering; more is copied."""
    gpu, room = load_i64(own, layout.OWN_GPU), load_i64(reply, layout.REPLY_PAYLOAD)
    pointer = address + load_i64(gpu, SERVED_OFFSET)
    if may_begin(gpu, request):
        if is_word(address, num_bytes):
            code = launch_word(gpu, operations.READ, pointer, num_bytes, 0, 0)
        else:
            code = call_driver(gpu, SERVED_COPY_OUT, room, pointer, num_bytes, load_i64(gpu, SERVED_STREAM))
        code = begun(gpu, request, code)
        if code != status.OK:
            return code
    code = ended(gpu, request)
    if code == status.OK:
        if is_word(address, num_bytes):
            store_i64(room, 0, load_i64(load_i64(own, layout.OWN_CONTROL), CONTROL_SERVED))
        store_i64(reply, layout.REPLY_PAYLOAD_BYTES, num_bytes)
    return code


@device_function
def write_gpu(own, request, address, src, num_bytes):
    """Handler of WRITE: an aligned word is stored by the GPU, with release ordering; more is copied."""
    gpu = load_i64(own, layout.OWN_GPU)
    pointer = address + load_i64(gpu, SERVED_OFFSET)
    if may_begin(gpu, request):
        if is_word(address, num_bytes):
            code = launch_word(gpu, operations.WRITE, pointer, num_bytes, word_at(src, num_bytes), 0)
        else:
            code = call_driver(gpu, SERVED_COPY_IN, pointer, src, num_bytes, load_i64(gpu, SERVED_STREAM))
        code = begun(gpu, request, code)
        if code != status.OK:
            return code
    return ended(gpu, request)


@device_function
def update_gpu(own, request, reply, operation, address, num_bytes, first, second):
    """Handler of FETCH_ADD, EXCHANGE and COMPARE_SWAP, by the GPU: atomic with what its kernels do."""
    gpu = load_i64(own, layout.OWN_GPU)
    if may_begin(gpu, request):
        pointer = address + load_i64(gpu, SERVED_OFFSET)
        code = begun(gpu, request, launch_word(gpu, operation, pointer, num_bytes, first, second))
        if code != status.OK:
            return code
    code = ended(gpu, request)
    if code == status.OK:
        store_i64(reply, layout.REPLY_VALUE, load_i64(load_i64(own, layout.OWN_CONTROL), CONTROL_SERVED))
    return code


@device_function
def word_at(src, num_bytes):
    """The 1, 2, 4 or 8 bytes at the pointer `src`."""
    if num_bytes == 8:
        return load_i64(src, 0)
    if num_bytes == 4:
        return int(load_u32(src, 0))
    if num_bytes == 2:
        return int(load_u16(src, 0))
    return int(load_u8(src, 0))
