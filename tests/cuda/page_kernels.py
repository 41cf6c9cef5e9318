"""Kernels for the tests around the signals and the barrier that umem ships for CUDA: each block plays a rank."""

from __future__ import annotations

from umem.kernels import lane_index, load_i64, num_lanes, store_i64
from umem.kernels.page.barrier import cuda_barrier
from umem.kernels.page.signal import CUDA

post, wait_signal = CUDA.post, CUDA.wait_signal
LINE_WORDS = 16
SLICE_NS = 20_000_000_000  # longer than a test waits: what does not come in it ends the loop as wrong
ASK, ANSWER, DATA = 0, 16, 32  # words of `out`
WRONG, COMPLETED = 512, 513


def signals_of_blocks(control, out, num_rounds):
    """Lane 0 writes a word and posts, lane 1 waits, compares, answers; out[WRONG] counts what it did not see."""
    wrong = 0
    i = 1
    while i <= num_rounds:
        if lane_index() == 0:
            store_i64(out, DATA, i)
            post(out + 8 * ASK, i)
            if wait_signal(control, out + 8 * ANSWER, i, 0, 0, SLICE_NS) != 0:
                wrong += 1
        else:
            if wait_signal(control, out + 8 * ASK, i, 0, 0, SLICE_NS) != 0 or load_i64(out, DATA) != i:
                wrong += 1
            post(out + 8 * ANSWER, i)
        i += 1
    if lane_index() == 1:
        store_i64(out, WRONG, wrong)
        store_i64(out, COMPLETED, num_rounds)


def barrier_of_blocks(pages, out, num_rounds):
    """Every lane counts a round up, meets the others, and reads theirs; its second word counts what it did not see."""
    rank = lane_index()
    control = pages + (rank << 16)
    wrong = 0
    i = 1
    while i <= num_rounds:
        store_i64(out, rank * LINE_WORDS, i)
        if cuda_barrier(control, 0, 0, num_lanes(), rank, 0, SLICE_NS) != 0:
            wrong += 1
        other = 0
        while other < num_lanes():
            if load_i64(out, other * LINE_WORDS) != i:
                wrong += 1
            other += 1
        if cuda_barrier(control, 0, 0, num_lanes(), rank, 0, SLICE_NS) != 0:
            wrong += 1
        i += 1
    store_i64(out, (num_lanes() + rank) * LINE_WORDS, wrong)
