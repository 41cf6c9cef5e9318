"""Kernels in which lane 0 writes two words and tells lane 1, over and over, each in another way of umem's kernels.

Lane 1 counts in base[WRONG] what it was told of and did not see, and answers, so that no message is overwritten.
"""

from __future__ import annotations

from umem.kernels import (
    fence_acquire,
    fence_release,
    lane_index,
    load_acquire_i64,
    load_i64,
    load_relaxed_i64,
    pause,
    store_i64,
    store_relaxed_i64,
    store_release_i64,
)
from umem.kernels.build.compile import device_function
from umem.kernels.build.variants import variant
from umem.kernels.data.shared_copy import copy_in, copy_out
from umem.kernels.page.signal import CUDA

FLAG, ANSWER, WRONG = 64, 96, 128  # words of `base`, lines apart
OTHER_DATA = 32
PRIVATE = 256  # 16 words a lane that no other lane touches
COPY_BYTES = 128
post_add, wait_signal = CUDA.post_add, CUDA.wait_signal


@device_function
def tell(base, i):
    """A template: tell of message `i`."""


@device_function
def hear(base, i):
    """A template: back when message `i` was told of."""


@device_function
def messages(base, num_rounds, lane):
    wrong = 0
    i = 1
    while i <= num_rounds:
        if lane == 0:
            store_i64(base, 0, i)
            store_i64(base, OTHER_DATA, i)
            tell(base, i)
            while load_acquire_i64(base, ANSWER) != i:
                pause()
        else:
            hear(base, i)
            if load_i64(base, 0) != i or load_i64(base, OTHER_DATA) != i:
                wrong += 1
            store_release_i64(base, ANSWER, i)
        i += 1
    if lane == 1:
        store_i64(base, WRONG, wrong)


@device_function
def tell_by_flag(base, i):
    store_release_i64(base, FLAG, i)


@device_function
def hear_by_flag(base, i):
    while load_acquire_i64(base, FLAG) != i:
        pause()


@device_function
def tell_by_fence(base, i):
    fence_release()
    store_relaxed_i64(base, FLAG, i)


@device_function
def hear_by_fence(base, i):
    while load_relaxed_i64(base, FLAG) != i:
        pause()
    fence_acquire()


@device_function
def tell_by_count(base, i):
    post_add(base + 8 * FLAG, 1)


@device_function
def hear_by_count(base, i):
    """By the signal's value itself: a wait would read a control page."""
    while load_acquire_i64(base, FLAG) >> 1 != i:
        pause()


@device_function
def tell_by_copy(base, i):
    """The last word of a line that is copied in is the flag."""
    mine = base + 8 * PRIVATE
    store_i64(mine, 15, i)
    copy_in(base + 8 * FLAG, mine, COPY_BYTES)


@device_function
def hear_by_copy(base, i):
    mine = base + 8 * (PRIVATE + 16)
    copy_out(mine, base + 8 * FLAG, COPY_BYTES)
    while load_i64(mine, 15) != i:
        pause()
        copy_out(mine, base + 8 * FLAG, COPY_BYTES)


by_flag = variant(messages, "by_flag", tell=tell_by_flag, hear=hear_by_flag)
by_fence = variant(messages, "by_fence", tell=tell_by_fence, hear=hear_by_fence)
by_count = variant(messages, "by_count", tell=tell_by_count, hear=hear_by_count)
by_copy = variant(messages, "by_copy", tell=tell_by_copy, hear=hear_by_copy)


def messages_by_flag(base, num_rounds):
    by_flag(base, num_rounds, lane_index())


def messages_by_fence(base, num_rounds):
    by_fence(base, num_rounds, lane_index())


def messages_by_count(base, num_rounds):
    by_count(base, num_rounds, lane_index())


def messages_by_copy(base, num_rounds):
    by_copy(base, num_rounds, lane_index())


def messages_of_role(base, num_rounds, role):
    """`by_flag` with the lanes on two devices."""
    by_flag(base, num_rounds, role)
