"""The one compiled wait for a request: polling or asleep, never beyond a slice, watching the peer.

`polite` waits poll for the port's PORT_SPIN_NS and then sleep on the worker's event fd; polling waits only
yield their core, after control[CONTROL_SPIN_ROUNDS] rounds, so that more ranks than cores progress. The default of
PORT_SPIN_NS is 15 us: a longer spin burns the time slice that the peer needs on a shared core.

A wait for one rank progresses the channel of that rank in each round. It progresses the channels of the other ranks
before it sleeps or yields, and now and then while it spins, so that a send from another rank does not stall.
"""

from __future__ import annotations

import numpy as np

from ...kernels.build.compile import cpu_kernel, device_function
from ...kernels.intrinsics.scalar import load_i64, load_relaxed_i64, store_i64
from ...kernels.intrinsics.system import now_ns, yield_cpu
from ...kernels.page.control import CONTROL_PEER_STATE, CONTROL_SPIN_ROUNDS, CONTROL_STOP, DEAD
from ...kernels.status import AGAIN, FABRIC_FAILED, INTERRUPTED, OK, RANK_LOST
from . import calls
from .abi import UCS_INPROGRESS
from .channels import CHANNELS_FAILURE, CHANNELS_HAS_NEWS, begin_wait, progress_all
from .port import (
    POLLING,
    PORT_CHANNELS,
    PORT_CONTROL,
    PORT_MESSAGE,
    PORT_NUM_SLEEPS,
    PORT_NUM_YIELDS,
    PORT_RECV_TAG,
    PORT_SLICE,
    PORT_SPIN_NS,
    PORT_TAG,
    PORT_UCX_STATUS,
    PORT_WORKER,
)
from .turns import UCX_KERNELS, let_others, sleep_for_news

TO_CLAIM = 0  # in place of a request
EVERY_BIT = -1  # tag mask, as int64
ROUNDS_PER_LOOK = 64  # rounds between looks at clock and control page: about 1 us, and 1 % of the time
ROUNDS_PER_POLITE_LOOK = 8

worker_progress = calls.worker_progress
request_status, request_free = calls.request_status, calls.request_free
tag_probe = calls.tag_probe


@device_function
def look(control, rank):
    """OK while a wait that depends on `rank` may go on: the space is open and `rank` not confirmed dead.

    `rank` below 0: no rank in particular.
    """
    if load_relaxed_i64(control, CONTROL_STOP) != 0:
        return INTERRUPTED
    if rank >= 0 and load_relaxed_i64(control, CONTROL_PEER_STATE + rank) == DEAD:
        return RANK_LOST
    return OK


@device_function
def sleep_until_event(port, deadline_ns):
    """Sleep until a channel has work or the deadline has passed; at once if there is work already."""
    left_ns = deadline_ns - now_ns()
    if left_ns <= 0:
        return OK
    store_i64(port, PORT_NUM_SLEEPS, load_i64(port, PORT_NUM_SLEEPS) + 1)
    channels = load_i64(port, PORT_CHANNELS)
    code = sleep_for_news(channels, load_i64(port, PORT_WORKER), left_ns)
    if code == FABRIC_FAILED:
        store_i64(port, PORT_UCX_STATUS, load_i64(channels, CHANNELS_FAILURE))
    return code


@device_function
def has_ended(port, request):
    """Whether `request` has ended; 0 stands for a message to be claimed, which has then been put into PORT_MESSAGE."""
    if request != TO_CLAIM:
        return request_status(request) != UCS_INPROGRESS
    message = tag_probe(
        load_i64(port, PORT_WORKER),
        load_i64(port, PORT_TAG),
        EVERY_BIT,
        np.int32(1),
        port + 8 * PORT_RECV_TAG,
    )
    store_i64(port, PORT_MESSAGE, message)
    return message != 0


@device_function
def wait_ended(port, request, rank, how):
    """Progress the worker until `request` (above 0, or TO_CLAIM) has ended, `rank` is lost, or a slice has passed.

    OK where it has ended in any way: `reap` it. AGAIN, RANK_LOST, INTERRUPTED with the request still
    in progress.
    """
    worker, channels = load_i64(port, PORT_WORKER), load_i64(port, PORT_CHANNELS)
    begin_wait(channels)
    rounds_per_look = ROUNDS_PER_LOOK if how == POLLING else ROUNDS_PER_POLITE_LOOK
    rounds = 0
    deadline_ns = 0  # the clock is read at the first look: short waits never pay for it
    sleep_ns = 0
    while True:
        control = load_i64(port, PORT_CONTROL)
        # Before the turns: what a rank sent while it lived is there to be read in them.
        code = look(control, rank)
        turn = 0
        work = 0
        while turn < rounds_per_look:
            if has_ended(port, request):
                return OK
            work += worker_progress(worker)
            turn += 1
        rounds += turn
        if work > 0:
            store_i64(channels, CHANNELS_HAS_NEWS, 1)
        if code != OK and (code != RANK_LOST or work == 0):
            return code
        now = now_ns()
        if deadline_ns == 0:
            deadline_ns = now + load_i64(port, PORT_SLICE)
            sleep_ns = now + load_i64(port, PORT_SPIN_NS)
        if now >= deadline_ns:
            return AGAIN
        if let_others(channels) != OK:
            return INTERRUPTED
        if how != POLLING:
            if now >= sleep_ns:
                code = sleep_until_event(port, deadline_ns)
                if code != OK:
                    return code
        elif rounds >= load_i64(control, CONTROL_SPIN_ROUNDS):
            store_i64(port, PORT_NUM_YIELDS, load_i64(port, PORT_NUM_YIELDS) + 1)
            progress_all(channels)
            yield_cpu()


@device_function
def reap(port, request):
    """Free a request that has ended: OK, or FABRIC_FAILED with UCX's status in the port."""
    status = request_status(request)
    request_free(request)
    if status == 0:
        return OK
    store_i64(port, PORT_UCX_STATUS, status)
    return FABRIC_FAILED


@device_function
def wait_request(port, request, rank, how):
    """Wait for a ucs_status_ptr_t and free it. `how` is POLLING or POLITE.

    OK; AGAIN, RANK_LOST, INTERRUPTED with the request still in progress; FABRIC_FAILED with UCX's
    status in the port.
    """
    if request == 0:
        return OK
    if request < 0:
        store_i64(port, PORT_UCX_STATUS, request)
        return FABRIC_FAILED
    code = wait_ended(port, request, rank, how)
    return reap(port, request) if code == OK else code


@cpu_kernel("int64(int64, int64, int64, int64)", group=UCX_KERNELS)
def wait(port, request, rank, how):
    """`wait_request` for Python."""
    return wait_request(port, request, rank, how)
