"""Words of software coherence: states, requests and actions of the protocol, and where they stand in bits.

    tag word        a slot of a rank's cache: state, line number, version
    directory word  a line at its home: lock, state, who holds copies
    row             one transition of the protocol's table (umem/coherence/protocol.py) as a word

    header          at the same place in every rank's metadata: where its tags, copies and directories are

A line number is the line's distance from the start of all addresses in lines: exact for every address there
is (48 TiB of 64 B lines need 40 bits). All constants of tables are word indices (int64) unless they say bytes.
"""

from __future__ import annotations

from ..heap.layout import BLOCK_LOG2
from ..page.control import MAX_RANKS

# --- what memory is, per allocation
NONE, BACK, THROUGH, PRIVATE = 0, 1, 2, 3

# --- states of a line at its home
LINE_UNCACHED, LINE_SHARED, LINE_OWNED, LINE_POISONED = 0, 1, 2, 3
NUM_DIRECTORY_STATES = 3  # that the table has rows for; LINE_POISONED is an error, not a row

# --- states of a copy. INVALID to MODIFIED are the table's; the others are steps of a transaction
INVALID, SHARED_COPY, EXCLUSIVE, MODIFIED = 0, 1, 2, 3
PINNED = 4  # owned, and its rank stores into it
FILLING = 5  # claimed by its rank, which reads it from elsewhere
DROPPED = 6  # FILLING, and invalidated meanwhile: what arrives is used once and not kept
TAKEN = 7  # owned, and copied out once its rank writes no range there (`await_group`); whoever set it ends it
AT_REST = 3  # these states are those up to 3

# --- tag word: state | line number << 4 | version << 44
TAG_STATE_BITS, TAG_STATE_MASK = 4, 15
TAG_LINE_BITS = 40  # of a line number
# A version counts the fills of a slot, so that a reader sees that its slot changed hands.
TAG_VERSION_SHIFT = TAG_STATE_BITS + TAG_LINE_BITS
TAG_VERSION_BITS = 64 - TAG_VERSION_SHIFT

# --- requests
GET_SHARED, GET_OWNED, PUT_OWNED, WRITE_HOME = 0, 1, 2, 3
NUM_REQUESTS = 4

# --- relations of the requester to the line
STRANGER, SHARER, OWNER, HOME = 0, 1, 2, 3
NUM_RELATIONS = 4

# --- actions, done in this order
FORWARD_SHARED = 1 << 0  # the owner's copy goes home and stays with the owner, shared
FORWARD_INVALID = 1 << 1  # the owner's copy goes home and its owner loses it
INVALIDATE = 1 << 2  # every other sharer that the directory names loses its copy
INVALIDATE_ALL = 1 << 3  # every other rank loses its copy: where the directory names nobody
WRITE_BACK = 1 << 4  # the requester's copy goes home
READ_HOME = 1 << 5  # the requester gets the line, unless it holds a copy
SET_OWNER = 1 << 6
ADD_SHARER = 1 << 7
KEEP_OWNER = 1 << 8  # the owner becomes a sharer
ACCESS_HOME = 1 << 9  # the access itself is done at the home, with the line locked

# --- a row as a word: actions | directory state after << 16 | copy's state after << 20 | 1 << 24
ROW_ACTIONS_MASK = (1 << 16) - 1
ROW_DIRECTORY_SHIFT, ROW_COPY_SHIFT = 16, 20
ROW_STATE_MASK = 15
ROW_EXISTS = 1 << 24
NUM_ROWS = NUM_DIRECTORY_STATES * NUM_REQUESTS * NUM_RELATIONS

# --- directory word: lock | state << 1 | format << 3 | holder of the lock << 5 | holders << 16
DIRECTORY_LOCK = 1
DIRECTORY_STATE_SHIFT, DIRECTORY_STATE_MASK = 1, 3
FORMAT_SHIFT, FORMAT_MASK = 3, 3
HOLDER_SHIFT, RANK_MASK = 5, 511
HOLDERS_SHIFT, HOLDERS_BITS = 16, 48
BIT_A_RANK, POINTERS, BIT_A_GROUP = 0, 1, 2  # formats of the sharers
NUM_POINTERS, POINTER_BITS = 5, 9  # behind 3 bits that count them
MAX_RANKS_WITH_BITS = HOLDERS_BITS

# --- line sizes
MIN_LINE_LOG2, MAX_LINE_LOG2 = 6, 12

# --- a word a block of 2 MiB at its home: line_log2 | attribute << 4; 0: not cached. A rank's own note of it, a
# byte a block of all addresses, has one bit more
LINE_LOG2_MASK = 15
ATTRIBUTE_SHIFT, ATTRIBUTE_MASK = 4, 3
BLOCK_WORD_MASK = 63
IS_HOME = 1 << 6  # the block lives at this very rank: it has no copies, it asks its directory
NOT_HOME = 1 << 7

# --- a flit from a rank to the agent of a home, beside the address: request | line and attribute << 8 | had << 16
# | operation << 20 | bytes << 24, the operation as in page/operations.py. The reply's word: state of the granted copy
# | 1 << 8 where the line comes with it
FLIT_BLOCK_SHIFT, FLIT_HAD_SHIFT, FLIT_OPERATION_SHIFT, FLIT_BYTES_SHIFT = 8, 16, 20, 24
FLIT_HAS_LINE = 1 << 8
RECALL_SHARED, RECALL_OWNED, ASK_BLOCK = 4, 5, 6  # requests that are no rows: the home's own, by its agent

# --- header
CACHE_MAGIC_VALUE = 0x756D_656D_0C01
CACHE_MAGIC = 0
CACHE_CONTROL = 1  # address of the rank's control page
CACHE_GATE = 2  # of the cache's gate (gate.py); the rank's own
CACHE_NOTES = 3  # of its notes on all blocks; the rank's own
CACHE_RANK = 4
# of a version: TAG_VERSION_BITS of them, but where a test wants versions to come round
CACHE_VERSION_MASK = 5
CACHE_COUNTERS = 6  # address of COUNTER words; 0: nothing is counted
CACHE_DIRECTORIES = 8  # two addresses: directory words of the device segment, of the host segment
CACHE_BLOCKS = 10  # two addresses: block words of these segments
CACHE_ROOM = 12  # address of a line of the rank's own, where flits arrive
CACHE_IN_USE = 13  # 1 once any rank has allocated cached memory
CACHE_CLOCK = 16  # counts victims
CACHE_ROWS = 32  # the protocol
CACHE_GEOMETRIES = 96  # GEOMETRY_WORDS for each line_log2 from 0 on
assert CACHE_ROWS + NUM_ROWS <= CACHE_GEOMETRIES
# a geometry: two addresses, slots - 1, slots a set
GEOMETRY_TAGS, GEOMETRY_COPIES, GEOMETRY_SLOT_MASK, GEOMETRY_NUM_WAYS = 0, 1, 2, 3
ROW_LOG2 = 3  # slots in a row: their tags fill a line of the processor
GROUP_LOG2 = 5  # slots that a range pins at once; behind the tags a word a group, its pin
GROUP_SLOTS = 1 << GROUP_LOG2
assert ROW_LOG2 <= GROUP_LOG2  # lines of an aligned group have slots of one group
GEOMETRY_WORDS = 4
NUM_GEOMETRIES = MAX_LINE_LOG2 + 1
# FLIT_WORDS: what is under way to an unmapped home
CACHE_FLIT = CACHE_GEOMETRIES + NUM_GEOMETRIES * GEOMETRY_WORDS
FLIT_PHASE, FLIT_ADDRESS, FLIT_TAG, FLIT_COPY, FLIT_LINE_LOG2, FLIT_RESULT = 0, 1, 2, 3, 4, 5
FLIT_LEFT = 6  # what is left of the request: gate.left_of
FLIT_WORDS = 8
NO_FLIT, GETTING, PUTTING, MODIFYING, WRITING_THERE, RECALLING, MODIFIED_THERE = range(7)  # FLIT_PHASE
CACHE_HEADER_BYTES = 4096
assert (CACHE_FLIT + FLIT_WORDS) * 8 <= CACHE_HEADER_BYTES
DIRECTORY_WORDS_A_BLOCK = 1 << BLOCK_LOG2 - MIN_LINE_LOG2

# --- counters, of one rank
COUNTER_NAMES = (
    "hits",
    "read_misses",
    "write_misses",
    "upgrades",
    "coherence_misses",  # of all misses: those of lines that others had taken
    "home_accesses",
    "home_transactions",
    "invalidations",  # of copies of others, by this rank
    "forwards",  # lines taken from owners
    "write_backs",
    "silent_evictions",
    "poisonings",
    "flits",
    "probes",
    "bytes",
)
(
    NUM_HITS,
    NUM_READ_MISSES,
    NUM_WRITE_MISSES,
    NUM_UPGRADES,
    NUM_COHERENCE_MISSES,
    NUM_HOME_ACCESSES,
    NUM_HOME_TRANSACTIONS,
    NUM_INVALIDATIONS,
    NUM_FORWARDS,
    NUM_WRITE_BACKS,
    NUM_SILENT_EVICTIONS,
    NUM_POISONINGS,
    NUM_FLITS,
    NUM_PROBES,
    NUM_BYTES_MOVED,
) = range(len(COUNTER_NAMES))
COUNTERS_ROOM = 32
assert len(COUNTER_NAMES) <= COUNTERS_ROOM
INVALIDATED = COUNTERS_ROOM  # [MAX_RANKS] copies invalidated at each rank
MISSES = INVALIDATED + MAX_RANKS  # NUM_NOTED * NOTED_WORDS: lines that this rank misses because others write
NOTED_LOG2, NOTED_WORDS = 10, 4
NOTED_LINE, NOTED_COUNT, NOTED_LOADS, NOTED_STORES = 0, 1, 2, 3  # bits of the 64ths of the line that it used
# Hits, apart by thread: siblings would pass one line of the processor to and fro.
HIT_STRIPES = MISSES + (NOTED_WORDS << NOTED_LOG2)
NUM_HIT_STRIPES, STRIPE_WORDS = 64, 8
COUNTER_WORDS = HIT_STRIPES + NUM_HIT_STRIPES * STRIPE_WORDS
