"""Loops that the benchmark times beside those of `signal` and `random_access`: messages by loads and stores.

All addresses are bytes (int64), all words int64. Waits poll; they look at the control page and the clock
only every POLLS_BETWEEN_LOOKS polls, so that a hand-over is timed and not the looking.
"""

from __future__ import annotations

from ...kernels.build.compile import cpu_kernel, device_function
from ...kernels.data.copy import copy
from ...kernels.intrinsics.scalar import (
    exchange_i64,
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_i64,
    store_release_i64,
)
from ...kernels.intrinsics.system import call_handler, copy_bytes, now_ns, yield_cpu
from ...kernels.page.control import CONTROL_EPOCH, CONTROL_STOP
from ...kernels.status import AGAIN, EPOCH_CHANGED, INTERRUPTED, OK

CORE_LINE_WORDS = 8  # int64 words of a 64-byte line: one step of a chase touches one line
POLLS_BETWEEN_LOOKS = 1 << 12


@device_function
def poll_until(control, word, least, deadline_ns):
    """Poll `word` until it is `least` or more, with acquire ordering.

    OK; INTERRUPTED, EPOCH_CHANGED when a rank died since the space opened, AGAIN past `deadline_ns`.
    """
    polls = 0
    while load_acquire_i64(word, 0) < least:
        polls += 1
        if polls & (POLLS_BETWEEN_LOOKS - 1) == 0:
            if load_relaxed_i64(control, CONTROL_STOP) != 0:
                return INTERRUPTED
            if load_relaxed_i64(control, CONTROL_EPOCH) != 0:
                return EPOCH_CHANGED
            if now_ns() > deadline_ns:
                return AGAIN
            yield_cpu()
    return OK


@cpu_kernel("void(int64, int64, int64, int64)")
def fill_chase(base, num_lines, multiplier, increment):
    """Make a chain through all lines of `base`: word 0 of a line holds the index of the next line's word 0.

    `num_lines` is a power of two; with multiplier % 4 == 1 and an odd increment the generator has full
    period (Hull and Dobell, 1962), so the chain visits every line once, in an order that no prefetcher
    follows, and is written in one sequential pass.
    """
    line = 0
    while line < num_lines:
        following = (line * multiplier + increment) & (num_lines - 1)
        store_i64(base, line * CORE_LINE_WORDS, following * CORE_LINE_WORDS)
        line += 1


@cpu_kernel("int64(int64, int64, int64)")
def exchange_many(word, first, num_operations):
    """Exchange `word` for first, first + 1, ...; returns the sum of the old values."""
    total = 0
    done = 0
    while done < num_operations:
        total += exchange_i64(word, 0, first + done)
        done += 1
    return total


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def post_messages(control, ring, num_slots, doorbell, taken, first, num_messages, per_doorbell, deadline_ns):
    """Store messages `first`, first + 1, ... of 8 B into the peer's ring, a doorbell every `per_doorbell`.

    Messages in flight never exceed `num_slots` (a power of two, a multiple of `per_doorbell`): `taken` is
    the word in which the peer counts what it has taken. Returns a status.
    """
    sent = first
    while sent < first + num_messages:
        code = poll_until(control, taken, sent + per_doorbell - num_slots, deadline_ns)
        if code != OK:
            return code
        end = sent + per_doorbell
        while sent < end:
            store_i64(ring, sent & (num_slots - 1), sent)
            sent += 1
        store_release_i64(doorbell, 0, sent)
    return poll_until(control, taken, sent, deadline_ns)


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64)")
def take_messages(control, ring, num_slots, doorbell, taken, first, num_messages, deadline_ns):
    """Take the messages of `post_messages`; returns the number of wrong ones, or a negative status."""
    wrong = 0
    received = first
    while received < first + num_messages:
        code = poll_until(control, doorbell, received + 1, deadline_ns)
        if code != OK:
            return -code if code > 0 else code
        end = load_acquire_i64(doorbell, 0)
        while received < end:
            if load_i64(ring, received & (num_slots - 1)) != received:
                wrong += 1
            received += 1
        store_release_i64(taken, 0, received)
    return wrong


_SWAP = "int64(int64, int64, int64, int64, int64, int64, int64, int64, int64)"


@cpu_kernel(_SWAP)
def swap(control, theirs, mine, num_bytes, their_flag, my_flag, first, num_rounds, deadline_ns):
    """Exchange blocks with a peer: copy `mine[0]` into its memory, raise its flag, wait for one's own.

    `mine` is what this rank sends, `theirs` where it goes; a pair of `num_bytes` blocks, used in turn, so
    that a round never overwrites what its reader may still read. Rounds are numbered from `first` (>= 1).
    Returns a status.
    """
    lap = first
    while lap < first + num_rounds:
        half = (lap & 1) * num_bytes
        copy_bytes(theirs + half, mine + half, num_bytes)
        store_release_i64(their_flag, 0, lap)
        code = poll_until(control, my_flag, lap, deadline_ns)
        if code != OK:
            return code
        lap += 1
    return OK


@cpu_kernel("void(int64, int64, int64, int64, int64, int64, int64)")
def copy_each(dst, src, num_bytes, num_buffers, first, count, stream_bytes):
    """`count` copies of `num_bytes` between buffers that stand back to back, from buffer `first` on, in turn."""
    number = first
    while number < first + count:
        offset = number % num_buffers * num_bytes
        copy(dst + offset, src + offset, num_bytes, stream_bytes, 0, 1)
        number += 1


@cpu_kernel("void(int64, int64, int64, int64, int64, int64, int64)")
def copy_each_by(dst, src, num_bytes, num_buffers, first, count, function_address):
    """The same by a C function (dst, src, num_bytes), so that both are entered from compiled code."""
    number = first
    while number < first + count:
        offset = number % num_buffers * num_bytes
        call_handler(function_address, dst + offset, src + offset, num_bytes)
        number += 1


@cpu_kernel("int64(int64, int64)")
def enter_and_return(control, address):
    """Return at once: the cost of entering compiled code with a scalar load's arguments."""
    return 0
