"""The bare steps of an access to a copy: the same loads, stores and atomics on as many lines, in the same order,
without look-ups and without another rank to wait for. The time beyond them is the price of the protocol.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from umem.kernels.build.compile import cpu_kernel, device_function
from umem.kernels.coherent.cache import in_state
from umem.kernels.coherent.layout import (
    FILLING,
    INVALID,
    MODIFIED,
    PINNED,
    SHARED_COPY,
    TAG_STATE_BITS,
    TAG_STATE_MASK,
)
from umem.kernels.data.shared_copy import copy_line
from umem.kernels.intrinsics.scalar import compare_swap_i64, load_acquire_i64, load_i64, store_release_i64
from umem.kernels.status import OK
from umem.space.space import Space

from ..harness.stats import Samples
from .base import SpacePart
from .coherence_loops import COHERENCE_LOOPS

LINE_BYTES, LINE_WORDS = 128, 16
VICTIM_STEP = 7  # odd: a walk through the slots that meets each, and not in the order of lines
LOCKED = 1
_EACH = "UniTuple(int64, 2)(int64, int64, int64, int64, int64, int64, int64)"


@cpu_kernel(_EACH, group=COHERENCE_LOOPS)
def load_each(tags, copies, directory, home, mask, first, last):
    """Load a word of line i & mask for every i, between two loads of its tag: (number of accesses, sum of words)."""
    total, done, i = 0, 0, first
    while i < last:
        slot = i & mask
        tag = load_acquire_i64(tags, slot)
        if tag == slot << TAG_STATE_BITS | MODIFIED:
            value = load_acquire_i64(copies, slot * LINE_WORDS)
            if load_acquire_i64(tags, slot) == tag:
                total += value
                done += 1
        i += 1
    return done, total


@device_function
def pin(tags, slot, tag):
    """Try to set the slot of `tag` to PINNED; returns whether it was."""
    return compare_swap_i64(tags, slot, tag, in_state(tag, PINNED)) == tag


@cpu_kernel(_EACH, group=COHERENCE_LOOPS)
def store_each(tags, copies, directory, home, mask, first, last):
    """Store i to such a word for every i, the slot pinned meanwhile: (number of accesses, 0)."""
    done, i = 0, first
    while i < last:
        slot = i & mask
        tag = load_acquire_i64(tags, slot)
        if tag == slot << TAG_STATE_BITS | MODIFIED and pin(tags, slot, tag):
            store_release_i64(copies, slot * LINE_WORDS, i)
            store_release_i64(tags, slot, tag)
            done += 1
        i += 1
    return done, 0


@cpu_kernel(_EACH, group=COHERENCE_LOOPS)
def add_each(tags, copies, directory, home, mask, first, last):
    """Add 1 to such a word for every i, the slot pinned meanwhile: (number of accesses, 0)."""
    done, i = 0, first
    while i < last:
        slot = i & mask
        tag = load_acquire_i64(tags, slot)
        if tag == slot << TAG_STATE_BITS | MODIFIED and pin(tags, slot, tag):
            store_release_i64(copies, slot * LINE_WORDS, load_i64(copies, slot * LINE_WORDS) + 1)
            store_release_i64(tags, slot, tag)
            done += 1
        i += 1
    return done, 0


@device_function
def lock(directory, line):
    """Try to lock a line: (whether it was, its directory word)."""
    seen = load_acquire_i64(directory, line)
    return compare_swap_i64(directory, line, seen, seen | LOCKED) == seen, seen


@device_function
def fill(tags, copies, directory, home, line, slot, state):
    """Claim `slot`, lock the line, copy it, and release both: 1, or 0 where the slot or the line is taken."""
    tag = load_acquire_i64(tags, slot)
    if compare_swap_i64(tags, slot, tag, line << TAG_STATE_BITS | FILLING) != tag:
        return 0
    is_locked, word = lock(directory, line)
    if not is_locked:
        return 0
    copy_line(copies + slot * LINE_BYTES, home + line * LINE_BYTES, LINE_BYTES)
    store_release_i64(tags, slot, line << TAG_STATE_BITS | state)
    store_release_i64(directory, line, word)
    return 1


@cpu_kernel(_EACH, group=COHERENCE_LOOPS)
def read_each(tags, copies, directory, home, mask, first, last):
    """Copy line i & mask into a slot and load a word of it, for every i: (number of accesses, sum of the words)."""
    total, done, i = 0, 0, first
    while i < last:
        line, slot = i & mask, i * VICTIM_STEP & (mask >> 2)
        done += fill(tags, copies, directory, home, line, slot, SHARED_COPY)
        total += load_acquire_i64(copies, slot * LINE_WORDS)
        i += 1
    return done, total


@cpu_kernel(_EACH, group=COHERENCE_LOOPS)
def write_each(tags, copies, directory, home, mask, first, last):
    """Write back the line of a slot, copy another one into it, and store to it: (number of accesses, 0)."""
    done, i = 0, first
    while i < last:
        line, slot = i & mask, i * VICTIM_STEP & (mask >> 2)
        tag = load_acquire_i64(tags, slot)
        victim = tag >> TAG_STATE_BITS
        is_locked, word = lock(directory, victim)
        if is_locked and compare_swap_i64(tags, slot, tag, in_state(tag, FILLING)) == tag:
            copy_line(home + victim * LINE_BYTES, copies + slot * LINE_BYTES, LINE_BYTES)
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
    """By rank 0, in memory of its own: `num_lines` lines at home, and slots, of which misses use a quarter."""

    def __init__(self, space: Space, num_lines: int, num_accesses: int):
        super().__init__(space)
        self.num_lines, self.num_accesses = num_lines, num_accesses
        self.num_rounds, self.at = num_accesses // num_lines, 0
        room = np.zeros(2 * num_lines * (LINE_WORDS + 1) + LINE_WORDS, np.int64)
        aligned = room[-room.ctypes.data % LINE_BYTES // 8 :]
        ends = np.cumsum([num_lines * LINE_WORDS] * 2 + [num_lines] * 2)
        self.home, self.copies, self.tags, self.directory = np.split(aligned, ends)[:4]
        self.tags[:] = np.arange(num_lines) << TAG_STATE_BITS | MODIFIED
        self.home[::LINE_WORDS] = self.copies[::LINE_WORDS] = np.arange(num_lines)

    def load(self, num_samples: int) -> Samples | None:
        """Loads of copies."""
        return self._each(num_samples, load_each, int(self.copies.sum()) * self.num_rounds)

    def store(self, num_samples: int) -> Samples | None:
        """Stores to owned copies."""
        samples = self._each(num_samples, store_each, 0)
        self._expect_last(self.copies)
        return samples

    def fetch_add(self, num_samples: int) -> Samples | None:
        """Additions to owned copies."""
        before = int(self.copies.sum())
        samples = self._each(num_samples, add_each, 0)
        done = num_samples * self.num_accesses if self.is_timed else 0
        self.expect(int(self.copies.sum()) == before + done)
        return samples

    def read(self, num_samples: int) -> Samples | None:
        """Read misses, each with an eviction."""
        self._write_back()
        return self._each(num_samples, read_each, int(self.home.sum()) * self.num_rounds)

    def write(self, num_samples: int) -> Samples | None:
        """Write misses, each with an eviction and a line given back."""
        samples = self._each(num_samples, write_each, 0)
        self._write_back()
        self._expect_last(self.home)
        return samples

    def _each(self, num_samples: int, loop: Any, total: int) -> Samples | None:
        """Run a loop over all lines, `num_rounds` times a sample; each must do all, and come to `total`."""
        places = [part.ctypes.data for part in (self.tags, self.copies, self.directory, self.home)]
        found = []

        def walk() -> int:
            first, self.at = self.at, self.at + self.num_accesses
            found.append(tuple(loop(*places, self.num_lines - 1, first, self.at)))
            return OK

        samples = self.alone(num_samples, self.num_accesses, walk)
        self.expect(set(found) <= {(self.num_accesses, total)})
        return samples

    def _expect_last(self, lines: np.ndarray) -> None:
        """Each line must have what was stored to it last."""
        last = np.arange(self.at - self.num_lines, self.at)
        self.expect(not self.is_timed or bool((lines[::LINE_WORDS] == last).all()))

    def _write_back(self) -> None:
        """Owned copies go home, outside of all timing."""
        for slot in np.flatnonzero(self.tags[: self.num_lines // 4] & TAG_STATE_MASK == MODIFIED):
            line = int(self.tags[slot]) >> TAG_STATE_BITS
            self.home[line * LINE_WORDS] = self.copies[slot * LINE_WORDS]
