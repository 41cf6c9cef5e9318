"""Signals: one rank posts a number, others wait until it is there, awake or asleep.

A signal is one int64 word on a cache line of its own: 2 * value + 1 where somebody sleeps on it. Value
and sleeper mark share the word so that no wake-up is lost without a further fence: a waiter marks the
value that it saw by compare-and-swap, and a poster's exchange takes the mark away and learns of it. The
futex compares the low half of the word, mark included, so a waiter whose mark was taken never falls asleep.
Values go from 0 to 2**62 - 1 and start at 0.

A wait polls, then yields its core, then sleeps: `control[CONTROL_SPIN_ROUNDS]` says how long it polls (long only
where every rank has a core; with more ranks than cores a poller keeps the poster from running). It never
stays longer than its slice, and watches `control[CONTROL_STOP]` and `control[CONTROL_EPOCH]`.
"""

from __future__ import annotations

from ..build.compile import cpu_kernel, device_function
from ..build.variants import family
from ..intrinsics.scalar import (
    compare_swap_i64,
    exchange_i64,
    fetch_add_i64,
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    store_release_i64,
)
from ..intrinsics.system import futex_wait, futex_wake, now_ns, pause, yield_cpu
from ..status import AGAIN, EPOCH_CHANGED, INTERRUPTED, OK
from .control import CONTROL_EPOCH, CONTROL_SPIN_ROUNDS, CONTROL_STOP

SIGNAL_BYTES = 128  # spacing of signals: the pair of lines that x86 prefetches together
EAGER_POLLS = 200  # polls before the first pause, which costs a round trip of its own
ROUNDS_PER_CLOCK = 16  # pauses between looks at the clock
YIELDS = 2  # turns given away before sleeping: cheaper than a futex where the poster is next in line
ALL_SLEEPERS = 1 << 30


@device_function
def signal_value(signal):
    """The value last posted; acquire ordering."""
    return load_acquire_i64(signal, 0) >> 1


@device_function
def post(signal, value):
    """Set the value and wake its sleepers; release ordering: what was stored before is seen by the waiter."""
    if exchange_i64(signal, 0, value << 1) & 1:
        futex_wake(signal, ALL_SLEEPERS)


@device_function
def post_add(signal, delta):
    """Add to the value, wake its sleepers, return the value before; release and acquire ordering.

    For signals with several posters.
    """
    old = fetch_add_i64(signal, 0, delta << 1)
    if old & 1:
        # Take the mark away, or every later post would call the kernel; a sleeper who still waits renews it.
        new = old + (delta << 1)
        compare_swap_i64(signal, 0, new, new & -2)
        futex_wake(signal, ALL_SLEEPERS)
    return old >> 1


@device_function
def is_reached(word, value, exactly):
    """1 where a signal's word stands at `value`, or beyond it if not `exactly`."""
    return 1 if word >> 1 == value or (exactly == 0 and word >> 1 > value) else 0


@device_function
def sleep_below(signal, value, exactly, timeout_ns):
    """Sleep until the signal changes, at most `timeout_ns`; not at all where it is reached. Look again."""
    word = load_acquire_i64(signal, 0)
    if is_reached(word, value, exactly) or timeout_ns <= 0:
        return
    if word & 1 == 0 and compare_swap_i64(signal, 0, word, word | 1) != word:
        return  # it changed
    futex_wait(signal, (word | 1) & 0xFFFFFFFF, timeout_ns)


@device_function
def poll_eagerly(control, signal, value, exactly):
    """1 where the signal is reached within the first polls, which take well under a microsecond."""
    num_polls = min(EAGER_POLLS, load_i64(control, CONTROL_SPIN_ROUNDS)) + 1
    polls = 0
    while polls < num_polls:
        if is_reached(load_acquire_i64(signal, 0), value, exactly):
            return 1
        polls += 1
    return 0


@device_function
def wait_patiently(control, signal, value, exactly, epoch, deadline_ns):
    """What follows `poll_eagerly`: pause, yield, sleep, until the signal is reached: OK.

    Or AGAIN after `deadline_ns` (of now_ns), INTERRUPTED, EPOCH_CHANGED.
    """
    num_pauses = load_i64(control, CONTROL_SPIN_ROUNDS) - EAGER_POLLS
    rounds = 0
    yields = 0
    while is_reached(load_acquire_i64(signal, 0), value, exactly) == 0:
        if load_relaxed_i64(control, CONTROL_STOP):
            return INTERRUPTED
        if load_relaxed_i64(control, CONTROL_EPOCH) != epoch:
            return EPOCH_CHANGED
        if rounds < num_pauses:
            pause()
            rounds += 1  # no further: a count without end would give the wait states without end
        elif yields < YIELDS:
            yield_cpu()
            yields += 1
        else:
            sleep_below(signal, value, exactly, deadline_ns - now_ns())
        if (rounds >= num_pauses or rounds % ROUNDS_PER_CLOCK == 0) and now_ns() >= deadline_ns:
            return AGAIN
    return OK


@device_function
def wait_signal(control, signal, value, exactly, epoch, slice_ns):
    """Wait until the signal's value is at least `value`, or `exactly` it; acquire ordering.

    Returns OK, AGAIN after `slice_ns` (call again: nothing is lost), INTERRUPTED where the space closes,
    EPOCH_CHANGED where a rank died since `epoch` was read from control[CONTROL_EPOCH]. Any number may wait. Writes
    only the sleeper mark.
    """
    if poll_eagerly(control, signal, value, exactly):
        return OK
    return wait_patiently(control, signal, value, exactly, epoch, now_ns() + slice_ns)


@device_function
def ping_pong(word, side, num_rounds, max_polls):
    """Round trips over one int64 word that starts at 0: side 0 asks, side 1 answers; the rounds completed.

    The least that two ranks can do over shared memory: release stores and acquire loads. Ends early after
    `max_polls` polls without an answer. Twin: line_ping_pong in bench/harness/hardware.c.
    """
    completed = 0
    while completed < num_rounds:
        ask = 2 * completed + 1
        if side == 0:
            store_release_i64(word, 0, ask)
        awaited = ask + 1 - side
        polls = 0
        while load_acquire_i64(word, 0) != awaited:
            polls += 1
            if polls > max_polls:
                return completed
        if side == 1:
            store_release_i64(word, 0, ask + 1)
        completed += 1
    return completed


@device_function
def signal_ping_pong(control, ask, answer, side, num_rounds, epoch, deadline_ns):
    """Round trips over two signals, as `ping_pong` but with waits that may sleep; the rounds completed.

    Both signals start at 0. Ends early at `deadline_ns` (of now_ns) and where a wait ends with an error.
    """
    mine = ask if side == 0 else answer
    theirs = answer if side == 0 else ask
    completed = 0
    while completed < num_rounds:
        if side == 0:
            post(mine, completed + 1)
        if poll_eagerly(control, theirs, completed + 1, 0) == 0:
            if wait_patiently(control, theirs, completed + 1, 0, epoch, deadline_ns) != OK:
                return completed
        if side == 1:
            post(mine, completed + 1)
        completed += 1
    return completed


@device_function
def wake_nobody(signal, count):
    """futex_wake where nobody can sleep."""
    return 0


@device_function
def doze(signal, value, exactly, timeout_ns):
    """sleep_below where the processor has no way to be woken: wait a little, then look again."""
    yield_cpu()


# The same signals on CUDA devices, which have no futex: their waiters poll.
CUDA = family((post, post_add, wait_patiently, wait_signal), "cuda", futex_wake=wake_nobody, sleep_below=doze)

cpu_signal_value = cpu_kernel("int64(int64)")(signal_value)
cpu_post = cpu_kernel("void(int64, int64)")(post)
cpu_post_add = cpu_kernel("int64(int64, int64)")(post_add)
cpu_wait_signal = cpu_kernel("int64(int64, int64, int64, int64, int64, int64)")(wait_signal)
cpu_ping_pong = cpu_kernel("int64(int64, int64, int64, int64)")(ping_pong)
cpu_signal_ping_pong = cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64)")(signal_ping_pong)
