"""The gate of a rank: what compiled accesses by address need, homes that are not mapped included.

A gate is GATE_WORDS words of the rank's private memory: the address of its control page, and a C function
that asks a home on the caller's behalf. So one call of compiled code does an access wherever the home is;
going back to Python in between takes 10 us where nothing is in the caches, a fifth of the home's answer.
In a forked child the words are a copy, and the function is taken out of it.

A request stands in the gate only while compiled code makes it, and one thread at a time does: `enter`, and `leave` once
the answer is read. A thread that finds another one there, or has no answer within a slice, returns PENDING with what is
left to do, and the caller goes on outside of compiled code, without the gate.
"""

from __future__ import annotations

from .. import status
from ..build.compile import cpu_kernel, device_function
from ..intrinsics.scalar import compare_swap_i64, load_i64, store_i64, store_release_i64
from ..intrinsics.system import call_handler
from . import operations
from .control import NO_HOME, contiguous_bytes, place_of, reaches

WORD = 8

GATE_CONTROL = 0  # address of the control page
GATE_ASK = 1  # address of int64(gate, 0, context), which returns OK or PENDING; 0 where nobody can be asked
GATE_CONTEXT = 2
# the request, with the meaning that the agent's operations give to its fields
GATE_OPERATION = 3
GATE_ADDRESS = 4
GATE_WORD1, GATE_WORD2, GATE_WORD3 = 5, 6, 7
GATE_DATA_AT, GATE_DATA_BYTES = 8, 9  # pointer and length of what is stored
# of the room for what is loaded; at TO_VALUE, up to 8 bytes come as GATE_REPLY
GATE_REPLY_AT, GATE_REPLY_BYTES = 10, 11
GATE_DATA = 12  # the value that is stored, where it is a scalar
GATE_REPLY = 13  # the scalar that is loaded, or stood there; the word beside the bytes of a reply
GATE_IS_TAKEN = 14  # 1 while a thread is in the gate
GATE_CACHE = 15  # address of the rank's coherence header once it may keep copies, else 0
GATE_WORDS = 16
TO_VALUE = 0
PENDING_SHIFT = 8
PENDING_MASK = (1 << PENDING_SHIFT) - 1
MAX_ASKED_BYTES = 64 << 10  # of one request; above it the transport's own put and get are faster


@device_function
def pending(left):
    """PENDING, and what is left of a request: above 0 the number that it was sent under, 0 where it was not sent,
    below 0 the status with which the home has refused it."""
    return left << PENDING_SHIFT | status.PENDING


@device_function
def is_pending(code):
    """Whether a code came from `pending`."""
    return code & PENDING_MASK == status.PENDING


@device_function
def left_of(code):
    """What is left, of a code of `pending`."""
    return code >> PENDING_SHIFT


@device_function
def enter(gate):
    """True, and the gate is the caller's until `leave`; False where another thread has it: return `pending(0)`."""
    return compare_swap_i64(gate, GATE_IS_TAKEN, 0, 1) == 0


@device_function
def leave(gate):
    """Let others enter."""
    store_release_i64(gate, GATE_IS_TAKEN, 0)


@device_function
def ask(gate, operation, address, word1, word2, word3):
    """Have the home of `address` do `operation`: OK, with what stood there in GATE_REPLY; `pending`, to be finished
    outside of compiled code; NOT_MAPPED where nobody can be asked. The caller has entered the gate.
    """
    function = load_i64(gate, GATE_ASK)
    if function == 0:
        return status.NOT_MAPPED
    store_i64(gate, GATE_OPERATION, operation)
    store_i64(gate, GATE_ADDRESS, address)
    store_i64(gate, GATE_WORD1, word1)
    store_i64(gate, GATE_WORD2, word2)
    store_i64(gate, GATE_WORD3, word3)
    return call_handler(function, gate, 0, load_i64(gate, GATE_CONTEXT))


@device_function
def set_data(gate, pointer, num_bytes):
    """What the next request carries."""
    store_i64(gate, GATE_DATA_AT, pointer)
    store_i64(gate, GATE_DATA_BYTES, num_bytes)


@device_function
def set_reply(gate, pointer, num_bytes):
    """Where the answer to the next request goes."""
    store_i64(gate, GATE_REPLY_AT, pointer)
    store_i64(gate, GATE_REPLY_BYTES, num_bytes)


@device_function
def ask_read(gate, address, dst, num_bytes):
    """`ask` for the bytes at `address`, into the memory at the pointer `dst`."""
    set_data(gate, 0, 0)
    set_reply(gate, dst, num_bytes)
    return ask(gate, operations.READ, address, num_bytes, 0, 0)


@device_function
def ask_write(gate, address, src, num_bytes):
    """`ask` to put the bytes at the pointer `src` to `address`."""
    set_data(gate, src, num_bytes)
    set_reply(gate, 0, 0)
    return ask(gate, operations.WRITE, address, 0, 0, 0)


@device_function
def ask_update(gate, operation, address, word1, word2, word3):
    """`ask` for an atomic step: what stood there goes to GATE_REPLY."""
    set_data(gate, 0, 0)
    set_reply(gate, 0, 0)
    return ask(gate, operation, address, word1, word2, word3)


@device_function
def is_elsewhere(gate, address, num_bytes):
    """Whether [address, address + num_bytes) can be asked for: it is short, at one home, and out of reach."""
    if num_bytes <= 0 or num_bytes > MAX_ASKED_BYTES:
        return False
    control = load_i64(gate, GATE_CONTROL)
    home, kind, _ = place_of(control, address)
    if home == NO_HOME or num_bytes > contiguous_bytes(control, address):
        return False
    return not reaches(control, home, kind)


@cpu_kernel("int64(int64, int64, int64, int64)")
def get(gate, address, dst, num_bytes):
    """As `ask_read`; NOT_FOUND, and nothing is done, unless `is_elsewhere`."""
    if not is_elsewhere(gate, address, num_bytes):
        return status.NOT_FOUND
    if not enter(gate):
        return pending(0)
    code = ask_read(gate, address, dst, num_bytes)
    leave(gate)
    return code


@cpu_kernel("int64(int64, int64, int64, int64)")
def put(gate, address, src, num_bytes):
    """As `ask_write`; NOT_FOUND, and nothing is done, unless `is_elsewhere`."""
    if not is_elsewhere(gate, address, num_bytes):
        return status.NOT_FOUND
    if not enter(gate):
        return pending(0)
    code = ask_write(gate, address, src, num_bytes)
    leave(gate)
    return code
