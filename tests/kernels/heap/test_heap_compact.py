"""Fragmentation is bounded: what long random runs hold, against what was asked for, and how whole the rest is."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

import pytest

from tests.kernels.heap.heap_memory import HeapMemory
from umem.kernels import status
from umem.kernels.heap.layout import BLOCK_BYTES
from umem.kernels.heap.usage import USAGE_FREE_BLOCKS, USAGE_LONGEST_RUN

NUM_BLOCKS = 256
NUM_SAMPLES = 100
MIXES = {"up to 8K": (6, 13), "up to 256K": (6, 18), "up to 2M": (6, 21), "4K to 4M": (12, 22)}


@dataclass(frozen=True)
class Sample:
    """One moment of a run."""

    overhead: float  # bytes in blocks that are not wholly free, over bytes asked for
    wholeness: float  # the longest free piece, over all free blocks


def run(octaves: tuple[int, int], num_steps: int, load: float = 0.5) -> list[Sample]:
    """Fill `load` of the arena with blocks of log-uniform sizes, free and allocate at random, then free all."""
    memory, rng = HeapMemory(NUM_BLOCKS), random.Random(2)
    live: list[tuple[int, int]] = []
    samples: list[Sample] = []
    asked, step, is_filled = 0, 0, False
    while step < num_steps:
        is_filled = is_filled or asked > load * memory.num_bytes
        step += is_filled
        if asked > load * memory.num_bytes or (is_filled and rng.random() < 0.45):
            index = rng.randrange(len(live))
            live[index], live[-1] = live[-1], live[index]
            address, num_bytes = live.pop()
            assert memory.free(0, address) == status.OK
            asked -= num_bytes
        else:
            octave = rng.randrange(*octaves)
            num_bytes = rng.randrange(1 << octave, 2 << octave)
            address = memory.alloc(0, num_bytes)
            assert address > 0, f"no room for {num_bytes} with {asked / memory.num_bytes:.0%} asked for"
            live.append((address, num_bytes))
            asked += num_bytes
        if is_filled and step % (num_steps // NUM_SAMPLES) == 0:
            words, _ = memory.usage()
            free = words[USAGE_FREE_BLOCKS]
            used_bytes = (NUM_BLOCKS - free) * BLOCK_BYTES
            samples.append(Sample(used_bytes / asked, words[USAGE_LONGEST_RUN] / free))
    memory.check()
    for address, _ in live:
        memory.free(0, address)
    memory.flush(0)
    assert memory.usage()[0][USAGE_LONGEST_RUN] == NUM_BLOCKS, "all is one piece again"
    return samples


def judge(mix: str, num_steps: int) -> None:
    samples = run(MIXES[mix], num_steps)
    overheads = [sample.overhead for sample in samples]
    wholeness = [sample.wholeness for sample in samples]
    print(
        f"{mix}, {num_steps} steps: held / asked {statistics.median(overheads):.2f}, worst {max(overheads):.2f};"
        f" longest piece / free {statistics.median(wholeness):.2f}, worst {min(wholeness):.2f}"
    )
    assert max(overheads) < 1.6
    assert statistics.median(wholeness) > 0.5 and min(wholeness) > 0.2
    early, late = overheads[: len(overheads) // 2], overheads[len(overheads) // 2 :]
    assert statistics.median(late) < 1.1 * statistics.median(early), "it creeps"


@pytest.mark.parametrize("mix", MIXES)
def test_a_random_run_stays_compact(mix):
    judge(mix, 100_000)


@pytest.mark.soak
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.timeout(3600)
def test_a_long_random_run_stays_compact(mix, soak_factor):
    judge(mix, 1_000_000 * soak_factor)
