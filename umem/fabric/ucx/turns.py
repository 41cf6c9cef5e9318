"""Whose turn it is with the main channels of a rank: any of its threads uses them, one at a time.

A turn is a part of one compiled call and never lasts while Python runs, so no finalizer and no signal handler can
meet a turn of its own thread. Turns are given in the order asked for. A thread that waits for a message gives its turn
away between two looks where others want it, and before it sleeps, so a turn lasts for microseconds. A lone thread
pays for one atomic instruction.

Asleep, one thread polls the channels for all: the others sleep on the word CHANNELS_EVENTS. A thread that has had news
of a channel wakes them when its turn ends, for the message that it read may be the one that they wait for.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ...errors import Interrupted
from ...kernels import status
from ...kernels.build.compile import cpu_kernel, device_function
from ...kernels.intrinsics.scalar import (
    fetch_add_i64,
    load_acquire_i64,
    load_i64,
    load_u32,
    store_i64,
    store_release_i64,
    store_u32,
)
from ...kernels.intrinsics.system import call_handler, futex_wait, futex_wake, pause, yield_cpu
from .abi import UCS_ERR_BUSY
from .calls import poll, worker_signal
from .channels import (
    CHANNELS_EVENTS,
    CHANNELS_FAILURE,
    CHANNELS_HAS_NEWS,
    CHANNELS_IS_CLOSED,
    CHANNELS_NEXT_TURN,
    CHANNELS_NUM_CHANNELS,
    CHANNELS_NUM_SLEEPERS,
    CHANNELS_POLL_FDS,
    CHANNELS_POLLER,
    CHANNELS_TURN,
    Channels,
    arm_all,
    progress_all,
)

UCX_KERNELS = "ucx"
NS_PER_MS = 1_000_000
EVERY_SLEEPER = 1 << 30  # more sleepers than a process has threads
PAUSES = 64  # while another core may end its turn; then the core is given to whose turn it is


@device_function
def take_turn(channels):
    """Wait for a turn: OK, or INTERRUPTED where the channels are closed. Call `end_turn` after either."""
    ticket = fetch_add_i64(channels, CHANNELS_NEXT_TURN, 1)
    looks = 0
    while load_acquire_i64(channels, CHANNELS_TURN) != ticket:
        looks += 1
        if looks < PAUSES:
            pause()
        else:
            yield_cpu()
    return status.OK if load_i64(channels, CHANNELS_IS_CLOSED) == 0 else status.INTERRUPTED


@device_function
def end_turn(channels):
    """Let the next one have its turn; wake those who sleep if there was news."""
    if load_i64(channels, CHANNELS_HAS_NEWS) != 0:
        tell_sleepers(channels)
    store_release_i64(channels, CHANNELS_TURN, load_i64(channels, CHANNELS_TURN) + 1)


@device_function
def tell_sleepers(channels):
    """Have every sleeper look again: the one that polls, and those that follow it."""
    store_i64(channels, CHANNELS_HAS_NEWS, 0)
    if load_i64(channels, CHANNELS_NUM_SLEEPERS) == 0:
        return
    if load_i64(channels, CHANNELS_POLLER) != 0:
        worker_signal(load_i64(channels, CHANNELS_POLLER))
    store_u32(channels + 8 * CHANNELS_EVENTS, 0, load_u32(channels + 8 * CHANNELS_EVENTS, 0) + np.uint32(1))
    futex_wake(channels + 8 * CHANNELS_EVENTS, EVERY_SLEEPER)


@device_function
def let_others(channels):
    """In a turn: let others have theirs if they want it. OK, or INTERRUPTED; the turn is the caller's again."""
    if load_acquire_i64(channels, CHANNELS_NEXT_TURN) - load_i64(channels, CHANNELS_TURN) <= 1:
        return status.OK
    end_turn(channels)
    return take_turn(channels)


@device_function
def sleep_for_news(channels, worker, num_ns):
    """In a turn, which others have meanwhile: sleep until a channel has news, at most `num_ns`.

    OK, also where there was news already; INTERRUPTED; FABRIC_FAILED with UCX's status in CHANNELS_FAILURE.
    `worker` is the one that the caller drives itself.
    """
    if load_i64(channels, CHANNELS_POLLER) != 0:
        seen = load_u32(channels + 8 * CHANNELS_EVENTS, 0)
        store_i64(channels, CHANNELS_NUM_SLEEPERS, load_i64(channels, CHANNELS_NUM_SLEEPERS) + 1)
        end_turn(channels)
        futex_wait(channels + 8 * CHANNELS_EVENTS, seen, num_ns)
        code = take_turn(channels)
        store_i64(channels, CHANNELS_NUM_SLEEPERS, load_i64(channels, CHANNELS_NUM_SLEEPERS) - 1)
        return code
    poll_fds = load_i64(channels, CHANNELS_POLL_FDS)
    armed = arm_all(channels, poll_fds, worker)
    if armed == UCS_ERR_BUSY:
        progress_all(channels)  # events came in since the last time: they would not wake us
        return status.OK
    if armed != 0:
        store_i64(channels, CHANNELS_FAILURE, armed)
        return status.FABRIC_FAILED
    tell_sleepers(channels)
    store_i64(channels, CHANNELS_POLLER, worker)
    store_i64(channels, CHANNELS_NUM_SLEEPERS, load_i64(channels, CHANNELS_NUM_SLEEPERS) + 1)
    end_turn(channels)
    poll(poll_fds, load_i64(channels, CHANNELS_NUM_CHANNELS), np.int32((num_ns + NS_PER_MS - 1) // NS_PER_MS))
    code = take_turn(channels)
    store_i64(channels, CHANNELS_POLLER, 0)
    store_i64(channels, CHANNELS_NUM_SLEEPERS, load_i64(channels, CHANNELS_NUM_SLEEPERS) - 1)
    store_i64(channels, CHANNELS_HAS_NEWS, 1)  # one of those that followed must poll, if this thread is done
    return code


def in_turn(channels: Channels, function: Any, *words: int) -> int:
    """What the C function of up to three words returns; it is called in a turn. Raises Interrupted after `close`."""
    address = ctypes.cast(function, ctypes.c_void_p).value
    result = int(call_in_turn(channels.address, address, *words, *(0,) * (3 - len(words))))
    if result == status.INTERRUPTED and channels.words[CHANNELS_IS_CLOSED]:
        raise Interrupted("the space is closing")
    return result


@cpu_kernel("int64(int64, int64, int64, int64, int64)", group=UCX_KERNELS)
def call_in_turn(channels, function, first, second, third):
    """See `in_turn`; `function` is its address."""
    code = take_turn(channels)
    if code == status.OK:
        code = call_handler(function, first, second, third)
    end_turn(channels)
    return code


@cpu_kernel("int64(int64)", group=UCX_KERNELS)
def progress_in_turn(channels):
    """Progress all channels; how much was done."""
    num_done = 0
    if take_turn(channels) == status.OK:
        num_done = progress_all(channels)
    end_turn(channels)
    return num_done


@cpu_kernel("void(int64)", group=UCX_KERNELS)
def close(channels):
    """Close the channels once the present turn has ended: every later turn finds them closed."""
    take_turn(channels)
    store_i64(channels, CHANNELS_IS_CLOSED, 1)
    store_i64(channels, CHANNELS_HAS_NEWS, 1)
    end_turn(channels)
