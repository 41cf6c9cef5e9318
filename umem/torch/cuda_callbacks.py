"""The functions that torch's CUDA side calls to allocate and free GPU memory; compiled, without the GIL.

torch caches the memory that tensors free and reuses it by itself, on the same stream. It calls `give` only for
memory that leaves its cache; by then it has waited for the streams that record_stream named, but work on the
memory's own stream may still be under way. So the memory waits here for an event that `give` records on that
stream: until the event has passed no stream gets the memory.
"""

from __future__ import annotations

from functools import cache

from ..kernels import CCallback, c_callback, cpu_kernel, device_function, status
from ..kernels.build.variants import ON_DEMAND
from ..kernels.heap.alloc import alloc_slow, free_slow
from ..kernels.heap.layout import MAGAZINE_LIVE
from ..kernels.heap.record import owner_rank
from ..kernels.intrinsics.scalar import compare_swap_i64, load_i64, store_i64, store_release_i64
from ..kernels.intrinsics.system import call_handler, now_ns, yield_cpu
from .layout import PAGE_ADDRESS, PAGE_GPUS

MAX_GPUS = 64
MAX_HOMES = 64  # of a space, that this process has torch allocate from
_ALIGNMENT = 512  # torch's own, on every GPU

# --- words of a GPU's part
GPU_LOCK = 0
GPU_CONTROL, GPU_MAGAZINE = 1, 2  # the heap of its memory: a control page of this process alone, and a guest
GPU_TIMEOUT_NS = 3
GPU_CONTEXT = 4  # CUcontext
GPU_PUSH_CONTEXT, GPU_POP_CONTEXT = 5, 6  # addresses of functions of the driver
GPU_CREATE_EVENT, GPU_RECORD_EVENT, GPU_QUERY_EVENT, GPU_DESTROY_EVENT = 7, 8, 9, 10
GPU_EXCHANGE_MODE = 11
GPU_RESULT = 12  # where the driver writes handles
GPU_MODE = 13  # stream capture mode that the thread under the lock had
GPU_PUSH_STATUS = 14  # the driver's answer to the push of the context by the thread under the lock
GPU_NUM_LIVE = 16  # pieces that torch has
GPU_NUM_WAITING = 17  # freed, and waiting for their events
GPU_NUM_KEPT = 18  # freed, and never given out again: the driver gave no event
GPU_OFFSET = 19  # what a pointer of the GPU is more than the address in the heap
GPU_ORDINAL = 20
GPU_WAITING = 24  # a row for each waiting piece
WAITING_ADDRESS, WAITING_EVENT, WAITING_WORDS = 0, 1, 2
MAX_WAITING = 1024
GPU_WORDS = GPU_WAITING + MAX_WAITING * WAITING_WORDS

CUDA_SUCCESS = 0
STATUS_MASK = 0xFFFF_FFFF  # the driver returns 32 bits
CAPTURE_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED
DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING: cheaper to record and to ask


@device_function
def gpu_part(device):
    """The part of GPU `device`, or 0 where it has none."""
    if device < 0 or device >= MAX_GPUS:
        return 0
    return load_i64(load_i64(PAGE_ADDRESS, PAGE_GPUS), device)


@device_function
def acquire_gpu(part):
    """Take the part's lock and make its context current; a graph that the thread is capturing goes on undisturbed."""
    while compare_swap_i64(part, GPU_LOCK, 0, 1) != 0:
        yield_cpu()
    code = call_handler(load_i64(part, GPU_PUSH_CONTEXT), load_i64(part, GPU_CONTEXT), 0, 0)
    store_i64(part, GPU_PUSH_STATUS, code & STATUS_MASK)
    store_i64(part, GPU_MODE, CAPTURE_RELAXED)
    call_handler(load_i64(part, GPU_EXCHANGE_MODE), part + GPU_MODE * 8, 0, 0)


@device_function
def release_gpu(part):
    """Undo `acquire_gpu`."""
    call_handler(load_i64(part, GPU_EXCHANGE_MODE), part + GPU_MODE * 8, 0, 0)
    if load_i64(part, GPU_PUSH_STATUS) == CUDA_SUCCESS:
        call_handler(load_i64(part, GPU_POP_CONTEXT), part + GPU_RESULT * 8, 0, 0)
    store_release_i64(part, GPU_LOCK, 0)


@device_function
def add_to(part, word, value):
    """Change a counter, under the lock."""
    store_i64(part, word, load_i64(part, word) + value)


@device_function
def record_event(part, stream):
    """A new event behind all work that `stream` has now; 0 where the driver gives none."""
    if call_handler(load_i64(part, GPU_CREATE_EVENT), part + GPU_RESULT * 8, DISABLE_TIMING, 0) & STATUS_MASK:
        return 0
    event = load_i64(part, GPU_RESULT)
    if call_handler(load_i64(part, GPU_RECORD_EVENT), event, stream, 0) & STATUS_MASK:
        call_handler(load_i64(part, GPU_DESTROY_EVENT), event, 0, 0)
        return 0
    return event


@device_function
def settle(part):
    """Return waiting pieces whose events have passed to the heap; returns the number that still wait."""
    num_waiting = load_i64(part, GPU_NUM_WAITING)
    index = num_waiting - 1
    while index >= 0:
        row = part + (GPU_WAITING + index * WAITING_WORDS) * 8
        event = load_i64(row, WAITING_EVENT)
        if call_handler(load_i64(part, GPU_QUERY_EVENT), event, 0, 0) & STATUS_MASK == CUDA_SUCCESS:
            call_handler(load_i64(part, GPU_DESTROY_EVENT), event, 0, 0)
            give_back(part, load_i64(row, WAITING_ADDRESS))
            num_waiting -= 1
            last = part + (GPU_WAITING + num_waiting * WAITING_WORDS) * 8
            store_i64(row, WAITING_ADDRESS, load_i64(last, WAITING_ADDRESS))
            store_i64(row, WAITING_EVENT, load_i64(last, WAITING_EVENT))
        index -= 1
    store_i64(part, GPU_NUM_WAITING, num_waiting)
    return num_waiting


@device_function
def give_back(part, address):
    """Free an allocation of the heap, under the part's lock; others may hold the heap's."""
    magazine = load_i64(part, GPU_MAGAZINE)
    rank = owner_rank(load_i64(magazine, MAGAZINE_LIVE))
    code = free_slow(load_i64(part, GPU_CONTROL), magazine, rank, address)
    while code == status.AGAIN:
        code = free_slow(load_i64(part, GPU_CONTROL), magazine, rank, address)
    if code != status.OK:
        add_to(part, GPU_NUM_KEPT, 1)


@device_function
def take_from(part, num_bytes):
    """Pointer to a new piece that may be used on any stream at once, or 0 where no room comes within the time-out."""
    deadline_ns = now_ns() + load_i64(part, GPU_TIMEOUT_NS)
    magazine = load_i64(part, GPU_MAGAZINE)
    while True:
        acquire_gpu(part)
        num_waiting = settle(part)
        live = load_i64(magazine, MAGAZINE_LIVE)
        address = alloc_slow(load_i64(part, GPU_CONTROL), magazine, num_bytes, _ALIGNMENT, live)
        if address > status.AGAIN:
            add_to(part, GPU_NUM_LIVE, 1)
        release_gpu(part)
        if address > status.AGAIN:
            return address + load_i64(part, GPU_OFFSET)
        if (address != status.AGAIN and num_waiting == 0) or now_ns() > deadline_ns:
            return 0
        yield_cpu()


@device_function
def give_to(part, pointer, stream):
    """Have a piece wait until `stream` has done its work of now; then it is free.

    Where the driver gives no event, or the table of waiting memory is full beyond the time-out, the memory is kept
    for good: it could still be written.
    """
    deadline_ns = now_ns() + load_i64(part, GPU_TIMEOUT_NS)
    acquire_gpu(part)
    num_waiting = settle(part)
    while num_waiting == MAX_WAITING and now_ns() < deadline_ns:
        yield_cpu()
        num_waiting = settle(part)
    event = 0
    if num_waiting < MAX_WAITING:
        event = record_event(part, stream)
    if event != 0:
        row = part + (GPU_WAITING + num_waiting * WAITING_WORDS) * 8
        store_i64(row, WAITING_ADDRESS, pointer - load_i64(part, GPU_OFFSET))
        store_i64(row, WAITING_EVENT, event)
        store_i64(part, GPU_NUM_WAITING, num_waiting + 1)
    else:
        add_to(part, GPU_NUM_KEPT, 1)
    add_to(part, GPU_NUM_LIVE, -1)
    release_gpu(part)


@c_callback("int64(int64, int32, int64)")
def take(num_bytes, device, stream):
    """void *alloc(size_t, int, cudaStream_t) of the memory that `gpu_bytes` set aside; 0 where there is none."""
    part = gpu_part(device)
    return 0 if part == 0 else take_from(part, num_bytes)


@c_callback("void(int64, int64, int32, int64)")
def give(pointer, num_bytes, device, stream):
    """void free(void *, size_t, int, cudaStream_t) of the same."""
    part = gpu_part(device)
    if part != 0 and pointer != 0:
        give_to(part, pointer, stream)


@device_function
def home_part(number, device):
    """The part of a home of the space, by the number that its functions have, or 0 where another GPU asks."""
    part = load_i64(load_i64(PAGE_ADDRESS, PAGE_GPUS), MAX_GPUS + number)
    return part if part != 0 and load_i64(part, GPU_ORDINAL) == device else 0


@cache
def functions_of_home(number: int) -> tuple[CCallback, CCallback]:
    """(alloc, free) of the memory of a home: torch tells its pools apart by their functions' addresses alone."""

    def take_at_home(num_bytes, device, stream):
        part = home_part(number, device)
        return 0 if part == 0 else take_from(part, num_bytes)

    def give_home(pointer, num_bytes, device, stream):
        part = home_part(number, device)
        if part != 0 and pointer != 0:
            give_to(part, pointer, stream)

    return (
        c_callback("int64(int64, int32, int64)", group=ON_DEMAND)(take_at_home),
        c_callback("void(int64, int64, int32, int64)", group=ON_DEMAND)(give_home),
    )


@cpu_kernel("int64(int64)")
def poll(part):
    """`settle`, for Python: the number of pieces that still wait."""
    acquire_gpu(part)
    num_waiting = settle(part)
    release_gpu(part)
    return num_waiting
