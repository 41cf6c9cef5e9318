"""One collective operation from its begin to its end: which way it goes, and step after step until it is done.

Between two exchanges there is control, a few words of the team that say what is due (`prepare`, `step`), then the bytes
(`move`), then the next post (`conclude`). On a GPU one lane has the control, and all lanes move (lanes.py).
"""

from __future__ import annotations

from ..build.compile import cpu_kernel, device_function, inlined_function
from ..intrinsics.scalar import load_i64, store_i64
from ..page.control import NO_HOME, home_rank
from ..status import MISMATCH, OK
from .direct import all_are_mapped, do_directly
from .exchange import announce, await_all, check_calls
from .layout import (
    ASKING,
    COLLECTS,
    DIRECT,
    IDLE,
    PERSONAL,
    REDUCES,
    SLOT_DATA_BYTES,
    SLOT_DST,
    SLOT_LONGEST,
    SLOT_SRC,
    STAGED,
    TABLE_PUT_AT,
    TABLE_ROW_WORDS,
    TABLE_SEND,
    TABLE_SEND_AT,
    TABLE_TAKE,
    TEAM_CALL,
    TEAM_CONTROL,
    TEAM_DST,
    TEAM_EAGER_BYTES,
    TEAM_ELEMENT_BYTES,
    TEAM_FLAGS,
    TEAM_HALF_BYTES,
    TEAM_IS_INLINE,
    TEAM_IS_TWO_SHOT,
    TEAM_LENGTH,
    TEAM_MODE,
    TEAM_NUM_CALLS,
    TEAM_NUM_ROUNDS,
    TEAM_OTHER,
    TEAM_POSITION,
    TEAM_REDUCE,
    TEAM_ROOT,
    TEAM_ROUND,
    TEAM_SEQUENCE,
    TEAM_SIZE,
    TEAM_SRC,
    TEAM_STEP_BYTES,
    TEAM_TWO_SHOT_BYTES,
    VARIES,
    slot_of,
    table_of,
)
from .rounds import SLICE_UNIT_BYTES, reduce_round, reduce_slice, stage_round, take_blocks, take_slices

START_SIGNATURE = f"int64({', '.join(['int64'] * 12)})"
GO_ON_SIGNATURE = "int64(int64, int64, int64)"
NOWHERE = 1  # in place of the address of nothing


@device_function
def shared_address(team, pointer, num_bytes):
    """`pointer`, where it is an address of memory that all members map, else 0. A buffer of no bytes is no obstacle."""
    if num_bytes == 0:
        return NOWHERE
    control, last = load_i64(team, TEAM_CONTROL), pointer + num_bytes - 1
    return 0 if home_rank(control, pointer) == NO_HOME or home_rank(control, last) == NO_HOME else pointer


@device_function
def write_table(team, rows):
    """Copy the table at `rows` to this member's page; most bytes that it sends to one member."""
    table = table_of(team, load_i64(team, TEAM_POSITION))
    longest = 0
    word = 0
    while word < TABLE_ROW_WORDS * load_i64(team, TEAM_SIZE):
        value = load_i64(rows, word)
        store_i64(table, word, value)
        if word % TABLE_ROW_WORDS == TABLE_SEND:
            longest = max(longest, value)
        word += 1
    return longest


@device_function
def end_of_table(rows, num_members, at, length):
    """Bytes of a buffer that a table's offsets and lengths reach to."""
    end = 0
    member = 0
    while member < num_members:
        row = TABLE_ROW_WORDS * member
        end = max(end, load_i64(rows, row + at) + load_i64(rows, row + length))
        member += 1
    return end


@device_function
def ask(team, rows):
    """Tell where the buffers lie; then the members know whether all reach all."""
    num_members, position = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_POSITION)
    flags, length = load_i64(team, TEAM_FLAGS), load_i64(team, TEAM_LENGTH)
    src_bytes = length * num_members if flags & PERSONAL else length
    dst_bytes = length * num_members if flags & COLLECTS else length
    slot = slot_of(team, position, load_i64(team, TEAM_SEQUENCE) + 1)
    if flags & VARIES:
        store_i64(slot, SLOT_LONGEST, write_table(team, rows))
        src_bytes = end_of_table(rows, num_members, TABLE_SEND_AT, TABLE_SEND)
        dst_bytes = end_of_table(rows, num_members, TABLE_PUT_AT, TABLE_TAKE)
    store_i64(slot, SLOT_SRC, shared_address(team, load_i64(team, TEAM_SRC), src_bytes))
    store_i64(slot, SLOT_DST, shared_address(team, load_i64(team, TEAM_DST), dst_bytes))
    store_i64(team, TEAM_MODE, ASKING)


@device_function
def set_rounds(team, num_rounds, step_bytes, is_two_shot, is_inline):
    """Have the operation go on in rounds, of `step_bytes` of every block each."""
    store_i64(team, TEAM_STEP_BYTES, step_bytes)
    store_i64(team, TEAM_IS_TWO_SHOT, is_two_shot)
    store_i64(team, TEAM_IS_INLINE, is_inline)
    store_i64(team, TEAM_NUM_ROUNDS, num_rounds)
    store_i64(team, TEAM_ROUND, 0)
    store_i64(team, TEAM_MODE, STAGED)


@device_function
def go_by_rounds(team, longest):
    """Go by staging memory, for blocks of 1 to `longest` bytes."""
    num_members, flags = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_FLAGS)
    step = load_i64(team, TEAM_HALF_BYTES)
    is_two_shot = 0
    if flags & PERSONAL:
        step = step // num_members // SLICE_UNIT_BYTES * SLICE_UNIT_BYTES
    elif flags & REDUCES and num_members > 2 and longest >= load_i64(team, TEAM_TWO_SHOT_BYTES):
        is_two_shot = 1
    step = min(step, longest)
    set_rounds(team, (longest + step - 1) // step + is_two_shot, step, is_two_shot, 0)


@inlined_function
def prepare(team, flags, call, src, dst, length, root, reduction, element_bytes, rows):
    """Set an operation up: which way it goes, as far as that is known before the others have come.

    `length` is the bytes of a block; `reduction` the function that combines, 0 where nothing is; `rows` the table of
    all_to_all_v. A member has one operation under way.
    """
    store_i64(team, TEAM_NUM_CALLS, load_i64(team, TEAM_NUM_CALLS) + 1)
    store_i64(team, TEAM_FLAGS, flags)
    store_i64(team, TEAM_CALL, call)
    store_i64(team, TEAM_SRC, src)
    store_i64(team, TEAM_DST, dst)
    store_i64(team, TEAM_LENGTH, length)
    store_i64(team, TEAM_ROOT, root)
    store_i64(team, TEAM_REDUCE, reduction)
    store_i64(team, TEAM_ELEMENT_BYTES, element_bytes)
    num_members = load_i64(team, TEAM_SIZE)
    staged_bytes = length * num_members if flags & PERSONAL else length
    if flags & VARIES:
        ask(team, rows)
    elif staged_bytes <= SLOT_DATA_BYTES or num_members == 1:
        set_rounds(team, 1, length, 0, 1)
    elif staged_bytes <= load_i64(team, TEAM_EAGER_BYTES):
        set_rounds(team, 1, length, 0, 0)
    else:
        ask(team, rows)


@device_function
def check_tables(team):
    """OK where every member takes what each other sends it, else MISMATCH, and TEAM_OTHER is a sender that it does not
    hold for: the same for all members."""
    num_members = load_i64(team, TEAM_SIZE)
    sender = 0
    while sender < num_members:
        taker = 0
        while taker < num_members:
            sent = load_i64(table_of(team, sender), TABLE_ROW_WORDS * taker + TABLE_SEND)
            if sent != load_i64(table_of(team, taker), TABLE_ROW_WORDS * sender + TABLE_TAKE):
                store_i64(team, TEAM_OTHER, sender)
                return MISMATCH
            taker += 1
        sender += 1
    return OK


@device_function
def longest_of_all(team):
    """Bytes of the longest block that a member sends to another."""
    sequence, num_members = load_i64(team, TEAM_SEQUENCE), load_i64(team, TEAM_SIZE)
    longest = 0
    member = 0
    while member < num_members:
        longest = max(longest, load_i64(slot_of(team, member, sequence), SLOT_LONGEST))
        member += 1
    return longest


@device_function
def decide(team):
    """After the exchange that asked: directly, or by rounds. OK or MISMATCH."""
    flags, length = load_i64(team, TEAM_FLAGS), load_i64(team, TEAM_LENGTH)
    if flags & VARIES:
        code = check_tables(team)
        if code != OK:
            return code
        length = longest_of_all(team)
    if all_are_mapped(team):
        store_i64(team, TEAM_MODE, DIRECT)
    elif length:
        go_by_rounds(team, length)
    else:
        store_i64(team, TEAM_MODE, IDLE)
    return OK


@device_function
def take_round(team, round_index):
    """Take what was staged before the last exchange."""
    is_two_shot = load_i64(team, TEAM_IS_TWO_SHOT)
    if load_i64(team, TEAM_FLAGS) & REDUCES == 0:
        take_blocks(team, round_index)
    elif is_two_shot:
        if round_index < load_i64(team, TEAM_NUM_ROUNDS) - is_two_shot:
            reduce_slice(team, round_index)
        if round_index > 0:
            take_slices(team, round_index - 1)
    else:
        reduce_round(team, round_index)


@device_function
def move(team):
    """Move the bytes that are due between two exchanges; writes no word that says what is."""
    mode = load_i64(team, TEAM_MODE)
    if mode == STAGED:
        next_round = load_i64(team, TEAM_ROUND)
        if next_round > 0:
            take_round(team, next_round - 1)
        if next_round < load_i64(team, TEAM_NUM_ROUNDS) - load_i64(team, TEAM_IS_TWO_SHOT):
            stage_round(team, next_round)
    elif mode == DIRECT:
        do_directly(team, load_i64(team, TEAM_FLAGS) & REDUCES)


@device_function
def conclude(team):
    """After `move`: tell the others, or end."""
    if load_i64(team, TEAM_MODE) == STAGED:
        this_round = load_i64(team, TEAM_ROUND)
        store_i64(team, TEAM_ROUND, this_round + 1)
        if this_round == load_i64(team, TEAM_NUM_ROUNDS):
            store_i64(team, TEAM_MODE, IDLE)
            return
    announce(team)


@device_function
def step(team, epoch, slice_ns):
    """Wait for the others, and set up what is due then; IDLE in TEAM_MODE where nothing is.

    Returns OK, or AGAIN after about `slice_ns` (call again), INTERRUPTED, EPOCH_CHANGED; MISMATCH, and the operation
    has ended without a result at all members.
    """
    code = await_all(team, epoch, slice_ns)
    if code != OK:
        return code
    code = check_calls(team)
    mode = load_i64(team, TEAM_MODE)
    if code == OK and mode == ASKING:
        code = decide(team)
    elif code == OK and mode == DIRECT:
        store_i64(team, TEAM_MODE, IDLE)
    if code == MISMATCH:
        store_i64(team, TEAM_MODE, IDLE)  # all members have found it
    return code


@inlined_function
def begin(team, flags, call, src, dst, length, root, reduction, element_bytes, rows):
    """Begin an operation: tell the others, and stage what they take if it is known that they will; see `prepare`."""
    prepare(team, flags, call, src, dst, length, root, reduction, element_bytes, rows)
    move(team)
    conclude(team)


@device_function
def advance(team, epoch, slice_ns):
    """Go on with the operation under way until it has ended: OK, or what `step` returns otherwise."""
    while load_i64(team, TEAM_MODE) != IDLE:
        code = step(team, epoch, slice_ns)
        if code != OK:
            return code
        if load_i64(team, TEAM_MODE) != IDLE:
            move(team)
            conclude(team)
    return OK


@cpu_kernel(START_SIGNATURE)
def start(team, flags, call, src, dst, length, root, reduction, element_bytes, rows, epoch, slice_ns):
    """`begin` an operation, and `advance`."""
    begin(team, flags, call, src, dst, length, root, reduction, element_bytes, rows)
    return advance(team, epoch, slice_ns)


@cpu_kernel(GO_ON_SIGNATURE)
def go_on(team, epoch, slice_ns):
    """`advance` the operation that `start` left with AGAIN."""
    return advance(team, epoch, slice_ns)
