"""Size classes: which slot size serves a request, as arithmetic without tables.

Slots are whole granules of 64 B: 1, 2, 3, 4 granules, then four sizes a power of two (5, 6, 7, 8, 10, 12,
14, 16, 20, ...) up to 1 MiB, so a request wastes at most a fifth of its slot above 256 B.

`reciprocal` turns the division by a slot size into a multiplication: with g < 2**15 granules into a slab
and u <= 2**14 granules a slot, g * ceil(2**30 / u) >> 30 == g // u exactly, and the 30 bits below tell
whether g is a multiple of u: they are at most g // u * (u - 1) < 2**15 if it is, and at least
ceil(2**30 / u) >= 2**16 if it is not (T. Granlund, P. Montgomery, Division by invariant integers, 1994).
"""

from __future__ import annotations

from ..build.compile import device_function
from ..intrinsics.system import count_leading_zeros_u64
from .layout import GRANULE_LOG2, MAX_SLOT_BYTES, SLOT_LOG2, SPANS_LOG2

RECIPROCAL_BITS = 30
REMAINDER_MASK = (1 << RECIPROCAL_BITS) - 1


@device_function
def class_of(num_bytes):
    """Smallest class whose slots hold `num_bytes`, which is 1 to MAX_SLOT_BYTES."""
    last = (num_bytes - 1) >> GRANULE_LOG2  # granules less 1
    # 4 <= last >> octave < 8, and octave is 0 below that: without a branch, which would often be missed.
    octave = 61 - count_leading_zeros_u64(last | 4)
    return (octave << 2) + (last >> octave)


@device_function
def class_granules(size_class):
    """Granules of a slot of `size_class`."""
    if size_class < 4:
        return size_class + 1
    return (5 + (size_class & 3)) << ((size_class >> 2) - 1)


@device_function
def class_order(size_class):
    """log2 of the spans of a slab of this class: 8 slots or more up to 64 KiB, 4 above, 2 above 512 KiB.

    More slots would waste less at the end of the slab, and leave more unused in a class that is rare.
    """
    last = class_granules(size_class) - 1
    order = 64 - count_leading_zeros_u64(last) + (3 if last < 1 << SLOT_LOG2 else 2) - SLOT_LOG2
    if order < 0:
        return 0
    return order if order < SPANS_LOG2 else SPANS_LOG2


@device_function
def class_slots(size_class):
    """Slots that a slab of this class is cut into."""
    return (1 << (SLOT_LOG2 + class_order(size_class))) // class_granules(size_class)


@device_function
def reciprocal(size_class):
    """ceil(2**30 / granules of a slot): what a block word carries instead of the slot size."""
    granules = class_granules(size_class)
    return ((1 << RECIPROCAL_BITS) + granules - 1) // granules


@device_function
def aligned_class(num_bytes, align):
    """Smallest class that holds `num_bytes` in slots that are multiples of `align`; -1 where none does.

    Slabs are aligned to their size, so a slot is as aligned as its own. `align` is a power of two.
    """
    if num_bytes < align:
        num_bytes = align
    if num_bytes > MAX_SLOT_BYTES:
        return -1
    size_class = class_of(num_bytes)
    while (class_granules(size_class) << GRANULE_LOG2) & (align - 1):
        size_class += 1  # ends at a power of two, at most four classes on
    return size_class
