"""The words of a heap's records: of an arena, a magazine, a block and a record.

An *arena* manages one address range [base, base + num_bytes) and never touches it, so that the range may
be memory that no CPU can reach. All that it knows stands in shared metadata at the address `arena`:

    header      bases of the tables below, the lock, hints
    blocks      a word a 2 MiB block: kind, cache attribute, line size                      (truth)
    directory   a word a block: where its directory words are; 0 while it has none          (truth)
    spans       a word a 64 KiB span: whether a slab has it, of which size class            (truth)
    records     two words a slot, by slot number: state, owner, generation; size            (truth)
    holders     one bit a rank for each slot that more than one rank refers to              (truth)
    free spans, slabs, slot bits, bitmaps    what is free where                             (derived)

**Truth** changes by single stores, ordered so that a rank may die between any two of them; everything
**derived**, magazines included, is computed again from truth when a dead rank held the lock or blocks
(recover.py). Records, holders and slot bits are sparse: only pages of slots in use are backed.

A block is free, part of a large allocation, or cut into 32 spans. A *slab* is 1 to 32 spans in a row, a
power of two and aligned to it, cut into equal *slots* of a size class; a slot is what one allocation
gets. A large allocation is slot 0 of its first span. A slot's number is
`first span of the slab << SLOT_LOG2 | slot`.

A *magazine* is a thread's stock of free slots, in the metadata segment of its rank: alloc pops and free
pushes without the lock. All constants of tables are word indices (int64) unless they say bytes.
"""

from __future__ import annotations

from ..page.control import MAX_RANKS

# --- geometry
BLOCK_LOG2 = 21  # a huge page, and a multiple of every block of the striped window
BLOCK_BYTES = 1 << BLOCK_LOG2
SPAN_LOG2 = 16  # small enough that a slab of every size class fits into a small segment
SPAN_BYTES = 1 << SPAN_LOG2
SPANS_LOG2 = BLOCK_LOG2 - SPAN_LOG2
SPANS_PER_BLOCK = 1 << SPANS_LOG2
GRANULE_LOG2 = 6  # slots start at cache lines and are whole lines long
GRANULE_BYTES = 1 << GRANULE_LOG2
SLOT_LOG2 = SPAN_LOG2 - GRANULE_LOG2  # bits that number the slots of a slab
SLOTS_PER_SPAN = 1 << SLOT_LOG2
SPAN_SLOT_MASK = SLOTS_PER_SPAN - 1
NUM_CLASSES = 52  # 64, 128, 192, 256, then 4 a power of two up to MAX_SLOT_BYTES; see classes.py
MAX_SLOT_BYTES = 1 << 20
MAX_ALIGNMENT = BLOCK_BYTES
NUM_ATTRIBUTES = 4  # cache attributes: 0 = none, the others belong to coherence

# --- block word: kind | attribute << 3 | line_log2 << 6 | argument << 32
BLOCK_FREE, BLOCK_CUT, BLOCK_LARGE, BLOCK_CONTINUED = 0, 1, 2, 3
KIND_MASK = 7
POOL_ATTRIBUTE_SHIFT, POOL_ATTRIBUTE_MASK = 3, 7
POOL_LINE_SHIFT, POOL_LINE_MASK = 6, 15
ARGUMENT_SHIFT = 32  # large: its blocks; continued: its first block

# --- span word: kind | attribute << 3 | line_log2 << 6 | class << 10 | place << 16 | reciprocal << 32
SPAN_FREE, SPAN_SLAB = 0, 1
CLASS_SHIFT, CLASS_MASK = 10, 63
PLACE_SHIFT, PLACE_MASK = 16, SPANS_PER_BLOCK - 1  # spans of the slab before this one
POOL_MASK = KIND_MASK | POOL_ATTRIBUTE_MASK << POOL_ATTRIBUTE_SHIFT | POOL_LINE_MASK << POOL_LINE_SHIFT

# --- record, word 0: state | shared << 2 | owner << 3 | generation << 32
RECORD_BYTES = 16
RECORD_STATE, RECORD_SIZE = 0, 1  # word 1: bytes that the caller asked for
SLOT_FREE, SLOT_CACHED, SLOT_LIVE = 0, 1, 2  # in the core; in a magazine of `owner`; allocated by `owner`
RECORD_STATE_MASK = 3
RECORD_SHARED = 4  # other ranks than the owner may hold it: their bits are in `holders`
RECORD_OWNER_SHIFT, RECORD_OWNER_MASK = 3, (1 << 13) - 1  # rank + 1
GENERATION_SHIFT = 32  # grows with every allocation at an address, modulo 2**32
GENERATION_HALF = 1 << 31  # of two generations the later one is less than this ahead
GENERATION_LOW = (1 << 32) - 1
GENERATION_ONE = 1 << GENERATION_SHIFT
GENERATION_MASK = -GENERATION_ONE
WORLD_OWNER = RECORD_OWNER_MASK  # owner of what belongs to all ranks: never reclaimed

# --- slab row: 4 words a span, used for the first span of a slab, changed under the lock only
SLAB_USED = 0  # slots that are not free
SLAB_TOUCHED = 1  # slots from here on have been free since the slab was made
SLAB_HINT = 2  # no word of slot bits below this one has a bit
SLAB_SLOTS = 3  # slots in all
SLAB_WORDS = 4
SLOT_BIT_WORDS = SLOTS_PER_SPAN // 32  # u32 words a span: see bitmap.py

# --- arena header
ARENA_MAGIC_VALUE = 0x756D_656D_0A01
ARENA_MAGIC = 0
ARENA_BASE = 1
ARENA_NUM_BLOCKS = 2
ARENA_HOLDER_WORDS = 3  # u32 words of `holders` a slot
ARENA_BLOCKS = 4  # addresses of the tables
ARENA_DIRECTORY = 5
ARENA_SPANS = 6
ARENA_FREE_SPANS = 7  # a u32 a block that is cut: one bit a span
ARENA_SLABS = 8
ARENA_SLOT_BITS = 9
ARENA_RECORDS = 10
ARENA_HOLDERS = 11
ARENA_BITMAPS = 12
ARENA_BITMAP_WORDS = 13  # u32 words of one bitmap over the blocks
ARENA_LOCK = 16  # 0, or its holder (see lock.py); a line of its own
ARENA_NUM_BREAKS = 24  # locks taken from dead ranks
ARENA_NUM_FREE = 25  # free blocks
ARENA_SCRATCH = 26  # four words for the holder of the lock
ARENA_GENERATION = 30  # the latest of slabs that have gone: slots that take their place begin behind it
ARENA_HINTS = 32  # a word a bitmap: no word below this one has a bit
FREE_BLOCKS = 0  # the bitmap of free blocks; the others: see bitmap.py
NUM_OPEN = NUM_ATTRIBUTES * SPANS_LOG2  # cut blocks with room for a slab, by attribute and size
NUM_BITMAPS = 1 + NUM_OPEN + NUM_ATTRIBUTES * NUM_CLASSES
ARENA_RECLAIMED = ARENA_HINTS + NUM_BITMAPS  # MAX_RANKS bits: dead ranks whose slots have been taken back
ARENA_HEADER_BYTES = 4096
assert (ARENA_RECLAIMED + MAX_RANKS // 64) * 8 <= ARENA_HEADER_BYTES

# --- magazine
MAGAZINE_HOLDER = 0  # what its thread writes into a lock; 0: not in use
MAGAZINE_THREAD = 1  # the one thread that may use it
MAGAZINE_ARENA = 2
MAGAZINE_BASE = 3  # copies of the arena's constants, so that the fast path reads one line
MAGAZINE_NUM_BYTES = 4
MAGAZINE_SPANS = 5
MAGAZINE_RECORDS = 6
MAGAZINE_POOL = 7  # POOL_MASK bits of the spans whose slots it may hold
MAGAZINE_LIVE = 8  # record bits of what it hands out, and of what it holds
MAGAZINE_CACHED = 9
MAGAZINE_NUM_REFILLS = 10
MAGAZINE_NUM_FLUSHES = 11
MAGAZINE_NUM_GROWTHS = 12
MAGAZINE_SPARE = 13  # bytes by which its rows may still grow
MAGAZINE_COUNTS = 16  # a word a class: entries in its row
MAGAZINE_LIMITS = MAGAZINE_COUNTS + NUM_CLASSES  # a word a class: most entries in its row
MAGAZINE_ROWS = 128
MAGAZINE_ROW_LOG2 = 6
MAGAZINE_ROW_ENTRIES = 1 << MAGAZINE_ROW_LOG2
MAGAZINE_BYTES = 28 << 10
MAX_STOCK_BYTES = 256 << 10  # of one class in one magazine, at first: bounds what others cannot get
MAX_GROWTH_BYTES = 64 << 20  # of all rows of a magazine together, beyond that
assert MAGAZINE_LIMITS + NUM_CLASSES <= MAGAZINE_ROWS
assert (MAGAZINE_ROWS + NUM_CLASSES * MAGAZINE_ROW_ENTRIES) * 8 <= MAGAZINE_BYTES

# --- entry of a row: granule inside the slab | slot number << 15
ENTRY_NUMBER_SHIFT = BLOCK_LOG2 - GRANULE_LOG2
ENTRY_GRANULE_MASK = (1 << ENTRY_NUMBER_SHIFT) - 1
