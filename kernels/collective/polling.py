"""Exchanges without sleepers: for teams with GPUs among their members, which no one wakes and which wake no one.

A post is a plain release store, the only kind that a GPU may make to host memory over any link. A wait polls relaxed
and fences once behind it. The rest of an operation is that of run.py; but an address is told only where the processors
of all members reach what lies there.
"""

from __future__ import annotations

from ..build.compile import cpu_kernel, device_function
from ..build.variants import ON_DEMAND, family
from ..intrinsics.scalar import fence_acquire, load_i64, load_relaxed_i64, store_release_i64
from ..intrinsics.system import is_gpu, now_ns, pause, yield_cpu
from ..page.control import CONTROL_EPOCH, CONTROL_STOP, NO_HOME, contiguous_bytes, home_rank, place_of
from ..status import AGAIN, EPOCH_CHANGED, INTERRUPTED, OK
from . import exchange, run
from .layout import (
    GPU_HOME,
    SLOT_SIGNAL,
    TEAM_CONTROL,
    TEAM_REACH,
    TEAM_SEQUENCE,
    TEAM_SHIFT,
    TEAM_SIZE,
    member_after,
    slot_of,
)

POLLS_PER_LOOK = 16


@device_function
def post_unheard(signal, value):
    """`post` where nobody sleeps; release ordering."""
    store_release_i64(signal, 0, value << 1)


@device_function
def poll(control, signal, sequence, epoch, deadline_ns):
    """Poll until the signal stands at `sequence` or beyond; relaxed. What `await_all` returns.

    CPUs look at the space's end and at deaths too: for a GPU the host does, between two slices.
    """
    polls = 0
    while load_relaxed_i64(signal, 0) >> 1 < sequence:
        polls += 1
        if polls == POLLS_PER_LOOK:
            polls = 0
            if is_gpu() == 0:
                if load_relaxed_i64(control, CONTROL_STOP):
                    return INTERRUPTED
                if load_relaxed_i64(control, CONTROL_EPOCH) != epoch:
                    return EPOCH_CHANGED
                yield_cpu()
            if now_ns() >= deadline_ns:
                return AGAIN
        pause()
    return OK


@device_function
def await_all(team, epoch, slice_ns):
    """exchange.await_all where nobody sleeps."""
    control, deadline_ns = load_i64(team, TEAM_CONTROL), now_ns() + slice_ns
    num_members, sequence = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_SEQUENCE)
    hop = 1
    while hop < num_members:
        signal = slot_of(team, member_after(team, hop), sequence) + 8 * SLOT_SIGNAL
        code = poll(control, signal, sequence, epoch, deadline_ns)
        if code != OK:
            return code
        hop += 1
    fence_acquire()
    return OK


@device_function
def told_address(team, pointer, num_bytes):
    """The address by which all members' processors reach the memory at `pointer`, else 0; as run.shared_address."""
    if num_bytes == 0:
        return run.NOWHERE
    control, reach = load_i64(team, TEAM_CONTROL), load_i64(team, TEAM_REACH)
    address = pointer
    if home_rank(control, address) == NO_HOME:
        address = pointer - load_i64(team, TEAM_SHIFT)
    at, left = address, num_bytes
    while left > 0:
        home, kind, _ = place_of(control, at)
        if home == NO_HOME or load_i64(reach, home) >> kind & 1 == 0:
            return 0
        piece = contiguous_bytes(control, at)
        at += piece
        left -= piece
    return address


@device_function
def pointer_to(team, address):
    """What this processor dereferences for an address that was told."""
    shift = load_i64(team, TEAM_SHIFT)
    if shift == 0:
        return address
    home, kind, _ = place_of(load_i64(team, TEAM_CONTROL), address)
    return address + shift if kind == 0 and load_i64(load_i64(team, TEAM_REACH), home) & GPU_HOME else address


POLLED = family(
    (exchange.announce, run.ask, run.prepare, run.step, run.conclude, run.begin, run.advance),
    "polled",
    post=post_unheard,
    await_all=await_all,
    shared_address=told_address,
)
begin, advance = POLLED.begin, POLLED.advance


@cpu_kernel(run.START_SIGNATURE, group=ON_DEMAND)
def start(team, flags, call, src, dst, length, root, reduction, element_bytes, rows, epoch, slice_ns):
    """run.start on a CPU among GPUs."""
    begin(team, flags, call, src, dst, length, root, reduction, element_bytes, rows)
    return advance(team, epoch, slice_ns)


@cpu_kernel(run.GO_ON_SIGNATURE, group=ON_DEMAND)
def go_on(team, epoch, slice_ns):
    """run.go_on on a CPU among GPUs."""
    return advance(team, epoch, slice_ns)
