"""PTX with one ordering taken away, under weak memory: the kernel's own check must see it, and nothing before."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gpu_kernels
import group_kernels
import message_kernels
import numpy as np
from arena import MIB, Arena, arena, options
from kernel_steps import NUM_RANKS, write_pages
from message_kernels import WRONG
from ordering_changes import CHANGES, EVERY
from page_kernels import COMPLETED, barrier_of_blocks, signals_of_blocks
from page_kernels import WRONG as SIGNALS_WRONG
from ptx_text import ptx_of

from umem.memory.device.cuda import CudaDevice
from umem.memory.device.cuda_run import synchronize

SEEDS = range(1, 65)  # the first that shows it ends the search: the rarest shows with one seed in five
CONTROL_SEEDS = range(1, 4)
NUM_MESSAGES = 300
NUM_INSTANCES = 400
NUM_PAIRS = 4


@dataclass(frozen=True)
class Subject:
    """A kernel that counts what went wrong: `violations` runs it from the PTX that it is given."""

    body: Callable[..., Any]
    num_arguments: int
    violations: Callable[[Arena, str, str], int]


def lost_under_lock(gpu: Arena, text: str, entry: str) -> int:
    gpu.clear()
    gpu.run_ptx(text, entry, gpu[0], 50, blocks=16, threads=1)
    return int(16 * 50 - gpu.words(gpu[0], gpu_kernels.COUNT + 1)[gpu_kernels.COUNT])


def forbidden_ends(name: str) -> Callable[[Arena, str, str], int]:
    test = gpu_kernels.LITMUS[name]

    def violations(gpu: Arena, text: str, entry: str) -> int:
        gpu.clear()
        x, y, out = (gpu[n] for n in range(3))
        meetings = out + MIB
        gpu.run_ptx(text, entry, x, y, out, meetings, -1, NUM_INSTANCES, blocks=2 * NUM_PAIRS, threads=1)
        r0, r1 = gpu.words(out, 2 * NUM_PAIRS * NUM_INSTANCES).reshape(2, -1)
        return int(((2 * r0 + r1 if test.is_of_both else r1) == test.forbidden).sum())

    return violations


def wrong_messages(gpu: Arena, text: str, entry: str) -> int:
    gpu.clear()
    gpu.run_ptx(text, entry, gpu[0], NUM_MESSAGES, blocks=2, threads=1)
    return int(gpu.words(gpu[0], WRONG + 1)[WRONG])


def wrong_between_devices(gpu: Arena, text: str, entry: str) -> int:
    """The data, flag and answer on the first device, lane 1 on the second."""
    gpu.clear()
    peer = Arena.of_peer(CudaDevice(1), gpu)
    peer.start_ptx(text, entry, peer[0], NUM_MESSAGES, 1, blocks=1, threads=1)
    gpu.run_ptx(text, entry, gpu[0], NUM_MESSAGES, 0, blocks=1, threads=1)
    synchronize(peer.gpu, timeout_s=20)
    peer.close()
    peer.gpu.close()
    return int(gpu.words(gpu[0], WRONG + 1)[WRONG])


def wrong_signals(gpu: Arena, text: str, entry: str) -> int:
    write_pages(gpu, 1)
    gpu.run_ptx(text, entry, gpu[0], gpu[1], NUM_MESSAGES, blocks=2, threads=1)
    words = gpu.words(gpu[1], COMPLETED + 1)
    assert words[COMPLETED] == NUM_MESSAGES
    return int(words[SIGNALS_WRONG])


def wrong_after_barrier(gpu: Arena, text: str, entry: str) -> int:
    write_pages(gpu, NUM_RANKS)
    gpu.run_ptx(text, entry, gpu[0], gpu[1], 40, blocks=NUM_RANKS, threads=1)
    return int(np.sum(gpu.words(gpu[1], 2 * NUM_RANKS * 16)[::16][NUM_RANKS:]))


def message(name: str) -> Subject:
    return Subject(getattr(message_kernels, name), 2, wrong_messages)


def litmus(name: str) -> Subject:
    return Subject(gpu_kernels.LITMUS[name].kernel.entry, 6, forbidden_ends(name))


NUM_GROUPS = 3


def wrong_between_groups(threads: int, blocks: int = 2) -> Callable[[Arena, str, str], int]:
    def violations(gpu: Arena, text: str, entry: str) -> int:
        gpu.clear()
        gpu.run_ptx(text, entry, gpu[0], 40, blocks=blocks, threads=threads)
        return int(gpu.words(gpu[0], group_kernels.WRONG + 1)[group_kernels.WRONG])

    return violations


def wrong_after_group_barrier(gpu: Arena, text: str, entry: str) -> int:
    gpu.clear()
    gpu.run_ptx(text, entry, gpu[0], gpu[1], 300, 0, NUM_GROUPS, blocks=NUM_GROUPS, threads=5)
    return int(gpu.words(gpu[0], group_kernels.WRONG + 1)[group_kernels.WRONG])


SUBJECTS = {
    "lock": Subject(gpu_kernels.LOCK.entry, 2, lost_under_lock),
    "MP": litmus("MP"),
    "SB": litmus("SB"),
    "flag": message("messages_by_flag"),
    "fence": message("messages_by_fence"),
    "count": message("messages_by_count"),
    "copy": message("messages_by_copy"),
    "devices": Subject(message_kernels.messages_of_role, 3, wrong_between_devices),
    "signals": Subject(signals_of_blocks, 3, wrong_signals),
    "barrier": Subject(barrier_of_blocks, 3, wrong_after_barrier),
    "scope gpu": Subject(group_kernels.scope_of_a_gpu, 2, wrong_between_groups(1)),
    "scope cta": Subject(group_kernels.scope_of_a_block, 2, wrong_between_groups(2, blocks=1)),
    "put thread": Subject(group_kernels.puts_of_threads, 2, wrong_between_groups(1)),
    "put warp": Subject(group_kernels.puts_of_warps, 2, wrong_between_groups(24)),
    "put block": Subject(group_kernels.puts_of_blocks, 2, wrong_between_groups(40)),
    "group barrier": Subject(group_kernels.groups_meet, 5, wrong_after_group_barrier),
}


def changed(text: str, pattern: str, replacement: str, which: int | None) -> str:
    """`text` with the change. AssertionError where the pattern is nowhere."""
    places = list(re.finditer(pattern, text))
    assert places, f"no {pattern} in the PTX"
    for place in reversed(places) if which is EVERY else [places[which]]:
        text = text[: place.start()] + place.expand(replacement) + text[place.end() :]
    return text


def first_seen(gpu: Arena, subject: Subject, text: str, entry: str) -> tuple[int, int]:
    """(seed, violations) of the first run that shows something; (0, 0) where none does."""
    for seed in SEEDS:
        os.environ["FAKE_CUDA_SEED"] = str(seed)
        wrong = subject.violations(gpu, text, entry)
        if wrong:
            return seed, wrong
    return 0, 0


def wrong_under_seeds(gpu: Arena, subject: Subject, seeds: range) -> int:
    text, entry = ptx_of(subject.body, subject.num_arguments)
    wrong = 0
    for seed in seeds:
        os.environ["FAKE_CUDA_SEED"] = str(seed)
        wrong += subject.violations(gpu, text, entry)
    return wrong


def run_seeds() -> None:
    """Print a line a subject, as it is shipped: many seeds, one worker and several, switched often and seldom."""
    seeds = range(100, 100 + int(os.environ["FAKE_CUDA_SEEDS"]))
    for workers, switch in ((1, 1), (1, 30), (4, 5)):
        shape = {"FAKE_CUDA_WORKERS": workers, "FAKE_CUDA_SWITCH": switch}
        with options(FAKE_CUDA_WEAK=1, FAKE_CUDA_SEED=1, **shape), arena() as gpu:
            for name, subject in SUBJECTS.items():
                wrong = wrong_under_seeds(gpu, subject, seeds)
                print(f"{name}, {workers} workers, switched after {switch}: {wrong} wrong", flush=True)


def run_all() -> None:
    """Print a line a subject, unchanged under several seeds, and a line a change."""
    one_worker = {"FAKE_CUDA_WORKERS": 1}  # so that a seed repeats its run, and no core is waited for
    with options(FAKE_CUDA_WEAK=1, FAKE_CUDA_SWITCH=3, FAKE_CUDA_SEED=1, **one_worker), arena() as gpu:
        for name, subject in SUBJECTS.items():
            print(f"control {name}: {wrong_under_seeds(gpu, subject, CONTROL_SEEDS)} wrong", flush=True)
        for name, (of, *change) in CHANGES.items():
            subject = SUBJECTS[of]
            text, entry = ptx_of(subject.body, subject.num_arguments)
            seed, wrong = first_seen(gpu, subject, changed(text, *change), entry)
            print(
                f"change {name}: {'seen' if wrong else 'not seen'}, {wrong} wrong with seed {seed}",
                flush=True,
            )
