"""Kernels whose groups of lanes put, wait and meet, by kernels/data/group.py; a block is a group."""

from __future__ import annotations

from umem.kernels import (
    block_lane,
    block_meet,
    fetch_add_i64,
    lane_index,
    load_acquire_i64_cta,
    load_acquire_i64_gpu,
    load_i64,
    num_block_lanes,
    pause,
    store_i64,
    store_release_i64_cta,
    store_release_i64_gpu,
)
from umem.kernels.build.compile import device_function
from umem.kernels.build.variants import variant
from umem.kernels.data import group

SIGNAL, ANSWER, WRONG, STATUS = 0, 16, 32, 48  # words of `base`
SRC, DST, FLAGS = 64, 512, 1024
WORDS, PAGE_WORDS = 96, 64
LONG_NS = 20_000_000_000
SHORT_NS = 20_000_000


@device_function
def puts(base, num_rounds, role):
    """Group 0 writes words and puts them with a signal; group 1 waits, and counts in base[WRONG] what it missed."""
    signal, answer = base + 8 * SIGNAL, base + 8 * ANSWER
    i = 1
    while i <= num_rounds:
        if role == 0:
            n = block_lane()
            while n < WORDS:
                store_i64(base, SRC + n, 1000 * i + n)
                n += num_block_lanes()
            meet(0)
            put_signal(base + 8 * DST, base + 8 * SRC, 8 * WORDS, signal, i)
            if wait_signal(answer, i, LONG_NS) != 0:
                fetch_add_i64(base, WRONG, 1)
        else:
            wrong = 1 if wait_signal(signal, i, LONG_NS) != 0 else 0
            n = block_lane()
            while n < WORDS:  # not by the lane that copied it
                if load_i64(base, DST + WORDS - 1 - n) != 1000 * i + WORDS - 1 - n:
                    wrong += 1
                n += num_block_lanes()
            if wrong:
                fetch_add_i64(base, WRONG, wrong)
            put_signal(base, base, 0, answer, i)
        i += 1


def _forms(name, meet, put_signal, wait_signal):
    return variant(puts, name, meet=meet, put_signal=put_signal, wait_signal=wait_signal)


@device_function
def meet(flag):
    """A template."""


put_signal = wait_signal = meet
puts_thread = _forms("puts_thread", group.thread_meet, group.put_signal_thread, group.wait_signal_thread)
puts_warp = _forms("puts_warp", group.warp_meet, group.put_signal_warp, group.wait_signal_warp)
puts_block = _forms("puts_block", block_meet, group.put_signal_block, group.wait_signal_block)


def puts_of_threads(base, num_rounds):
    puts_thread(base, num_rounds, lane_index() // num_block_lanes())


def puts_of_warps(base, num_rounds):
    puts_warp(base, num_rounds, lane_index() // num_block_lanes())


def puts_of_blocks(base, num_rounds):
    puts_block(base, num_rounds, lane_index() // num_block_lanes())


def puts_of_role(base, num_rounds, role):
    """`puts_block` with the groups in two launches."""
    puts_block(base, num_rounds, role)


def groups_meet(base, flags, num_rounds, first, num_groups):
    """Every lane counts a word up, its group meets the others, and each looks at all words; base[WRONG] counts."""
    rank = first + lane_index() // num_block_lanes()
    lanes = num_block_lanes()
    wrong = 0
    i = 1
    while i <= num_rounds:
        store_i64(base, SRC + PAGE_WORDS * rank + block_lane(), i)
        if group.group_barrier_block(flags, num_groups, rank, 2 * i - 1, LONG_NS) != 0:
            wrong += 1
        n = 0
        while n < num_groups * lanes:
            if load_i64(base, SRC + PAGE_WORDS * (n // lanes) + n % lanes) != i:
                wrong += 1
            n += 1
        if group.group_barrier_block(flags, num_groups, rank, 2 * i, LONG_NS) != 0:
            wrong += 1
        i += 1
    fetch_add_i64(base, WRONG, wrong)


def waits_for_nobody(base, flags, num_groups, rank, epoch):
    """base[STATUS]: what the barrier says; then what a wait for a signal says that nobody sets."""
    code = group.group_barrier_block(flags, num_groups, rank, epoch, SHORT_NS)
    waited = group.wait_signal_block(base + 8 * SIGNAL, 1 << 40, SHORT_NS)
    if block_lane() == num_block_lanes() - 1:
        store_i64(base, STATUS, code)
        store_i64(base, STATUS + 1, waited)


def comes_back(base, flags, num_groups, rank, epoch):
    """base[STATUS]: what a barrier says that waits long."""
    code = group.group_barrier_block(flags, num_groups, rank, epoch, LONG_NS)
    if block_lane() == 0:
        store_i64(base, STATUS, code)


def copies_of_threads(dst, src, num_bytes):
    if lane_index() == 0:
        group.copy_thread(dst, src, num_bytes)


def copies_of_warps(dst, src, num_bytes):
    if lane_index() < 32:
        group.copy_warp(dst, src, num_bytes)


def copies_of_blocks(dst, src, num_bytes):
    if lane_index() < num_block_lanes():
        group.copy_block(dst, src, num_bytes)


COPIES = {"thread": copies_of_threads, "warp": copies_of_warps, "block": copies_of_blocks}


@device_function
def narrow(base, num_rounds, lane):
    """Lane 0 writes a word and says so, lane 1 looks and answers, by accesses of a scope that is narrower than all."""
    wrong = 0
    i = 1
    while i <= num_rounds:
        if lane == 0:
            store_i64(base, DST, i)
            tell(base, SIGNAL, i)
            while hear(base, ANSWER) != i:
                pause()
        else:
            while hear(base, SIGNAL) != i:
                pause()
            if load_i64(base, DST) != i:
                wrong += 1
            tell(base, ANSWER, i)
        i += 1
    if lane == 1:
        store_i64(base, WRONG, wrong)


tell = hear = meet
narrow_gpu = variant(narrow, "narrow_gpu", tell=store_release_i64_gpu, hear=load_acquire_i64_gpu)
narrow_cta = variant(narrow, "narrow_cta", tell=store_release_i64_cta, hear=load_acquire_i64_cta)


def scope_of_a_gpu(base, num_rounds):
    narrow_gpu(base, num_rounds, lane_index())


def scope_of_a_block(base, num_rounds):
    narrow_cta(base, num_rounds, lane_index())
