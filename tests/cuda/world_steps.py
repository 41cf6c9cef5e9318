"""Ranks of a umem world that each run a kernel on the driver, two a device: coherent additions to cached memory."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ptx_text import image, ptx_of

import umem
from umem.kernels import fetch_add_i64
from umem.kernels.coherent.typed import coherent_fetch_add_i64
from umem.kernels.page.control import CONTROL_REACH, REACH_KINDS

if TYPE_CHECKING:
    from umem.space import Space

NUM_RANKS, BLOCKS, THREADS, ROUNDS = 4, 2, 8, 200
NUM_WORDS, WORD_STRIDE = 8, 64
WORLD_S = 90.0
KERNEL_S = 40.0
CHANGES = {"unchanged": ("$^", ""), "relaxed": (r"st\.release", "st.relaxed")}


def add_coherently(cache, address, num_rounds, refusals):
    """Every lane adds 1 `num_rounds` times, to eight words of four lines in turn; `refusals` counts early tries."""
    i = 0
    while i < num_rounds:
        code, _ = coherent_fetch_add_i64(cache, address + (i % 8) * 64, 1)
        if code == 0:
            i += 1
        else:
            fetch_add_i64(refusals, 0, 1)


def rank_adds(space: Space, text: str, entry: str) -> int:
    """Run the kernel on this rank's device; the sum that this rank sees when all have ended."""
    from umem.memory.device.cuda import CudaDevice
    from umem.memory.device.cuda_run import Module, synchronize

    gpu = CudaDevice(space.rank % 2)
    words = space.shared("words", NUM_WORDS * WORD_STRIDE, "int64", home=1, cache="back", line=128)
    refusals = space.shared("refusals", 64, "int64", home=0)
    module = Module(gpu, image(text))
    # This driver's devices reach all that the process maps; a world of CPU ranks does not say so.
    space.page.words[CONTROL_REACH : CONTROL_REACH + NUM_RANKS] |= 0b111 << REACH_KINDS
    space.barrier(timeout_s=WORLD_S)
    module.launch(entry, [space.cache.address, words.address, ROUNDS, refusals.address], BLOCKS, THREADS)
    synchronize(gpu, timeout_s=KERNEL_S)
    space.barrier(timeout_s=WORLD_S)
    return sum(int(space.load(words.address + WORD_STRIDE * n, "int64")) for n in range(NUM_WORDS))


def run_all() -> None:
    """Print how many additions each rank misses: of the kernel as it is, and without the orderings of its stores."""
    text, entry = ptx_of(add_coherently, 4)
    for name, (pattern, replacement) in CHANGES.items():
        arguments = (re.sub(pattern, replacement, text), entry)
        sums = umem.launch(rank_adds, ranks=NUM_RANKS, args=arguments, results="all", timeout_s=WORLD_S)
        total = NUM_RANKS * BLOCKS * THREADS * ROUNDS
        print(name, *[total - seen for seen in sums], "of", total, "are missing", flush=True)
