"""The asking side in compiled code: send a request to a home's agent, wait for the reply.

A request travels through the main channels, which the threads of a rank use in turns (fabric/ucx/turns.py): each
kernel here is one turn, which it gives away while it waits. The slot of a request is its credit: slot
`rank * credits + k` is one of the `credits` requests that may be in flight to `rank`, and it is where the reply lands.

Waiting spins where requests follow each other closely, for then the agent spins too and answers in a few
us; else it sleeps at once on the channels' event fds, for a sleeping agent takes 30 us to answer, and where
no core is free for it, it runs on this very one. 8 B fetch_add every 500 us at a home that computes, two
cores: p50 / p99 over shared memory 34 / 113 us and over tcp 48 / 190; with a spin of 100 us and the agent
on its rank's core 41 / 356 and 67 / 325. Where cores are free it spins for that long all the same, which
saves one of the two wake-ups.
"""

from __future__ import annotations

from ...fabric.ucx.abi import UCS_INPROGRESS, UCS_OK
from ...fabric.ucx.calls import am_send, request_free, request_status, worker_progress
from ...fabric.ucx.channels import CHANNELS_HAS_NEWS, begin_wait, disarm, worker_of
from ...fabric.ucx.turns import end_turn, let_others, sleep_for_news, take_turn
from ...kernels import status
from ...kernels.build.compile import c_callback, cpu_kernel, device_function
from ...kernels.intrinsics.scalar import load_acquire_i64, load_i64, store_i64
from ...kernels.intrinsics.system import copy_bytes, count_trailing_zeros_u64, now_ns, pause
from ...kernels.page import gate as gates
from ...kernels.page.control import CONTROL_EPOCH, CONTROL_STOP, home_rank, peer_is_dead
from .. import layout

WORD = layout.WORD
_CLOSE_NS = 50_000  # a request that follows the last reply within this time follows closely
LIVENESS_NS = 10_000_000  # longest sleep before the epoch is looked at again


@device_function
def slot_of(sequence):
    """The slot of a request."""
    return sequence & ((1 << layout.SEQUENCE_SLOT_BITS) - 1)


@device_function
def client_slot(client, slot):
    """Address of the words of `slot`."""
    return load_i64(client, layout.CLIENT_SLOTS) + slot * layout.CLIENT_SLOT_WORDS * WORD


@device_function
def give_credit_back(client, slot):
    """Free `slot` for another request to the same rank."""
    rank = slot // load_i64(client, layout.CLIENT_CREDITS)
    bit = 1 << (slot - rank * load_i64(client, layout.CLIENT_CREDITS))
    free = load_i64(client, layout.CLIENT_FREE)
    store_i64(client_slot(client, slot), layout.CLIENT_SLOT_STATE, layout.IDLE)
    store_i64(free, rank, load_i64(free, rank) | bit)


@c_callback("int8(int64, int64, int64, int64, int64, int64)")
def receive_reply(client, header, header_bytes, data, data_bytes, parameters):
    """UCX hands over a reply: it lands in the slot of its sequence number, which waits for it."""
    sequence = load_i64(header, layout.WIRE_REPLY_SEQUENCE)
    index = slot_of(sequence)
    slot = client_slot(client, index)
    if (
        header_bytes < layout.REPLY_HEADER_BYTES
        or index >= load_i64(client, layout.CLIENT_NUM_SLOTS)
        or load_i64(slot, layout.CLIENT_SLOT_SEQUENCE) != sequence
    ):
        store_i64(client, layout.CLIENT_NUM_LATE, load_i64(client, layout.CLIENT_NUM_LATE) + 1)
        return UCS_OK
    inline = load_i64(header, layout.WIRE_REPLY_INLINE_BYTES)
    store_i64(client, layout.CLIENT_IS_CLOSE, inline >> layout.WIRE_CLOSE_SHIFT)
    src = data
    num_bytes = data_bytes
    if num_bytes == 0:
        src = header + layout.REPLY_HEADER_BYTES
        num_bytes = inline & ((1 << layout.WIRE_CLOSE_SHIFT) - 1)
    store_i64(slot, layout.CLIENT_SLOT_BYTES, num_bytes)
    store_i64(slot, layout.CLIENT_SLOT_STATUS, load_i64(header, layout.WIRE_REPLY_STATUS))
    store_i64(slot, layout.CLIENT_SLOT_VALUE, load_i64(header, layout.WIRE_REPLY_VALUE))
    if num_bytes > load_i64(slot, layout.CLIENT_SLOT_CAPACITY):
        store_i64(slot, layout.CLIENT_SLOT_STATUS, layout.REPLY_TOO_LARGE)
    elif num_bytes > 0:
        dst = load_i64(slot, layout.CLIENT_SLOT_DST)
        if dst == layout.TO_VALUE:
            dst = slot + layout.CLIENT_SLOT_VALUE * WORD
            store_i64(dst, 0, 0)
        copy_bytes(dst, src, num_bytes)
    if load_i64(slot, layout.CLIENT_SLOT_STATE) == layout.GIVEN_UP:
        store_i64(client, layout.CLIENT_NUM_LATE, load_i64(client, layout.CLIENT_NUM_LATE) + 1)
        store_i64(slot, layout.CLIENT_SLOT_STATE, layout.LATE)
    else:
        store_i64(slot, layout.CLIENT_SLOT_STATE, layout.DONE)
    return UCS_OK


@device_function
def settle(client, slot):
    """True once UCX needs nothing more of the slot's request: its header and payload may go."""
    words = client_slot(client, slot)
    sent = load_i64(words, layout.CLIENT_SLOT_SEND)
    if sent == 0:
        return True
    if request_status(sent) == UCS_INPROGRESS:
        return False
    request_free(sent)
    store_i64(words, layout.CLIENT_SLOT_SEND, 0)
    return True


@device_function
def collect_late(client, rank):
    """Free the slots of `rank` whose caller gave up and whose reply has come since."""
    credits = load_i64(client, layout.CLIENT_CREDITS)
    slot = rank * credits
    while slot < (rank + 1) * credits:
        state = load_i64(client_slot(client, slot), layout.CLIENT_SLOT_STATE)
        if state == layout.LATE and settle(client, slot):
            give_credit_back(client, slot)
        slot += 1


@device_function
def wait_for_bits(client, rank, word, mask, epoch):
    """Progress until the word at address `word`, which a reply of `rank` changes, has a bit of `mask`.

    OK, AGAIN, EPOCH_CHANGED, INTERRUPTED or FABRIC_FAILED.
    """
    control = load_i64(client, layout.CLIENT_CONTROL)
    channels = load_i64(client, layout.CLIENT_CHANNELS)
    worker = worker_of(channels, rank)
    begin_wait(channels)
    begin = now_ns()
    until = begin + status.SLICE_NS
    spin_ns = load_i64(client, layout.CLIENT_LONE_SPIN_NS)
    is_close = load_i64(client, layout.CLIENT_IS_CLOSE) != 0
    if is_close and begin - load_i64(client, layout.CLIENT_LAST_DONE_NS) < _CLOSE_NS:
        spin_ns = load_i64(client, layout.CLIENT_SPIN_NS)
    spin_until = begin + spin_ns
    while True:
        if load_i64(word, 0) & mask != 0:
            store_i64(client, layout.CLIENT_LAST_DONE_NS, now_ns())
            return status.OK
        if let_others(channels) != status.OK:
            return status.INTERRUPTED
        if worker_progress(worker) > 0:
            store_i64(channels, CHANNELS_HAS_NEWS, 1)
            continue
        if load_acquire_i64(control, CONTROL_STOP) != 0:
            return status.INTERRUPTED
        if load_acquire_i64(control, CONTROL_EPOCH) != epoch:
            if worker_progress(worker) > 0:
                store_i64(channels, CHANNELS_HAS_NEWS, 1)
                continue  # what a rank sent while it lived is there to be read
            return status.EPOCH_CHANGED
        now = now_ns()
        if now >= until:
            return status.AGAIN
        if now < spin_until:
            pause()
            continue
        store_i64(client, layout.CLIENT_NUM_SLEEPS, load_i64(client, layout.CLIENT_NUM_SLEEPS) + 1)
        code = sleep_for_news(channels, worker, LIVENESS_NS)
        if code != status.OK:
            return code


@device_function
def post(client, rank, operation, words, num_words, payload, payload_bytes, dst, capacity):
    """Send a request; its sequence number (above 0) or a negative status.

    BUSY: as many requests as may be are in flight to that rank. NOT_FOUND: no endpoint to it yet.
    `words` is the address of `num_words` arguments, which are copied. A payload above INLINE_BYTES is
    sent from where it lies and must stay there, like `dst` (room for `capacity` bytes of reply), until
    `finish` returned OK for the sequence number.
    """
    credits = load_i64(client, layout.CLIENT_CREDITS)
    if rank < 0 or rank * credits >= load_i64(client, layout.CLIENT_NUM_SLOTS):
        return status.OUT_OF_RANGE
    if payload_bytes < 0 or payload_bytes > layout.MAX_PAYLOAD_BYTES:
        return status.BAD_REQUEST
    if peer_is_dead(load_i64(client, layout.CLIENT_CONTROL), rank):
        return status.RANK_LOST
    endpoint = load_i64(load_i64(client, layout.CLIENT_ENDPOINTS), rank)
    if endpoint == 0:
        return status.NOT_FOUND
    free = load_i64(client, layout.CLIENT_FREE)
    if load_i64(free, rank) == 0:
        collect_late(client, rank)
        if load_i64(free, rank) == 0:
            return status.BUSY
    credit = count_trailing_zeros_u64(load_i64(free, rank))
    store_i64(free, rank, load_i64(free, rank) & ~(1 << credit))
    slot = rank * credits + credit
    generation = load_i64(client, layout.CLIENT_GENERATION) + 1
    store_i64(client, layout.CLIENT_GENERATION, generation)
    sequence = generation << layout.SEQUENCE_SLOT_BITS | slot
    address = client_slot(client, slot)
    store_i64(address, layout.CLIENT_SLOT_STATE, layout.SENT)
    store_i64(address, layout.CLIENT_SLOT_SEQUENCE, sequence)
    store_i64(address, layout.CLIENT_SLOT_DST, dst)
    store_i64(address, layout.CLIENT_SLOT_CAPACITY, capacity)
    header = address + layout.CLIENT_SLOT_HEADER * WORD
    header_bytes = layout.REQUEST_HEADER_BYTES + num_words * WORD
    store_i64(header, layout.WIRE_OPERATION, operation | num_words << layout.WIRE_COUNT_SHIFT)
    store_i64(header, layout.WIRE_SOURCE, load_i64(client, layout.CLIENT_RANK))
    store_i64(header, layout.WIRE_SEQUENCE, sequence)
    index = 0
    while index < num_words:
        store_i64(header, layout.WIRE_WORDS + index, load_i64(words, index))
        index += 1
    data_bytes = payload_bytes
    inline_bytes = 0
    if payload_bytes <= layout.INLINE_BYTES:
        inline_bytes = payload_bytes
        data_bytes = 0
        if inline_bytes > 0:
            copy_bytes(header + header_bytes, payload, inline_bytes)
    store_i64(header, layout.WIRE_INLINE_BYTES, inline_bytes)
    sent = am_send(
        endpoint,
        layout.AM_REQUEST,
        header,
        header_bytes + inline_bytes,
        payload,
        data_bytes,
        load_i64(client, layout.CLIENT_SEND_PARAM),
    )
    if sent < 0:
        give_credit_back(client, slot)
        return status.FABRIC_FAILED
    store_i64(address, layout.CLIENT_SLOT_SEND, sent)
    if sent > 0:
        disarm(load_i64(client, layout.CLIENT_CHANNELS), rank)
    return sequence


@device_function
def finish(client, sequence, epoch):
    """Wait for the reply to `sequence`; (code, handler's status, value, bytes of payload).

    The code is OK, AGAIN, EPOCH_CHANGED, INTERRUPTED or FABRIC_FAILED. On OK the slot is free and the
    payload is at the request's `dst`; with status REPLY_TOO_LARGE it is not, and the bytes say how many.
    """
    slot = slot_of(sequence)
    rank = slot // load_i64(client, layout.CLIENT_CREDITS)
    state = client_slot(client, slot) + layout.CLIENT_SLOT_STATE * WORD
    code = wait_for_bits(client, rank, state, layout.DONE, epoch)
    if code != status.OK:
        return code, 0, 0, 0
    return take_reply(client, sequence)


@device_function
def take_reply(client, sequence):
    """`finish` without the wait: AGAIN where the reply is not here, or UCX still needs the request."""
    slot = slot_of(sequence)
    address = client_slot(client, slot)
    has_come = load_i64(address, layout.CLIENT_SLOT_STATE) & (layout.DONE | layout.LATE) != 0
    if not has_come or not settle(
        client, slot
    ):  # a reply may overtake the last acknowledgement of its request
        return status.AGAIN, 0, 0, 0
    code = load_i64(address, layout.CLIENT_SLOT_STATUS)
    value = load_i64(address, layout.CLIENT_SLOT_VALUE)
    num_bytes = load_i64(address, layout.CLIENT_SLOT_BYTES)
    give_credit_back(client, slot)
    return status.OK, code, value, num_bytes


@device_function
def give_up(client, sequence):
    """Forget a request: nothing may land any more, and its credit returns once its reply has come."""
    address = client_slot(client, slot_of(sequence))
    has_reply = load_i64(address, layout.CLIENT_SLOT_STATE) == layout.DONE
    store_i64(address, layout.CLIENT_SLOT_CAPACITY, 0)
    store_i64(address, layout.CLIENT_SLOT_STATE, layout.LATE if has_reply else layout.GIVEN_UP)


@cpu_kernel("int64(int64, int64, int64, int64, int64, int64, int64, int64, int64)", group="ucx")
def post_request(client, rank, operation, words, num_words, payload, payload_bytes, dst, capacity):
    """See `post`."""
    channels = load_i64(client, layout.CLIENT_CHANNELS)
    code = take_turn(channels)
    if code == status.OK:
        code = post(client, rank, operation, words, num_words, payload, payload_bytes, dst, capacity)
    end_turn(channels)
    return code


@cpu_kernel("UniTuple(int64, 4)(int64, int64, int64)", group="ucx")
def finish_request(client, sequence, epoch):
    """See `finish`."""
    channels = load_i64(client, layout.CLIENT_CHANNELS)
    code, reply_status, value, num_bytes = take_turn(channels), 0, 0, 0
    if code == status.OK:
        code, reply_status, value, num_bytes = finish(client, sequence, epoch)
    end_turn(channels)
    return code, reply_status, value, num_bytes


@cpu_kernel("int64(int64, int64, int64)", group="ucx")
def wait_for_credit(client, rank, epoch):
    """Wait until a request may be sent to `rank`; OK, AGAIN, EPOCH_CHANGED, INTERRUPTED or FABRIC_FAILED."""
    channels = load_i64(client, layout.CLIENT_CHANNELS)
    code = take_turn(channels)
    if code == status.OK:
        collect_late(client, rank)
        code = wait_for_bits(client, rank, load_i64(client, layout.CLIENT_FREE) + rank * WORD, -1, epoch)
    end_turn(channels)
    return code


@cpu_kernel("int64(int64, int64)", group="ucx")
def give_up_request(client, sequence):
    """See `give_up`."""
    channels = load_i64(client, layout.CLIENT_CHANNELS)
    code = take_turn(channels)
    give_up(client, sequence)
    end_turn(channels)
    return code


@device_function
def ask_rank(client, rank, operation, word0, word1, word2, word3, payload, payload_bytes, dst, capacity):
    """Send a request of four arguments to `rank` and wait for its reply; what `finish` returns.

    Else (code, sequence, rank, 0), to go on with by `finish_request`, or (code, 0, rank, 0) where nothing
    was sent, for the reasons that `post` gives.
    """
    words = client + layout.CLIENT_ARGUMENTS * WORD
    store_i64(words, 0, word0)
    store_i64(words, 1, word1)
    store_i64(words, 2, word2)
    store_i64(words, 3, word3)
    epoch = load_acquire_i64(load_i64(client, layout.CLIENT_CONTROL), CONTROL_EPOCH)
    sequence = post(client, rank, operation, words, 4, payload, payload_bytes, dst, capacity)
    if sequence < 0:
        return sequence, 0, rank, 0
    code, reply_status, value, num_bytes = finish(client, sequence, epoch)
    if code != status.OK:
        return code, sequence, rank, 0
    return code, reply_status, value, num_bytes


# The hot path, one call from Python: every argument more costs it 50 ns.
@cpu_kernel("UniTuple(int64, 4)(" + ", ".join(["int64"] * 11) + ")", group="ucx")
def ask(client, rank, operation, word0, word1, word2, word3, payload, payload_bytes, dst, capacity):
    """See `ask_rank`."""
    channels = load_i64(client, layout.CLIENT_CHANNELS)
    code, first, value, num_bytes = take_turn(channels), 0, rank, 0
    if code == status.OK:
        code, first, value, num_bytes = ask_rank(
            client, rank, operation, word0, word1, word2, word3, payload, payload_bytes, dst, capacity
        )
    end_turn(channels)
    return code, first, value, num_bytes


@device_function
def ask_home(client, operation, address, word1, word2, word3, payload, payload_bytes, dst, capacity):
    """Ask the home of `address`, the request's first argument; as `ask_rank`, and counted as traffic.

    All bytes of payload and reply have one home, another rank.
    """
    rank = home_rank(load_i64(client, layout.CLIENT_CONTROL), address)
    num_bytes = payload_bytes + capacity
    port = load_i64(client, layout.CLIENT_TRAFFIC)
    port += (rank * layout.NUM_COUNTED + operation) * layout.COUNTED_WORDS * WORD
    store_i64(port, 0, load_i64(port, 0) + 1)
    store_i64(port, 1, load_i64(port, 1) + num_bytes)
    return ask_rank(
        client, rank, operation, address, word1, word2, word3, payload, payload_bytes, dst, capacity
    )


@c_callback("int64(int64, int64, int64)", group="ucx")
def ask_for_gate(gate, _, client):
    """Make the request that stands in the `gate` (kernels/page/gate.py): OK, or PENDING and what is left of it."""
    channels = load_i64(client, layout.CLIENT_CHANNELS)
    code, first, value = take_turn(channels), 0, 0
    if code == status.OK:
        code, first, value, _ = ask_home(
            client,
            load_i64(gate, gates.GATE_OPERATION),
            load_i64(gate, gates.GATE_ADDRESS),
            load_i64(gate, gates.GATE_WORD1),
            load_i64(gate, gates.GATE_WORD2),
            load_i64(gate, gates.GATE_WORD3),
            load_i64(gate, gates.GATE_DATA_AT),
            load_i64(gate, gates.GATE_DATA_BYTES),
            load_i64(gate, gates.GATE_REPLY_AT),
            load_i64(gate, gates.GATE_REPLY_BYTES),
        )
    end_turn(channels)
    if code == status.OK and first == status.OK:
        store_i64(gate, gates.GATE_REPLY, value)
        return status.OK
    return gates.pending(first)
