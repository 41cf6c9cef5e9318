"""A lane of a litmus test as a small program of words, run by one loop: no test needs code of its own.

A program is num_steps rows of STEP_WORDS words; instance i of the test has its places at places[p] + i * stride.
All instances of a round are run in order, each from its own moment on: lanes of several processes meet by the
clock, which orders none of their accesses and costs no access to the tested memory.

Every access acquires or releases, read-modify-writes do both: coherent accesses (kernels/coherent/typed.py), or the
processor's own where memory is mapped and uncached. A FENCE_STEP also orders stores before later loads.
"""

from __future__ import annotations

from ...kernels.build.compile import cpu_kernel, device_function
from ...kernels.coherent.entries import change_8, load_8
from ...kernels.coherent.typed import coherent_store_i64
from ...kernels.intrinsics.scalar import (
    compare_swap_i64,
    exchange_i64,
    fence_seq_cst,
    fetch_add_i64,
    load_acquire_i64,
    load_i64,
    store_i64,
    store_release_i64,
)
from ...kernels.intrinsics.system import now_ns, yield_cpu
from ...kernels.page.operations import EXCHANGE, FETCH_ADD, READ, WRITE
from ...kernels.status import AGAIN, OK

WORD = 8
# --- a row of a program
STEP_WORDS = 5
STEP_OPERATION, STEP_PLACE, STEP_FIRST, STEP_SECOND, STEP_REGISTER = 0, 1, 2, 3, 4
FENCE_STEP = 16  # beside the operations of kernels/page/operations.py
NO_REGISTER = -1
RAW = 0  # in place of a cache: the memory is accessed as it is
# --- how far a lane is
POSITION_WORDS = 2
POSITION_INSTANCE, POSITION_STEP = 0, 1

_FAR_NS = 5_000  # a lane that has longer to wait gives its core away meanwhile: its agent may need it


@device_function
def perform_raw(operation, address, first, second):
    """Do one access by the processor; returns the word's old value, or 0 after a store."""
    if operation == READ:
        return load_acquire_i64(address, 0)
    if operation == WRITE:
        store_release_i64(address, 0, first)
        return 0
    if operation == FETCH_ADD:
        return fetch_add_i64(address, 0, first)
    if operation == EXCHANGE:
        return exchange_i64(address, 0, first)
    return compare_swap_i64(address, 0, first, second)


@device_function
def perform(cache, operation, address, first, second):
    """Do one step; returns (OK, the word's old value, or 0), or another status where nothing was done."""
    if operation == FENCE_STEP:
        fence_seq_cst()
        return OK, 0
    if cache == RAW:
        return OK, perform_raw(operation, address, first, second)
    if operation == READ:
        return load_8(cache, address)
    if operation == WRITE:
        return coherent_store_i64(cache, address, first), 0
    return change_8(cache, address, operation, first, second)


@device_function
def wait_until(moment_ns):
    """Poll the clock until it shows `moment_ns`."""
    left_ns = moment_ns - now_ns()
    while left_ns > 0:
        if left_ns > _FAR_NS:
            yield_cpu()
        left_ns = moment_ns - now_ns()


@device_function
def run_instance(cache, position, program, num_steps, places, offset, results):
    """Do the steps from POSITION_STEP on, `offset` bytes behind the first instance; OK, or a failed step's status."""
    step = load_i64(position, POSITION_STEP)
    while step < num_steps:
        row = program + step * STEP_WORDS * WORD
        operation = load_i64(row, STEP_OPERATION)
        address = load_i64(places, load_i64(row, STEP_PLACE)) + offset
        code, value = perform(
            cache, operation, address, load_i64(row, STEP_FIRST), load_i64(row, STEP_SECOND)
        )
        if code != OK:
            store_i64(position, POSITION_STEP, step)
            return code
        register = load_i64(row, STEP_REGISTER)
        if register != NO_REGISTER:
            store_i64(results, register, value)
        step += 1
    store_i64(position, POSITION_STEP, 0)
    return OK


_WORDS = ", ".join(["int64"] * 12)


@cpu_kernel(f"int64({_WORDS})")
def run_lane(
    cache,
    position,
    program,
    num_steps,
    places,
    stride,
    begin_ns,
    moments,
    results,
    num_registers,
    num_instances,
    deadline_ns,
):
    """Run the instances from position[POSITION_INSTANCE] on, number i not before begin_ns + moments[i].

    Registers go to results[i * num_registers ...]. OK when all have run; AGAIN past `deadline_ns`, or the status
    of a step that was not done: call again, with the same arguments, once that is settled.
    """
    instance = load_i64(position, POSITION_INSTANCE)
    while instance < num_instances:
        store_i64(position, POSITION_INSTANCE, instance)
        if now_ns() > deadline_ns:
            return AGAIN
        wait_until(begin_ns + load_i64(moments, instance))
        kept = results + instance * num_registers * WORD
        code = run_instance(cache, position, program, num_steps, places, instance * stride, kept)
        if code != OK:
            return code
        instance += 1
    return OK
