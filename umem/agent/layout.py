"""Byte layouts of the agent: its messages, the slots of its queues, and the numbers of the operations.

All fields are int64 words; constants are word indices. Sizes that depend on the world (slots, ranks)
are words of the state, never Python globals, because a compiled kernel would freeze them.

    client's main thread                          home's agent
    slot[rank, credit] --- request header + payload ---> slot: ready -> (pending) -> sending -> free
    slot[rank, credit] <-- reply header + payload ------ the reply's room belongs to the request's slot

**Two bounded queues that cannot block each other.** A client has `credits` requests in flight to each
agent, and the agent has `num_ranks * credits` slots, so a request that was allowed to leave always finds
a slot: the full queue pushes back where requests start, and nothing is ever refused or sent again. A
slot holds the room of its reply, and a client's slot is where the reply lands, so a reply never waits
for anything that waits for a request.
"""

from __future__ import annotations

from enum import IntEnum

from ..kernels.page import operations

WORD = 8


class Operation(IntEnum):
    """Codes of the requests; a user's own begin at USER."""

    PING = 0
    READ = operations.READ  # words: address, num_bytes; payload of the reply: the bytes
    WRITE = operations.WRITE  # words: address; payload: the bytes
    FETCH_ADD = operations.FETCH_ADD  # words: address, value, num_bytes; value of the reply: what stood there
    EXCHANGE = operations.EXCHANGE  # words: address, value, num_bytes
    COMPARE_SWAP = operations.COMPARE_SWAP  # words: address, expected, desired, num_bytes
    FLIT = operations.FLIT  # coherence, from a rank to a home: umem/lines/home/flits.py
    GATHER = 8  # near: rows by index
    GATHER_SUM = 9  # near: rows by index, summed a bag
    REDUCE = 10  # near: add a block to memory at the home
    GATHER_SUM_HALF = 11  # near, other types than float32
    REDUCE_OTHER = 12
    # the rank that asks compiles; words: nanoseconds until when at the latest, 0 once it has ended
    COMPILING = 13
    ALLOC = 16  # 16 to 31: registered by the heap
    FREE = 17
    USAGE = 18
    PROBE = 32  # 32 to 63: coherence. From a home's agent to that of a rank that holds copies
    BLOCK = 33
    USER = 128  # 128 to 255


NUM_OPERATIONS = 256

# --- statuses of a reply that come from the agent itself; a handler's own are those of kernels/status.py
UNKNOWN_OPERATION = -1001  # no handler is registered for it
REPLY_TOO_LARGE = -1002  # more bytes than the asker has room for
CLOSING = -1003  # the agent was closed before the handler was done

# --- sizes
MAX_ARGUMENTS = 8  # arguments of a request: in its header, so that a small request is one short message
INLINE_BYTES = 64  # a payload up to this size travels in the header too
MAX_PAYLOAD_BYTES = 256 << 10  # of a request or a reply; larger work is split by the client, and so overlaps
MAX_TABLE_BYTES = 48 << 40  # the whole address range: no product of table sizes overflows below it
DEFAULT_CREDITS = 8  # requests in flight from one rank to one agent
MAX_CREDITS = 32  # a client keeps a rank's free slots as the bits of one word

# --- on the wire: a request's header is 4 words, the arguments, then an inline payload
WIRE_OPERATION = 0  # operation | number of arguments << 16
WIRE_SOURCE = 1  # rank that asks
WIRE_SEQUENCE = 2  # echoed by the reply
WIRE_INLINE_BYTES = 3  # bytes of payload in this header; a larger payload is the message's data
WIRE_WORDS = 4
REQUEST_HEADER_BYTES = WIRE_WORDS * WORD
MAX_REQUEST_HEADER_BYTES = REQUEST_HEADER_BYTES + MAX_ARGUMENTS * WORD + INLINE_BYTES
WIRE_COUNT_SHIFT = 16

# a reply's header is 4 words, then an inline payload
WIRE_REPLY_SEQUENCE = 0
WIRE_REPLY_STATUS = 1
WIRE_REPLY_VALUE = 2
WIRE_REPLY_INLINE_BYTES = 3  # | AGENT_IS_CLOSE << WIRE_CLOSE_SHIFT
WIRE_CLOSE_SHIFT = 16
REPLY_HEADER_BYTES = 4 * WORD

AM_REQUEST = 1  # UCX's number of each kind of active message
AM_REPLY = 2
AM_HELLO = 3  # between agents, so that the connection exists whose end tells of a death

# --- a request as its handler sees it: `request` is the address of these words
REQUEST_OPERATION = 0
REQUEST_SOURCE = 1  # rank that asks
REQUEST_SEQUENCE = 2
REQUEST_NUM_WORDS = 3
REQUEST_PAYLOAD = 4  # address of the payload; valid until the handler is done
REQUEST_PAYLOAD_BYTES = 5
REQUEST_SCRATCH = 6  # four words for a handler that says AGENT_PENDING; 0 at its first call
REQUEST_WORDS = 10  # MAX_ARGUMENTS arguments; those not sent are 0
REQUEST_INLINE = REQUEST_WORDS + MAX_ARGUMENTS
# the agent's own fields
SLOT_REPLY_ENDPOINT = REQUEST_INLINE + INLINE_BYTES // WORD
SLOT_HELD = SLOT_REPLY_ENDPOINT + 1  # data that UCX keeps for us until the request is done, or 0
SLOT_SEND = SLOT_HELD + 1  # the reply's send request, or 0

# --- a reply as its handler sees it: `reply` is the address of these words
SLOT_REPLY = 32
REPLY_VALUE = 0  # one word of result; 0 unless set
REPLY_PAYLOAD = 1  # where to write; a handler may instead point it at memory that stays
REPLY_PAYLOAD_BYTES = 2  # 0 unless set
REPLY_CAPACITY = 3  # bytes of room at REPLY_PAYLOAD
SLOT_WORDS = 40

# the reply's room: its header ends where its payload begins, so that a short reply is one piece
ROOM_HEADER = 64 - REPLY_HEADER_BYTES
ROOM_PAYLOAD = 64
ROOM_BYTES = MAX_PAYLOAD_BYTES + 4096  # only touched pages are backed

# --- the agent's state: `state` is the address of these words
AGENT_STOP = 0
AGENT_CHANNELS = 1  # address of the agent's channels (fabric/ucx/channels.py), or 0 where no UCX is installed
AGENT_CONTROL = 2
AGENT_RANK = 3
AGENT_NUM_SLOTS = 4
AGENT_SPIN_NS = 5  # of polling before a sleep, while requests follow each other closely
AGENT_SLOTS = 6  # address of AGENT_NUM_SLOTS * SLOT_WORDS words
AGENT_ROOMS = 7  # address of AGENT_NUM_SLOTS * ROOM_BYTES bytes
AGENT_HANDLERS = 8  # address of NUM_OPERATIONS * {function, context}
AGENT_SEND_PARAM = 9  # address of the ucp_request_param_t of replies
AGENT_POLL_FDS = 10  # address of the pollfd array {event fds of the channels, local eventfd, pidfds...}
AGENT_NUM_POLL_FDS = 11
AGENT_POLL_RANKS = 12  # address of a word a pollfd: the rank that it watches
AGENT_WATCHES = 13  # address of AGENT_NUM_RANKS * WATCH_WORDS words: connections that tell of a death
AGENT_NUM_LOST = 14  # connections that broke and are not yet published
AGENT_NUM_RANKS = 15
AGENT_FREE = 16  # the four rings; a slot is in exactly one, or in the hands of the loop
AGENT_READY = 20
AGENT_PENDING = 24
AGENT_SENDING = 28
AGENT_NUM_SERVED = 32  # counters
AGENT_NUM_FAILED = 33  # requests that ended with a negative status
AGENT_NUM_DROPPED = 34  # messages against the protocol: no slot, no reply endpoint, a torn header
AGENT_NUM_SEND_ERRORS = 35
AGENT_NUM_SLEEPS = 36
AGENT_NUM_BUSY_ARMS = 37
AGENT_MAX_READY = 38  # most requests that ever waited
AGENT_LOCAL_FD = 39
AGENT_OWN = 41  # address of the words OWN_*
AGENT_IS_CLOSE = 42  # 1 while requests follow each other closely: see loop.py
AGENT_CORES = 43  # address of two cpu_set_t: every core that the agent may use, and its rank's own; or 0
AGENT_POLL_LOCAL = 44  # place of the local eventfd in the array; the pidfds follow
AGENT_POLL_SCRATCH = 40  # the 8 bytes that reading the eventfd needs
AGENT_WORDS = 64

AGENT_COUNTERS = {
    "served": AGENT_NUM_SERVED,
    "failed": AGENT_NUM_FAILED,
    "dropped": AGENT_NUM_DROPPED,
    "send_errors": AGENT_NUM_SEND_ERRORS,
    "sleeps": AGENT_NUM_SLEEPS,
    "busy_arms": AGENT_NUM_BUSY_ARMS,
    "max_ready": AGENT_MAX_READY,
}

# --- a ring of slot numbers
RING_ITEMS = 0  # address of its items
RING_MASK = 1  # its capacity, a power of two, less 1
RING_HEAD = 2  # counts what was taken from the front
RING_TAIL = 3  # counts what was added, less what was taken from the back

CPU_SET_BYTES = 128

POLLFD_BYTES = 8  # int fd; short events; short revents

# --- a watch: a connection of the agent's own to another one's
WATCH_STATUS = 0  # why UCX says that it broke, else 0
WATCH_STATE = 1  # address of the agent's state
WATCH_ENDPOINT = 2  # 0 for a rank that is not watched this way
WATCH_SEND = 3  # send request of the greeting
WATCH_HELLO = 4  # the greeting: this rank
WATCH_WORDS = 8

# --- what a home calls its own: the context of the handlers that touch memory
OWN_CONTROL = 0
OWN_GPU = (
    1  # address of the words SERVED_* (serving/gpu_handlers.py) where the device segment is of a GPU, else 0
)
OWN_NUM_REGIONS = 2
OWN_REGIONS = 3  # {address, bytes} of each

# --- a client's state: `client` is the address of these words
CLIENT_CHANNELS = 0  # address of the channels of the thread that asks
CLIENT_CONTROL = 1
CLIENT_RANK = 2
CLIENT_CREDITS = 3
CLIENT_SPIN_NS = 4  # of polling before a sleep, where requests follow each other closely
CLIENT_SLOTS = 5  # address of num_ranks * credits * CLIENT_SLOT_WORDS words
CLIENT_FREE = 6  # address of a word a rank: bit k is set while its slot k is free
CLIENT_ENDPOINTS = 7  # address of a word a rank: the endpoint to its agent
CLIENT_SEND_PARAM = 8
CLIENT_GENERATION = 10
CLIENT_NUM_LATE = 11  # replies that came after their caller had given up
CLIENT_NUM_SLEEPS = 12
CLIENT_NUM_SLOTS = 13
CLIENT_LONE_SPIN_NS = 14  # of polling where they do not
CLIENT_LAST_DONE_NS = 15  # when the last wait ended
CLIENT_IS_CLOSE = 24  # 1 if the agent that replied last spins
CLIENT_ARGUMENTS = 16  # MAX_ARGUMENTS words that a caller in Python hands over as numbers, in its turn
CLIENT_TRAFFIC = 25  # address of NUM_COUNTED * COUNTED_WORDS words a rank
CLIENT_WORDS = 32

NUM_COUNTED = 8  # operations by address: those of Operation below 8
COUNTED_WORDS = 2  # requests, bytes

SEQUENCE_SLOT_BITS = 16  # sequence = generation << 16 | slot
SEQUENCE_SLOT_MASK = (1 << SEQUENCE_SLOT_BITS) - 1

CLIENT_SLOT_STATE = 0
CLIENT_SLOT_SEQUENCE = 1
CLIENT_SLOT_SEND = 2
CLIENT_SLOT_STATUS = 3
CLIENT_SLOT_VALUE = 4
CLIENT_SLOT_BYTES = 5  # of the reply's payload
CLIENT_SLOT_DST = 6  # where the payload goes; TO_VALUE: the 8 bytes or less are the reply's value
CLIENT_SLOT_CAPACITY = 7
CLIENT_SLOT_HEADER = 8  # the request's header
CLIENT_SLOT_WORDS = CLIENT_SLOT_HEADER + MAX_REQUEST_HEADER_BYTES // WORD + 4
assert CLIENT_SLOT_WORDS % 8 == 0 and SLOT_WORDS % 8 == 0 and SLOT_SEND < SLOT_REPLY

TO_VALUE = 0

IDLE, SENT, DONE, GIVEN_UP, LATE = 0, 1, 2, 4, 8  # CLIENT_SLOT_STATE; LATE: replied after it was given up
