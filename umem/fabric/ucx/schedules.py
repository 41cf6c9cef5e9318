"""A schedule of messages, run by compiled code: sends, receives, waits for them, and what is done with what has come.

A schedule is rows of int64 words, plain data that is made elsewhere (umem/collectives/schedules.py). Its places are
offsets into the buffers of a run. One call is one turn with the channels; where a wait returns AGAIN the cursor
stays at its row, and the next call goes on there.
"""

from __future__ import annotations

from ...kernels.build.compile import cpu_kernel, device_function
from ...kernels.data.copy import copy
from ...kernels.intrinsics.scalar import load_i64, store_i64
from ...kernels.intrinsics.system import call_handler
from ...kernels.status import AGAIN, MISMATCH, OK
from . import calls
from .abi import UCS_INPROGRESS
from .port import POLITE, PORT_CHANNELS, PORT_PLAIN, PORT_WORKER
from .turns import UCX_KERNELS, end_turn, take_turn
from .waiting import EVERY_BIT, wait_request

# --- a row: what it does, and its operands
STEP_KIND = 0
STEP_PEER = 1  # DO_SEND, DO_RECV: position of the other member
STEP_BUFFER, STEP_OFFSET = 2, 3  # DO_SEND, DO_RECV, DO_COPY, DO_COMBINE: which buffer, and where in it
STEP_BYTES = 4
STEP_SRC_BUFFER, STEP_SRC_OFFSET = (
    5,
    6,
)  # DO_COPY: from where; DO_COMBINE: STEP_SRC_OFFSET is its first row of sources
STEP_BEGIN, STEP_END = 5, 6  # DO_WAIT: for these requests, which are numbered as their rows follow each other
SCHEDULE_ROW_WORDS = 8

DO_SEND, DO_RECV, DO_WAIT, DO_COPY, DO_COMBINE, DO_CHECK = range(6)

# --- the words of a run
RUN_PORTS = 0  # address of a port for each member
RUN_ENDPOINTS = 1  # address of an endpoint for each member
RUN_RANKS = 2  # address of the members' ranks in the world
RUN_TAG_OUT = 3  # with which this member sends
RUN_TAGS_IN = 4  # address of a tag for each member: with which it sends
RUN_BUFFERS = 5  # address of the addresses of the buffers
RUN_ROWS = 6
RUN_NUM_ROWS = 7
RUN_CURSOR = 8
RUN_REQUESTS = 9  # address of a word for each request: 0 where it has ended
RUN_MEMBERS = 10  # address of a word for each request: the other member
RUN_NUM_REQUESTS = 11  # started so far
RUN_COMBINE = 12  # address of the function that combines
RUN_ELEMENT_BYTES = 13
RUN_SOURCES = 14  # address of room for an address for each member
RUN_SOURCE_ROWS = 15  # address of pairs of words: buffer and offset of each source of each DO_COMBINE
RUN_SIZE = 16
RUN_POSITION = 17
RUN_HEADERS = 18  # address of what the members have told, and this one's own at its position
RUN_HEADER_STRIDE = 19
RUN_CHECK_WORDS = 20  # how many words of a header must be the same for all
RUN_NUM_TABLE_WORDS = 21  # of a table in the header, behind those; 0 without one
RUN_OTHER = 22  # of a mismatch: the member that called something else
RUN_FAILED = 23  # of a failure: the member
RUN_SHAPE = 24  # of a reduction: sources, elements, bytes from which it streams
RUN_WORDS = 32

NO_STREAM_BYTES = 1 << 62


@device_function
def place(run, buffer, offset):
    """The pointer to a place in a buffer."""
    return load_i64(load_i64(run, RUN_BUFFERS), buffer) + offset


@device_function
def start_message(run, row):
    """Start a send or a receive."""
    member = load_i64(row, STEP_PEER)
    port = load_i64(load_i64(run, RUN_PORTS), member)
    pointer = place(run, load_i64(row, STEP_BUFFER), load_i64(row, STEP_OFFSET))
    num_bytes, param = load_i64(row, STEP_BYTES), port + 8 * PORT_PLAIN
    if load_i64(row, STEP_KIND) == DO_SEND:
        endpoint = load_i64(load_i64(run, RUN_ENDPOINTS), member)
        request = calls.tag_send(endpoint, pointer, num_bytes, load_i64(run, RUN_TAG_OUT), param)
    else:
        tag = load_i64(load_i64(run, RUN_TAGS_IN), member)
        request = calls.tag_recv(load_i64(port, PORT_WORKER), pointer, num_bytes, tag, EVERY_BIT, param)
    index = load_i64(run, RUN_NUM_REQUESTS)
    store_i64(load_i64(run, RUN_REQUESTS), index, request)
    store_i64(load_i64(run, RUN_MEMBERS), index, member)
    store_i64(run, RUN_NUM_REQUESTS, index + 1)


@device_function
def wait_range(run, begin, end):
    """Wait for requests; OK, or what `wait_request` returns, and RUN_FAILED is whom it was about."""
    requests = load_i64(run, RUN_REQUESTS)
    index = begin
    while index < end:
        request = load_i64(requests, index)
        if request != 0:
            member = load_i64(load_i64(run, RUN_MEMBERS), index)
            port = load_i64(load_i64(run, RUN_PORTS), member)
            code = wait_request(port, request, load_i64(load_i64(run, RUN_RANKS), member), POLITE)
            if code != OK:
                store_i64(run, RUN_FAILED, member)
                return code
            store_i64(requests, index, 0)
        index += 1
    return OK


@device_function
def combine(run, row):
    """Reduce one piece of every member's input, in their order."""
    sources, num_sources = load_i64(run, RUN_SOURCES), load_i64(run, RUN_SIZE)
    pairs = load_i64(run, RUN_SOURCE_ROWS) + 16 * load_i64(row, STEP_SRC_OFFSET)
    member = 0
    while member < num_sources:
        pointer = place(run, load_i64(pairs, 2 * member), load_i64(pairs, 2 * member + 1))
        store_i64(sources, member, pointer)
        member += 1
    shape = run + 8 * RUN_SHAPE
    store_i64(shape, 0, num_sources)
    store_i64(shape, 1, load_i64(row, STEP_BYTES) // load_i64(run, RUN_ELEMENT_BYTES))
    store_i64(shape, 2, NO_STREAM_BYTES)
    dst = place(run, load_i64(row, STEP_BUFFER), load_i64(row, STEP_OFFSET))
    call_handler(load_i64(run, RUN_COMBINE), dst, sources, shape)


@device_function
def check_headers(run):
    """OK where all members have called the same; else MISMATCH, at all of them, and RUN_OTHER is one that has not."""
    headers, stride = load_i64(run, RUN_HEADERS), load_i64(run, RUN_HEADER_STRIDE)
    own = headers + load_i64(run, RUN_POSITION) * stride
    num_members, num_words = load_i64(run, RUN_SIZE), load_i64(run, RUN_CHECK_WORDS)
    member = 0
    while member < num_members:
        word = 0
        while word < num_words:
            if load_i64(headers + member * stride, word) != load_i64(own, word):
                store_i64(run, RUN_OTHER, member)
                return MISMATCH
            word += 1
        member += 1
    if load_i64(run, RUN_NUM_TABLE_WORDS):
        return check_tables(run)
    return OK


@device_function
def check_tables(run):
    """OK where every member takes what each other sends it: a header's table has what it sends to each, then what it
    takes from each."""
    headers, stride = load_i64(run, RUN_HEADERS), load_i64(run, RUN_HEADER_STRIDE)
    num_members, first = load_i64(run, RUN_SIZE), load_i64(run, RUN_CHECK_WORDS)
    sender = 0
    while sender < num_members:
        taker = 0
        while taker < num_members:
            sent = load_i64(headers + sender * stride, first + taker)
            if sent != load_i64(headers + taker * stride, first + num_members + sender):
                store_i64(run, RUN_OTHER, sender)
                return MISMATCH
            taker += 1
        sender += 1
    return OK


@device_function
def do_row(run, row):
    """One row; its status."""
    kind = load_i64(row, STEP_KIND)
    if kind in (DO_SEND, DO_RECV):
        start_message(run, row)
        return OK
    if kind == DO_WAIT:
        return wait_range(run, load_i64(row, STEP_BEGIN), load_i64(row, STEP_END))
    if kind == DO_CHECK:
        return check_headers(run)
    if kind == DO_COMBINE:
        combine(run, row)
        return OK
    dst = place(run, load_i64(row, STEP_BUFFER), load_i64(row, STEP_OFFSET))
    src = place(run, load_i64(row, STEP_SRC_BUFFER), load_i64(row, STEP_SRC_OFFSET))
    if dst != src:
        copy(dst, src, load_i64(row, STEP_BYTES), NO_STREAM_BYTES, 0, 1)
    return OK


@device_function
def go_on_with(run):
    """Go on with a schedule until it has ended: OK.

    Or MISMATCH (nothing is under way any more), AGAIN after a slice (call again), RANK_LOST, INTERRUPTED, FABRIC_FAILED
    with UCX's status in the port of RUN_FAILED.
    """
    channels = load_i64(load_i64(load_i64(run, RUN_PORTS), load_i64(run, RUN_POSITION)), PORT_CHANNELS)
    code = take_turn(channels)
    cursor = load_i64(run, RUN_CURSOR)
    while code == OK and cursor < load_i64(run, RUN_NUM_ROWS):
        code = do_row(run, load_i64(run, RUN_ROWS) + 8 * SCHEDULE_ROW_WORDS * cursor)
        if code == OK:
            cursor += 1
    store_i64(run, RUN_CURSOR, cursor)
    end_turn(channels)
    return code


@cpu_kernel("int64(int64)", group=UCX_KERNELS)
def advance(run):
    """`go_on_with`."""
    return go_on_with(run)


@cpu_kernel("int64(int64, int64)", group=UCX_KERNELS)
def abandon_all(run, cancels):
    """Give up what is under way: OK where all has ended, else AGAIN; receives are cancelled first if `cancels`."""
    position = load_i64(run, RUN_POSITION)
    channels = load_i64(load_i64(load_i64(run, RUN_PORTS), position), PORT_CHANNELS)
    code = take_turn(channels)
    requests = load_i64(run, RUN_REQUESTS)
    index = 0
    while index < load_i64(run, RUN_NUM_REQUESTS):
        request = load_i64(requests, index)
        if request > 0:
            member = load_i64(load_i64(run, RUN_MEMBERS), index)
            worker = load_i64(load_i64(load_i64(run, RUN_PORTS), member), PORT_WORKER)
            if cancels:
                calls.request_cancel(worker, request)
            calls.worker_progress(worker)
            if calls.request_status(request) == UCS_INPROGRESS:
                code = AGAIN
            else:
                calls.request_free(request)
                store_i64(requests, index, 0)
        index += 1
    end_turn(channels)
    return code
