"""Blocks of 2 MiB as cached memory: saying so at the home, calling every copy home before it ends, lifting poison."""

from __future__ import annotations

from .. import status
from ..build.compile import cpu_kernel, device_function
from ..heap.layout import BLOCK_BYTES
from ..intrinsics.scalar import load_acquire_i64, load_i64, store_release_i64
from ..page.control import CONTROL_RANK, place_of
from . import layout as words
from .directory import block_value, block_word, cache_of, directory_word, line_state, lock_line, unlock_line
from .flits import forget
from .layout import LINE_LOG2_MASK, LINE_POISONED, WRITE_HOME
from .supply import make_home_ready

COHERENCE_KERNELS = "coherence"


@device_function
def mark(cache, home, address, value):
    """Have the block of `address` cached as `value`, a block word, says; 0 ends it. Its home is mapped."""
    control = load_i64(cache, words.CACHE_CONTROL)
    _, kind, offset = place_of(control, address)
    store_release_i64(block_word(cache_of(control, home), kind, offset), 0, value)
    forget(cache, address)


@device_function
def call_home(cache, home, block, first):
    """Make every line of the cached block at `block` LINE_UNCACHED, from its line number `first` on, poison lifted too.

    (code, line to go on from): OK with the number of lines; else as `make_home_ready`. Its home is mapped.
    """
    control = load_i64(cache, words.CACHE_CONTROL)
    home_cache = cache_of(control, home)
    value = block_value(control, home, block)
    line_log2 = value & LINE_LOG2_MASK
    line = first
    while line < BLOCK_BYTES >> line_log2:
        address = block + (line << line_log2)
        word = directory_word(control, home_cache, address, line_log2)
        seen = load_acquire_i64(word, 0)
        if line_state(seen) == LINE_POISONED:
            code = lift_poison(cache, home, address, line_log2)
            if code != status.OK:
                return code, line
        elif seen != 0:
            code, word, after = make_home_ready(cache, value, address, WRITE_HOME)
            if code != status.OK:
                return code, line
            if word == 0:
                continue
            unlock_line(word, after)
        line += 1
    return status.OK, line


@device_function
def lift_poison(cache, home, address, line_log2):
    """Let a poisoned line be used again: it holds what its home has; OK also where it was not poisoned."""
    control = load_i64(cache, words.CACHE_CONTROL)
    word = directory_word(control, cache_of(control, home), address, line_log2)
    code, value = lock_line(control, word, load_i64(control, CONTROL_RANK))
    if code == status.OK:
        unlock_line(word, 0 if line_state(value) == LINE_POISONED else value)
    return code


@cpu_kernel("int64(int64, int64, int64)", group=COHERENCE_KERNELS)
def look(cache, home, address):
    """See `block_value`."""
    return block_value(load_i64(cache, words.CACHE_CONTROL), home, address)


@cpu_kernel("void(int64, int64, int64, int64)", group=COHERENCE_KERNELS)
def mark_block(cache, home, address, value):
    """See `mark`."""
    mark(cache, home, address, value)


@cpu_kernel("UniTuple(int64, 2)(int64, int64, int64, int64)", group=COHERENCE_KERNELS)
def call_block_home(cache, home, block, first):
    """See `call_home`."""
    return call_home(cache, home, block, first)


@cpu_kernel("int64(int64, int64, int64, int64)", group=COHERENCE_KERNELS)
def lift(cache, home, address, line_log2):
    """See `lift_poison`."""
    return lift_poison(cache, home, address, line_log2)
