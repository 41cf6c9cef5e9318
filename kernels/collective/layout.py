"""What the ranks of a team share, and what each of them knows alone.

Every member has a page that all members map: four flag lines, by which it tells that it has come and what it was
called with, tables of what it sends and takes where that differs by rank, and four halves of staging memory. Only its
owner writes a page, but for the marks of those who sleep on a line. `team` is always the address of the caller's own
words, private memory, which say where the members' pages lie and how far the operation under way has come.

All fields are int64 words; constants are word indices, those named *_BYTES and *_OFFSET bytes.
"""

from __future__ import annotations

from ..build.compile import device_function, inlined_function
from ..intrinsics.scalar import load_i64

# --- a member's page
NUM_FLAG_LINES = 4  # flag lines in turn: two would do, for a member is never two exchanges ahead of another
SLOT_BYTES = 256  # clear of the pair of lines that x86 prefetches together
SLOT_SIGNAL = 0  # the number of the exchange (kernels/page/signal.py)
SLOT_CALL = 1  # what was called: `call_word`
SLOT_LENGTH = 2  # with how many bytes a rank
SLOT_DATA = 3  # small operations: the data itself
SLOT_SRC, SLOT_DST = 3, 4  # the others: addresses of the buffers, 0 where one is private
SLOT_LONGEST = 5  # all_to_all_v: most bytes that this member sends to another
SLOT_DATA_BYTES = SLOT_BYTES - 8 * SLOT_DATA
TABLES_OFFSET = NUM_FLAG_LINES * SLOT_BYTES  # all_to_all_v: two tables in turn
# of a table's row for each member: where in the source and how many bytes go there; how many come from there, where to
TABLE_SEND_AT, TABLE_SEND, TABLE_TAKE, TABLE_PUT_AT = 0, 1, 2, 3
TABLE_ROW_WORDS = 4
STAGE_ALIGNMENT = 4096

# --- a member's own words
TEAM_CONTROL = 0  # address of the rank's control page
TEAM_SIZE = 1
TEAM_POSITION = 2  # of this member, from 0
TEAM_PAGES = 3  # address of TEAM_SIZE addresses: the members' pages
TEAM_RANKS = 4  # address of TEAM_SIZE ranks of the world
TEAM_HALF_BYTES = 5  # of a half of staging memory
TEAM_EAGER_BYTES = 6  # up to here buffers that all could reach are staged: one exchange in place of two
TEAM_STREAM_BYTES = 7  # from here on stores go around the caches
TEAM_TWO_SHOT_BYTES = 8  # from here on members of teams of more than two reduce a slice each
TEAM_SEQUENCE = 9  # exchanges that this member has begun
TEAM_SCRATCH = 10  # address of TEAM_SCRATCH_BYTES
TEAM_SOURCES = 11  # address of TEAM_SIZE addresses, for a reduction
TEAM_SHAPE = 12  # of a reduction: sources, elements, bytes from which it streams
# the operation under way
TEAM_MODE = 16
TEAM_ROUND = 17
TEAM_NUM_ROUNDS = 18
TEAM_STEP_BYTES = 19  # of a block in one round
TEAM_FLAGS = 20  # what kind of operation: the bits below
TEAM_CALL = 21
TEAM_SRC, TEAM_DST = 22, 23
TEAM_LENGTH = 24  # bytes of a block: of what goes to, or comes from, one member
TEAM_ROOT = 25
TEAM_REDUCE = 26  # address of the function that combines
TEAM_ELEMENT_BYTES = 27
TEAM_IS_INLINE = 28  # 1 where the data lies in the slots
TEAM_IS_TWO_SHOT = 29  # 1 where members reduce a slice each, and take the others' from them
TEAM_OTHER = 30  # position of the member that called something else
TEAM_NUM_CALLS = 31  # so far, also those that were a mismatch: the parity says which table
# of members on GPUs, and on CPUs among them
TEAM_REACH = (
    32  # address of a word for each rank of the world: bit `kind` where all members reach that memory of it
)
TEAM_SHIFT = 33  # pointer less address of memory of GPUs, by this processor
TEAM_IS_DUE = 34  # 1 where lanes have bytes to move
TEAM_CODE = 35  # how the operation stands
TEAM_MEETING, TEAM_ARRIVED = (
    48,
    49,
)  # of the blocks of a launch: the meetings that were, the blocks that have come
TEAM_WORDS = 64

GPU_HOME = 1 << 8  # of a word of TEAM_REACH: the device memory of this rank is a GPU's

TEAM_SCRATCH_BYTES = 4096

# TEAM_MODE
IDLE, ASKING, STAGED, DIRECT = 0, 1, 2, 3

# TEAM_FLAGS: what an operation does with the members' blocks
REDUCES = 1  # the blocks are combined
PERSONAL = 2  # a source has a block for each member
COLLECTS = 4  # a destination has a block from each member
FROM_ROOT = 8  # only the root sends
TO_ROOT = 16  # only the root takes
VARIES = 32  # the blocks differ in length

BARRIER = 0
ALL_REDUCE = REDUCES
REDUCE_TO_ROOT = REDUCES | TO_ROOT
REDUCE_SCATTER = REDUCES | PERSONAL
ALL_GATHER = COLLECTS
GATHER = COLLECTS | TO_ROOT
BROADCAST = FROM_ROOT
SCATTER = PERSONAL | FROM_ROOT
ALL_TO_ALL = PERSONAL | COLLECTS
ALL_TO_ALL_V = PERSONAL | COLLECTS | VARIES

ROOT_SHIFT, REDUCTION_SHIFT, ELEMENT_SHIFT = 8, 24, 32
CALL_KIND_MASK, CALL_ROOT_MASK = 0xFF, 0xFFFF


def call_word(flags: int, reduction: int, element: int, root: int) -> int:
    """What all members must call alike, beside the length: kind, reduction, element type, root, a byte or two each."""
    return flags | root << ROOT_SHIFT | reduction << REDUCTION_SHIFT | element << ELEMENT_SHIFT


@inlined_function
def member_after(team, hop):
    """The member `hop` places behind this one, so that not all begin with the same."""
    member = load_i64(team, TEAM_POSITION) + hop
    num_members = load_i64(team, TEAM_SIZE)
    return member - num_members if member >= num_members else member


@inlined_function
def slot_of(team, member, sequence):
    """Address of a member's flag line of an exchange."""
    return load_i64(load_i64(team, TEAM_PAGES), member) + (sequence & (NUM_FLAG_LINES - 1)) * SLOT_BYTES


@device_function
def table_of(team, member):
    """Address of a member's table of the operation under way. Two in turn: a member writes its next one while others
    end the operation before, and none of them is further back."""
    table_bytes = 8 * TABLE_ROW_WORDS * load_i64(team, TEAM_SIZE)
    turn = load_i64(team, TEAM_NUM_CALLS) & 1
    return load_i64(load_i64(team, TEAM_PAGES), member) + TABLES_OFFSET + turn * table_bytes


@device_function
def stage_offset(num_members):
    """Byte offset in a page of the staging memory."""
    tables_end = TABLES_OFFSET + 2 * 8 * TABLE_ROW_WORDS * num_members
    return (tables_end + STAGE_ALIGNMENT - 1) & -STAGE_ALIGNMENT


@device_function
def stage_in(team, member, sequence):
    """Address of the half that a member's input of an exchange is staged in."""
    half = sequence & 1
    page = load_i64(load_i64(team, TEAM_PAGES), member)
    return page + stage_offset(load_i64(team, TEAM_SIZE)) + half * load_i64(team, TEAM_HALF_BYTES)


@device_function
def stage_out(team, member, sequence):
    """Address of the half that holds what a member has reduced before an exchange."""
    return stage_in(team, member, sequence) + 2 * load_i64(team, TEAM_HALF_BYTES)


def page_bytes(num_members: int, half_bytes: int) -> int:
    """Size of a member's page."""
    return stage_offset(num_members) + 4 * half_bytes
