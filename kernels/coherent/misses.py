"""Which lines a rank loses to others again and again, and which parts of them it uses: the data of the report.

A table of NUM_NOTED rows in the rank's own counters, written at misses only. Two lines of one row fight for it:
each miss of the other takes 1 from the count of the one that has it, and the row changes hands at 0 (the majority
vote of Boyer and Moore, a row of Misra and Gries 1982). So a line with more misses than all others of its row
together stays. Accesses that hit are not noted: they must cost nothing.
"""

from __future__ import annotations

from ..build.compile import device_function
from ..intrinsics.scalar import load_i64, load_relaxed_i64, store_relaxed_i64
from ..page.control import BASE
from . import layout as words

PARTS_LOG2 = 6  # a line has 64 parts: a bit each
WORD_BYTES = 8  # what a single access counts for: elements of one word are not told apart


@device_function
def parts_of(offset, num_bytes, line_log2):
    """A bit for each 64th of a line that the bytes from `offset` on touch."""
    shift = line_log2 - PARTS_LOG2
    first = offset >> shift
    num_parts = ((offset + num_bytes - 1) >> shift) - first + 1
    ones = -1 if num_parts == 1 << PARTS_LOG2 else (1 << num_parts) - 1
    return ones << first


@device_function
def row_of_line(cache, line):
    """Address of the row that `line` shares with others; only where something is counted."""
    number = (line ^ line >> words.NOTED_LOG2) & ((1 << words.NOTED_LOG2) - 1)
    return load_i64(cache, words.CACHE_COUNTERS) + (words.MISSES + number * words.NOTED_WORDS) * 8


@device_function
def note_loss(cache, address, line_log2, is_store):
    """Note that an access at `address` missed because of others, or that others must lose the line for it."""
    line = (address - BASE) >> line_log2
    row = row_of_line(cache, line)
    name = BASE + (line << line_log2) | line_log2
    count = load_relaxed_i64(row, words.NOTED_COUNT)
    if load_relaxed_i64(row, words.NOTED_LINE) != name:
        if count > 1:
            store_relaxed_i64(row, words.NOTED_COUNT, count - 1)
            return
        store_relaxed_i64(row, words.NOTED_LINE, name)
        store_relaxed_i64(row, words.NOTED_LOADS, 0)
        store_relaxed_i64(row, words.NOTED_STORES, 0)
        count = 0
    store_relaxed_i64(row, words.NOTED_COUNT, count + 1)
    offset = address & ((1 << line_log2) - 1) & -WORD_BYTES
    add_parts(row, parts_of(offset, WORD_BYTES, line_log2), is_store)


@device_function
def note_range(cache, address, num_bytes, line_log2, is_store):
    """Note all bytes of an access to a range in one line, behind its miss: where the line has a row."""
    if load_i64(cache, words.CACHE_COUNTERS) == 0:
        return
    line = (address - BASE) >> line_log2
    row = row_of_line(cache, line)
    if load_relaxed_i64(row, words.NOTED_LINE) == BASE + (line << line_log2) | line_log2:
        add_parts(row, parts_of(address & ((1 << line_log2) - 1), num_bytes, line_log2), is_store)


@device_function
def add_parts(row, parts, is_store):
    """Add to what the row's line is used for."""
    which = words.NOTED_STORES if is_store else words.NOTED_LOADS
    store_relaxed_i64(row, which, load_relaxed_i64(row, which) | parts)
