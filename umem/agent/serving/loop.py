"""The agent's loop: progress, serve, reply, and sleep when there is nothing to do.

It runs in compiled code without the GIL from start to stop, so a rank whose user sits in numpy for five
seconds still answers. Asleep, it waits for UCX, for its own process and for deaths in one `poll`.
"""

from __future__ import annotations

from numba.types import ExternalFunction, int64

from ...fabric.ucx.abi import UCS_ERR_BUSY
from ...fabric.ucx.channels import arm_all, progress_all, progress_news
from ...kernels import status
from ...kernels.build.compile import cpu_kernel, device_function
from ...kernels.intrinsics.scalar import load_acquire_i64, load_i64, store_i64, store_relaxed_i64
from ...kernels.intrinsics.system import now_ns, pause
from ...kernels.page.control import CONTROL_HEARTBEAT
from .. import layout
from .liveness import greet, look, publish_lost_connections
from .queue import ring_length
from .service import continue_pending, count, reap_sent, refuse_all, serve_ready

sched_setaffinity = ExternalFunction("sched_setaffinity", int64(int64, int64, int64))  # libc's
WORD = layout.WORD
NO_WORKER = 0
HEARTBEAT_MS = 200  # longest sleep: 5 turns a second keep the heartbeat going at under 0.01 % of a core
SHORT_SLEEP_MS = 1  # while a handler is PENDING, or UCX cannot arm: what they wait for wakes nobody
ARM_PATIENCE_NS = 200_000  # a channel that cannot be armed for so long has sends that a peer does not take
LOOK_NS = 2_000_000  # a busy agent looks for deaths this often
CLOSE_REQUESTS = 4
# After a wake-up: one that answers, one that finds nothing left, one since UCX does not arm at once.
FIRST_TURNS = 3
FAREWELL_NS = 200_000_000  # at the end, for the last replies to leave


@device_function
def sleep(state, awake_ns):
    """Sleep until something happens, at most HEARTBEAT_MS; descriptors that were ready, negative on error.

    UCX refuses to arm (BUSY) while it has news or unfinished sends: then progress comes first.
    """
    channels = load_i64(state, layout.AGENT_CHANNELS)
    if channels != 0:
        code = arm_all(channels, load_i64(state, layout.AGENT_POLL_FDS), NO_WORKER)
        if code == UCS_ERR_BUSY:
            count(state, layout.AGENT_NUM_BUSY_ARMS)
            if awake_ns < ARM_PATIENCE_NS:
                return 0
            return look(state, load_i64(state, layout.AGENT_POLL_LOCAL), SHORT_SLEEP_MS)
        if code < 0:
            return status.FABRIC_FAILED
    timeout_ms = HEARTBEAT_MS
    if ring_length(state + layout.AGENT_PENDING * WORD) > 0:
        timeout_ms = SHORT_SLEEP_MS
    if load_acquire_i64(state, layout.AGENT_STOP) != 0:
        return 0
    count(state, layout.AGENT_NUM_SLEEPS)
    return look(state, 0, timeout_ms)


@device_function
def turn(state, is_first):
    """Do once all there is to do; how much was done. The first turns after a sleep look where poll saw news."""
    num_done = 0
    channels = load_i64(state, layout.AGENT_CHANNELS)
    if channels != 0:
        if is_first:
            num_done += progress_news(channels, load_i64(state, layout.AGENT_POLL_FDS))
        else:
            num_done += progress_all(channels)
    num_done += serve_ready(state)
    num_done += continue_pending(state)
    num_done += reap_sent(state)
    if load_i64(state, layout.AGENT_NUM_LOST) != 0:
        publish_lost_connections(state)
    return num_done


@device_function
def set_close(state, is_close):
    """Begin or end a time of close requests.

    In it the agent spins, on its rank's own core. At other times it may wake on any core: the client that
    wakes it is about to sleep, and its core is then the only free one where every rank computes.
    """
    store_i64(state, layout.AGENT_IS_CLOSE, is_close)
    cores = load_i64(state, layout.AGENT_CORES)
    if cores != 0:
        sched_setaffinity(0, layout.CPU_SET_BYTES, cores + is_close * layout.CPU_SET_BYTES)


@cpu_kernel("int64(int64)", group="ucx")
def serve(state):
    """Serve requests until `state[AGENT_STOP]`; OK, or why the loop could not go on.

    It sleeps as soon as there is nothing to do, unless requests follow each other closely: after
    CLOSE_REQUESTS in a row that came within AGENT_SPIN_NS it spins for that long. So a client that asks again
    and again is answered in 1 us, and one that pauses does not find its core taken. The spin is bounded
    by time, not by turns: a turn takes 30 ns over shared memory and a microsecond over tcp.
    """
    control = load_i64(state, layout.AGENT_CONTROL)
    spin_ns = load_i64(state, layout.AGENT_SPIN_NS)
    greet(state)
    busy_at = now_ns()  # when something was last done
    woken_at = looked_at = busy_at
    ran_dry = False  # nothing was done since
    num_close = 0
    num_turns = slept_at = 0
    code = status.OK
    while load_acquire_i64(state, layout.AGENT_STOP) == 0 and code == status.OK:
        num_turns += 1
        store_relaxed_i64(control, CONTROL_HEARTBEAT, num_turns)
        is_first = num_turns - slept_at <= FIRST_TURNS and load_i64(state, layout.AGENT_IS_CLOSE) == 0
        num_done = turn(state, is_first)
        now = now_ns()
        if num_done > 0:
            if ran_dry:
                num_close = num_close + 1 if now - busy_at <= spin_ns else 0
                if num_close == CLOSE_REQUESTS:
                    set_close(state, 1)
            ran_dry = False
            busy_at = now
            if now - looked_at > LOOK_NS:
                look(state, load_i64(state, layout.AGENT_POLL_LOCAL), 0)
                looked_at = now
            continue
        ran_dry = True
        if load_i64(state, layout.AGENT_IS_CLOSE) != 0:
            if now - busy_at <= spin_ns:
                pause()
                continue
            set_close(state, 0)
        num_sleeps = load_i64(state, layout.AGENT_NUM_SLEEPS)
        num_ready = sleep(state, now - max(busy_at, woken_at))
        looked_at = now_ns()
        has_slept = load_i64(state, layout.AGENT_NUM_SLEEPS) != num_sleeps
        if num_ready > 0 and has_slept:  # poll told where news is
            slept_at = num_turns
        if num_ready > 0:
            woken_at = looked_at
        elif num_ready < 0:
            code = num_ready
    refuse_all(state)
    deadline = now_ns() + FAREWELL_NS
    while ring_length(state + layout.AGENT_SENDING * WORD) > 0 and now_ns() < deadline:
        progress_all(load_i64(state, layout.AGENT_CHANNELS))
        reap_sent(state)
    return code
