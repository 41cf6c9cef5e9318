"""The least that an access to a copy comes to: the same loads, stores and atomic steps on as many lines, in the same
order, with nothing to look up and nobody to wait for. What a rank needs beyond that is the price of the protocol.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from umem.kernels.coherence_layout import (
    FILLING,
    INVALID,
    MODIFIED,
    PINNED,
    SHARED_COPY,
    STATE_BITS,
    STATE_MASK,
)
from umem.kernels.compile import cpu_kernel, device_function
from umem.kernels.line_cache import in_state
from umem.kernels.line_ranges import copy_line
from umem.kernels.ops import compare_swap_i64, load_acquire_i64, load_i64, store_release_i64
from umem.kernels.status import OK
from umem.space import Space

from ..stats import Samples
from .base import SpacePart
from .coherence_loops import GROUP

LINE, LINE_WORDS = 128, 16
VICTIM_STEP = 7  # odd: a walk through the slots that meets each, and not in the order of lines
LOCKED = 1
_EACH = "UniTuple(int64, 2)(int64, int64, int64, int64, int64, int64, int64)"


@cpu_kernel(_EACH, group=GROUP)
def load_each(tags, copies, directory, home, mask, first, last):
    """Load a word of line i & mask, whose slot is known, between two looks at its tag: (accesses, their sum)."""
    total, done, i = 0, 0, first
    while i < last:
        slot = i & mask
        tag = load_acquire_i64(tags, slot)
        if tag == slot << STATE_BITS | MODIFIED:
            value = load_acquire_i64(copies, slot * LINE_WORDS)
            if load_acquire_i64(tags, slot) == tag:
                total += value
                done += 1
        i += 1
    return done, total


@device_function
def pin(tags, slot, tag):
    """True once the slot of `tag` is PINNED."""
    return compare_swap_i64(tags, slot, tag, in_state(tag, PINNED)) == tag


@cpu_kernel(_EACH, group=GROUP)
def store_each(tags, copies, directory, home, mask, first, last):
    """Store i there, the slot pinned meanwhile: (accesses, 0)."""
    done, i = 0, first
    while i < last:
        slot = i & mask
        tag = load_acquire_i64(tags, slot)
        if tag == slot << STATE_BITS | MODIFIED and pin(tags, slot, tag):
            store_release_i64(copies, slot * LINE_WORDS, i)
            store_release_i64(tags, slot, tag)
            done += 1
        i += 1
    return done, 0


@cpu_kernel(_EACH, group=GROUP)
def add_each(tags, copies, directory, home, mask, first, last):
    """Add 1 there, the slot pinned meanwhile: (accesses, 0)."""
    done, i = 0, first
    while i < last:
        slot = i & mask
        tag = load_acquire_i64(tags, slot)
        if tag == slot << STATE_BITS | MODIFIED and pin(tags, slot, tag):
            store_release_i64(copies, slot * LINE_WORDS, load_i64(copies, slot * LINE_WORDS) + 1)
            store_release_i64(tags, slot, tag)
            done += 1
        i += 1
    return done, 0


@device_function
def lock(directory, line):
    """(True, its word) once the line is locked."""
    seen = load_acquire_i64(directory, line)
    return compare_swap_i64(directory, line, seen, seen | LOCKED) == seen, seen


@device_function
def fill(tags, copies, directory, home, line, slot, state):
    """Claim `slot`, lock the line, copy it, and let both go: 1, or 0 where something stands in the way."""
    tag = load_acquire_i64(tags, slot)
    if compare_swap_i64(tags, slot, tag, line << STATE_BITS | FILLING) != tag:
        return 0
    is_locked, word = lock(directory, line)
    if not is_locked:
        return 0
    copy_line(copies + slot * LINE, home + line * LINE, LINE)
    store_release_i64(tags, slot, line << STATE_BITS | state)
    store_release_i64(directory, line, word)
    return 1


@cpu_kernel(_EACH, group=GROUP)
def read_each(tags, copies, directory, home, mask, first, last):
    """Bring line i & mask into a slot and load a word of it: (accesses, their sum)."""
    total, done, i = 0, 0, first
    while i < last:
        line, slot = i & mask, i * VICTIM_STEP & (mask >> 2)
        done += fill(tags, copies, directory, home, line, slot, SHARED_COPY)
        total += load_acquire_i64(copies, slot * LINE_WORDS)
        i += 1
    return done, total


@cpu_kernel(_EACH, group=GROUP)
def write_each(tags, copies, directory, home, mask, first, last):
    """Give back the line of a slot, bring another one into it, and store to it: (accesses, 0)."""
    done, i = 0, first
    while i < last:
        line, slot = i & mask, i * VICTIM_STEP & (mask >> 2)
        tag = load_acquire_i64(tags, slot)
        victim = tag >> STATE_BITS
        is_locked, word = lock(directory, victim)
        if is_locked and compare_swap_i64(tags, slot, tag, in_state(tag, FILLING)) == tag:
            copy_line(home + victim * LINE, copies + slot * LINE, LINE)
            store_release_i64(tags, slot, in_state(tag, INVALID))
            store_release_i64(directory, victim, word)
            done += fill(tags, copies, directory, home, line, slot, MODIFIED)
            tag = load_acquire_i64(tags, slot)
            if pin(tags, slot, tag):
                store_release_i64(copies, slot * LINE_WORDS, i)
                store_release_i64(tags, slot, tag)
        i += 1
    return done, 0


class Least(SpacePart):
    """By rank 0, in memory of its own: `num_lines` lines at home, and slots for all of them, or for a quarter."""

    def __init__(self, space: Space, num_lines: int, num_accesses: int):
        super().__init__(space)
        self.num_lines, self.num_accesses = num_lines, num_accesses
        room = np.zeros((2 * num_lines + 1) * (LINE_WORDS + 1), np.int64)
        aligned = room[-room.ctypes.data % LINE // 8 :]
        self.home, self.copies = (
            aligned[i * num_lines * LINE_WORDS :][: num_lines * LINE_WORDS] for i in (0, 1)
        )
        self.tags, self.directory = (
            aligned[2 * num_lines * LINE_WORDS + i * num_lines :][:num_lines] for i in (0, 1)
        )
        self.tags[:] = np.arange(num_lines) << STATE_BITS | MODIFIED
        self.at = 0

    def load(self, num_samples: int) -> Samples | None:
        """Loads of copies."""
        return self._each(num_samples, load_each)

    def store(self, num_samples: int) -> Samples | None:
        """Stores to owned copies."""
        samples = self._each(num_samples, store_each)
        last = np.arange(self.at - self.num_lines, self.at)
        self.expect(samples is None or bool((self.copies[::LINE_WORDS] == last).all()))
        return samples

    def fetch_add(self, num_samples: int) -> Samples | None:
        """Additions to owned copies."""
        before = int(self.copies[::LINE_WORDS].sum())
        samples = self._each(num_samples, add_each)
        done = 0 if samples is None else num_samples * self.num_accesses
        self.expect(int(self.copies[::LINE_WORDS].sum()) == before + done)
        return samples

    def read(self, num_samples: int) -> Samples | None:
        """Read misses, each with an eviction."""
        return self._each(num_samples, read_each)

    def write(self, num_samples: int) -> Samples | None:
        """Write misses, each with an eviction and a line given back."""
        return self._each(num_samples, write_each)

    def _each(self, num_samples: int, loop: Any) -> Samples | None:
        places = [part.ctypes.data for part in (self.tags, self.copies, self.directory, self.home)]

        def run() -> int:
            first, self.at = self.at, self.at + self.num_accesses
            done, _ = loop(*places, self.num_lines - 1, first, self.at)
            self.expect(done == self.num_accesses and not (self.tags & STATE_MASK == PINNED).any())
            return OK

        return self.alone(num_samples, self.num_accesses, run)
