"""Loops that the benchmark times: one idea each, with nothing in them that is not measured.

All addresses are bytes (int64), all words int64. Waits poll; they look at the control page and the clock
only every POLLS_BETWEEN_LOOKS polls, so that a hand-over is timed and not the looking. Their twins in C
stand in bench/limits.c.
"""

from __future__ import annotations

from .compile import cpu_kernel, device_function
from .control import EPOCH, STOP
from .ops import (
    compare_swap_i64,
    exchange_i64,
    fetch_add_i64,
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_i64,
    store_release_i64,
)
from .ops_system import now_ns, yield_cpu
from .status import AGAIN, EPOCH_CHANGED, INTERRUPTED, OK

LINE_WORDS = 8  # int64 words of a 64-byte line: one step of a chase touches one line
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
            if load_relaxed_i64(control, STOP) != 0:
                return INTERRUPTED
            if load_relaxed_i64(control, EPOCH) != 0:
                return EPOCH_CHANGED
            if now_ns() > deadline_ns:
                return AGAIN
            yield_cpu()
    return OK


@cpu_kernel("int64(int64, int64, int64, int64, int64)")
def ping_pong(control, word, side, num_rounds, deadline_ns):
    """One side of `num_rounds` hand-overs of one line and back, on a word that starts at 0.

    Side 0 asks with odd numbers, side 1 answers with even ones. Returns a status.
    """
    lap = 0
    while lap < num_rounds:
        if side == 0:
            store_release_i64(word, 0, 2 * lap + 1)
            code = poll_until(control, word, 2 * lap + 2, deadline_ns)
        else:
            code = poll_until(control, word, 2 * lap + 1, deadline_ns)
            store_release_i64(word, 0, 2 * lap + 2)
        if code != OK:
            return code
        lap += 1
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
        store_i64(base, line * LINE_WORDS, following * LINE_WORDS)
        line += 1


@cpu_kernel("int64(int64, int64, int64)")
def chase(base, start, num_steps):
    """Follow `num_steps` dependent loads from word `start`; the word where it ends."""
    step = 0
    while step < num_steps:
        start = load_i64(base, start)
        step += 1
    return start


@cpu_kernel("int64(int64, int64)")
def fetch_add_many(word, num_operations):
    """Add 1 to `word`, `num_operations` times; what stood there before the last."""
    old = 0
    done = 0
    while done < num_operations:
        old = fetch_add_i64(word, 0, 1)
        done += 1
    return old


@cpu_kernel("int64(int64, int64)")
def compare_swap_many(word, num_operations):
    """Increment `word` by `num_operations` successful compare-and-swaps; how many attempts failed."""
    seen = load_acquire_i64(word, 0)
    failed = 0
    done = 0
    while done < num_operations:
        found = compare_swap_i64(word, 0, seen, seen + 1)
        if found == seen:
            seen += 1
            done += 1
        else:
            seen = found
            failed += 1
    return failed


@cpu_kernel("int64(int64, int64, int64)")
def exchange_many(word, first, num_operations):
    """Exchange `word` for first, first + 1, ...; the sum of what stood there."""
    total = 0
    done = 0
    while done < num_operations:
        total += exchange_i64(word, 0, first + done)
        done += 1
    return total


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def post_messages(control, ring, num_slots, doorbell, taken, first, num_messages, per_doorbell, deadline_ns):
    """Store messages `first`, first + 1, ... of 8 B into the peer's ring; ring the doorbell every `per_doorbell`.

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
    """Take what `post_messages` stores; the number of messages that were wrong, or a negative status."""
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


@cpu_kernel("int64(int64, int64, int64)")
def nothing(control, address, result):
    """Return at once: what it costs to enter compiled code with a scalar load's arguments."""
    return 0
