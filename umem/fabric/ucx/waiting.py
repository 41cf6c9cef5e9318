"""The one compiled wait for a request: polling or asleep, never beyond a slice, watching the peer.

`polite` waits poll for the port's SPIN_NS and then sleep on the worker's event fd; polling waits only
yield their core, after control[SPIN_ROUNDS] rounds, so that more ranks than cores progress. A wait progresses the
channel of its own rank; the others too before it gives its core away, and now and then where it never does, lest who
sends there waits. Source of
the 10-20 us: a longer spin burns the time slice that the peer needs on a shared core.
"""

from __future__ import annotations

import numpy as np

from ...kernels.compile import cpu_kernel, device_function
from ...kernels.control import DEAD, PEER_STATE, SPIN_ROUNDS, STOP
from ...kernels.ops import load_i64, load_relaxed_i64, store_i64
from ...kernels.ops_system import now_ns, yield_cpu
from ...kernels.status import AGAIN, FABRIC_FAILED, INTERRUPTED, OK, RANK_LOST, SLICE_NS
from . import calls
from .abi import UCS_ERR_BUSY, UCS_INPROGRESS
from .channels import NUM_CHANNELS, POLL_FDS, arm_all, begin_wait, progress_all
from .port import CHANNELS, CONTROL, NUM_SLEEPS, NUM_YIELDS, POLLING, SPIN_NS, UCX_STATUS, WORKER

GROUP = "ucx"
ROUNDS_PER_LOOK = 64  # rounds between looks at clock and control page: about 1 us, and 1 % of the time
ROUNDS_PER_POLITE_LOOK = 8
NS_PER_MS = 1_000_000

worker_progress = calls.worker_progress
request_status, request_free = calls.request_status, calls.request_free
poll = calls.poll


@device_function
def look(control, rank):
    """OK while a wait that depends on `rank` may go on: the space is open and `rank` not confirmed dead.

    `rank` below 0: no rank in particular.
    """
    if load_relaxed_i64(control, STOP) != 0:
        return INTERRUPTED
    if rank >= 0 and load_relaxed_i64(control, PEER_STATE + rank) == DEAD:
        return RANK_LOST
    return OK


@device_function
def sleep_until_event(port, deadline_ns):
    """Sleep until a channel has work or the deadline has passed; at once if there is work already."""
    channels = load_i64(port, CHANNELS)
    poll_fds = load_i64(channels, POLL_FDS)
    armed = arm_all(channels, poll_fds, load_i64(port, WORKER))
    if armed == UCS_ERR_BUSY:
        progress_all(channels)  # events came in since the last time: they would not wake us
        return OK
    if armed != 0:
        store_i64(port, UCX_STATUS, armed)
        return FABRIC_FAILED
    left_ns = deadline_ns - now_ns()
    if left_ns > 0:
        store_i64(port, NUM_SLEEPS, load_i64(port, NUM_SLEEPS) + 1)
        poll(poll_fds, load_i64(channels, NUM_CHANNELS), np.int32((left_ns + NS_PER_MS - 1) // NS_PER_MS))
    return OK


@device_function
def wait_ended(port, request, rank, how):
    """Progress the worker until `request` (above 0) has ended, `rank` is lost, or a slice has passed.

    OK where it has ended in any way: `reap` it. AGAIN, RANK_LOST, INTERRUPTED with the request still
    in progress.
    """
    worker = load_i64(port, WORKER)
    begin_wait(load_i64(port, CHANNELS))
    rounds_per_look = ROUNDS_PER_LOOK if how == POLLING else ROUNDS_PER_POLITE_LOOK
    rounds = 0
    deadline_ns = 0  # the clock is read at the first look: short waits never pay for it
    sleep_ns = 0
    while True:
        control = load_i64(port, CONTROL)
        # Before the turns: what a rank sent while it lived is there to be read in them.
        code = look(control, rank)
        turn = 0
        work = 0
        while turn < rounds_per_look:
            if request_status(request) != UCS_INPROGRESS:
                return OK
            work += worker_progress(worker)
            turn += 1
        rounds += turn
        if code != OK and (code != RANK_LOST or work == 0):
            return code
        now = now_ns()
        if deadline_ns == 0:
            deadline_ns = now + SLICE_NS
            sleep_ns = now + load_i64(port, SPIN_NS)
        if now >= deadline_ns:
            return AGAIN
        if how != POLLING:
            if now >= sleep_ns:
                code = sleep_until_event(port, deadline_ns)
                if code != OK:
                    return code
        elif rounds >= load_i64(control, SPIN_ROUNDS):
            store_i64(port, NUM_YIELDS, load_i64(port, NUM_YIELDS) + 1)
            progress_all(load_i64(port, CHANNELS))
            yield_cpu()


@device_function
def reap(port, request):
    """Free a request that has ended: OK, or FABRIC_FAILED with UCX's status in the port."""
    status = request_status(request)
    request_free(request)
    if status == 0:
        return OK
    store_i64(port, UCX_STATUS, status)
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
        store_i64(port, UCX_STATUS, request)
        return FABRIC_FAILED
    code = wait_ended(port, request, rank, how)
    return reap(port, request) if code == OK else code


@cpu_kernel("int64(int64, int64, int64, int64)", group=GROUP)
def wait(port, request, rank, how):
    """`wait_request` for Python."""
    return wait_request(port, request, rank, how)
