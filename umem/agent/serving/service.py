"""The agent's work on a request: queue it, run its handler, send the reply, take the slot back.

A slot goes free -> ready -> (pending ->) sending -> free, and only the agent's thread moves it. UCX's
callback only copies the request into a slot; handlers run later, in the loop, where they may take
long and where a reply may be sent.
"""

from __future__ import annotations

from ...fabric.ucx.abi import CONSTANTS, UCS_INPROGRESS, UCS_OK
from ...fabric.ucx.calls import am_data_release, am_send, request_free, request_status
from ...fabric.ucx.channels import disarm, worker_of
from ...kernels import status
from ...kernels.build.compile import c_callback, device_function
from ...kernels.intrinsics.scalar import load_acquire_i64, load_i64, store_i64
from ...kernels.intrinsics.system import call_handler, copy_bytes
from ...kernels.page.control import peer_is_dead
from .. import layout
from .queue import pop_first, pop_last, push, ring_length

WORD = layout.WORD
HAS_REPLY_ENDPOINT = CONSTANTS["UCP_AM_RECV_ATTR_FIELD_REPLY_EP"]
HAS_KEPT_DATA = CONSTANTS["UCP_AM_RECV_ATTR_FLAG_DATA"]
SERVE_BATCH = 16  # requests a turn: a full queue must not keep progress and liveness waiting


@device_function
def slot_address(state, slot):
    """Address of the words of `slot`: its request; the reply is SLOT_REPLY words further."""
    return load_i64(state, layout.AGENT_SLOTS) + slot * layout.SLOT_WORDS * WORD


@device_function
def reply_address(state, slot):
    """Address of the words of the slot's reply."""
    return slot_address(state, slot) + layout.SLOT_REPLY * WORD


@device_function
def room_address(state, slot):
    """Address of the room for the slot's reply: its header, then its payload."""
    return load_i64(state, layout.AGENT_ROOMS) + slot * layout.ROOM_BYTES


@device_function
def count(state, counter):
    """Raise one of the state's counters."""
    store_i64(state, counter, load_i64(state, counter) + 1)


@c_callback("int8(int64, int64, int64, int64, int64, int64)")
def receive_request(state, header, header_bytes, data, data_bytes, parameters):
    """UCX hands over a request: copy its header into a free slot, keep its data where it lies.

    Returns INPROGRESS when the data is kept; `take_back` then releases it.
    """
    attributes = load_i64(parameters, 0)
    num_words = load_i64(header, layout.WIRE_OPERATION) >> layout.WIRE_COUNT_SHIFT
    inline_bytes = load_i64(header, layout.WIRE_INLINE_BYTES)
    if (
        header_bytes != layout.REQUEST_HEADER_BYTES + num_words * WORD + inline_bytes
        or header_bytes > layout.MAX_REQUEST_HEADER_BYTES
        or (attributes & HAS_REPLY_ENDPOINT) == 0
        or (data_bytes > 0 and (attributes & HAS_KEPT_DATA) == 0)
        or ring_length(state + layout.AGENT_FREE * WORD) == 0  # a client sent more than its credits
    ):
        count(state, layout.AGENT_NUM_DROPPED)
        return UCS_OK
    slot = pop_last(state + layout.AGENT_FREE * WORD)
    request = slot_address(state, slot)
    operation = load_i64(header, layout.WIRE_OPERATION) & ((1 << layout.WIRE_COUNT_SHIFT) - 1)
    store_i64(request, layout.REQUEST_OPERATION, operation)
    store_i64(request, layout.REQUEST_SOURCE, load_i64(header, layout.WIRE_SOURCE))
    store_i64(request, layout.REQUEST_SEQUENCE, load_i64(header, layout.WIRE_SEQUENCE))
    store_i64(request, layout.REQUEST_NUM_WORDS, num_words)
    index = 0
    while index < 4:
        store_i64(request, layout.REQUEST_SCRATCH + index, 0)
        index += 1
    index = 0
    while index < layout.MAX_ARGUMENTS:
        word = 0
        if index < num_words:
            word = load_i64(header, layout.WIRE_WORDS + index)
        store_i64(request, layout.REQUEST_WORDS + index, word)
        index += 1
    store_i64(request, layout.SLOT_REPLY_ENDPOINT, load_i64(parameters, 1))
    store_i64(request, layout.SLOT_SEND, 0)
    store_i64(request, layout.SLOT_HELD, 0)
    store_i64(request, layout.REQUEST_PAYLOAD, request + layout.REQUEST_INLINE * WORD)
    store_i64(request, layout.REQUEST_PAYLOAD_BYTES, inline_bytes)
    kept = UCS_OK
    if data_bytes > 0:
        store_i64(request, layout.REQUEST_PAYLOAD, data)
        store_i64(request, layout.REQUEST_PAYLOAD_BYTES, data_bytes)
        store_i64(request, layout.SLOT_HELD, data)
        kept = UCS_INPROGRESS
    elif inline_bytes > 0:
        inline = header + (layout.WIRE_WORDS + num_words) * WORD
        copy_bytes(request + layout.REQUEST_INLINE * WORD, inline, inline_bytes)
    reply = reply_address(state, slot)
    store_i64(reply, layout.REPLY_VALUE, 0)
    store_i64(reply, layout.REPLY_PAYLOAD, room_address(state, slot) + layout.ROOM_PAYLOAD)
    store_i64(reply, layout.REPLY_PAYLOAD_BYTES, 0)
    store_i64(reply, layout.REPLY_CAPACITY, layout.MAX_PAYLOAD_BYTES)
    push(state + layout.AGENT_READY * WORD, slot)
    return kept


@device_function
def serve_ready(state):
    """Run the handlers of up to SERVE_BATCH waiting requests; how many were run."""
    ready = state + layout.AGENT_READY * WORD
    length = ring_length(ready)
    if length > load_i64(state, layout.AGENT_MAX_READY):
        store_i64(state, layout.AGENT_MAX_READY, length)
    num_served = 0
    while num_served < SERVE_BATCH and ring_length(ready) > 0:
        run(state, pop_first(ready))
        num_served += 1
    return num_served


@device_function
def continue_pending(state):
    """Call the handler of every pending request once more; how many came to an end."""
    pending = state + layout.AGENT_PENDING * WORD
    left = ring_length(pending)
    num_ended = left
    while left > 0:
        run(state, pop_first(pending))
        left -= 1
    return num_ended - ring_length(pending)


@device_function
def run(state, slot):
    """Call the handler of the request in `slot`; reply, or let it wait for its next turn."""
    request = slot_address(state, slot)
    operation = load_i64(request, layout.REQUEST_OPERATION)
    entry = load_i64(state, layout.AGENT_HANDLERS) + operation * 2 * WORD
    function = 0
    if 0 <= operation < layout.NUM_OPERATIONS:
        function = load_acquire_i64(entry, 0)
    if function == 0:
        send_reply(state, slot, layout.UNKNOWN_OPERATION)
        return
    code = call_handler(function, request, reply_address(state, slot), load_i64(entry, 1))
    if code == status.PENDING:
        push(state + layout.AGENT_PENDING * WORD, slot)
    else:
        send_reply(state, slot, code)


@device_function
def send_reply(state, slot, code):
    """Answer the request in `slot` with status `code` and the reply that its handler has filled.

    A short payload travels in the header, which lies just before it, so nothing is copied; a long one
    is sent from where it lies and must stay as it is until the slot is free again.
    """
    request, reply = slot_address(state, slot), reply_address(state, slot)
    count(state, layout.AGENT_NUM_SERVED)
    num_bytes = load_i64(reply, layout.REPLY_PAYLOAD_BYTES)
    if code < 0:
        count(state, layout.AGENT_NUM_FAILED)
        num_bytes = 0
    if peer_is_dead(load_i64(state, layout.AGENT_CONTROL), load_i64(request, layout.REQUEST_SOURCE)):
        take_back(state, slot)
        return
    room = room_address(state, slot)
    header = room + layout.ROOM_HEADER
    payload = load_i64(reply, layout.REPLY_PAYLOAD)
    header_bytes = layout.REPLY_HEADER_BYTES
    store_i64(header, layout.WIRE_REPLY_SEQUENCE, load_i64(request, layout.REQUEST_SEQUENCE))
    store_i64(header, layout.WIRE_REPLY_STATUS, code)
    store_i64(header, layout.WIRE_REPLY_VALUE, load_i64(reply, layout.REPLY_VALUE))
    is_close = load_i64(state, layout.AGENT_IS_CLOSE) << layout.WIRE_CLOSE_SHIFT
    if num_bytes <= layout.INLINE_BYTES:
        if payload != room + layout.ROOM_PAYLOAD and num_bytes > 0:
            copy_bytes(room + layout.ROOM_PAYLOAD, payload, num_bytes)
        store_i64(header, layout.WIRE_REPLY_INLINE_BYTES, num_bytes | is_close)
        header_bytes += num_bytes
        num_bytes = 0
    else:
        store_i64(header, layout.WIRE_REPLY_INLINE_BYTES, is_close)
    sent = am_send(
        load_i64(request, layout.SLOT_REPLY_ENDPOINT),
        layout.AM_REPLY,
        header,
        header_bytes,
        payload,
        num_bytes,
        load_i64(state, layout.AGENT_SEND_PARAM),
    )
    if sent > 0:
        store_i64(request, layout.SLOT_SEND, sent)
        disarm(load_i64(state, layout.AGENT_CHANNELS), load_i64(request, layout.REQUEST_SOURCE))
        push(state + layout.AGENT_SENDING * WORD, slot)
        return
    if sent < 0:  # the asker is gone, or its deadline tells it that no answer came
        count(state, layout.AGENT_NUM_SEND_ERRORS)
    take_back(state, slot)


@device_function
def reap_sent(state):
    """Take back the slots whose replies have left, or never will, for a dead requester; returns their number.

    UCX keeps a send to a dead rank until its worker ends. The memory that it reads stays mapped as long, and may
    hold another reply by then, which no rank reads.
    """
    sending = state + layout.AGENT_SENDING * WORD
    left = ring_length(sending)
    num_reaped = 0
    while left > 0:
        slot = pop_first(sending)
        request = slot_address(state, slot)
        sent = load_i64(request, layout.SLOT_SEND)
        code = request_status(sent)
        is_under_way = code == UCS_INPROGRESS
        if is_under_way and not peer_is_dead(
            load_i64(state, layout.AGENT_CONTROL), load_i64(request, layout.REQUEST_SOURCE)
        ):
            push(sending, slot)
        else:
            if code < 0:
                count(state, layout.AGENT_NUM_SEND_ERRORS)
            if not is_under_way:
                request_free(sent)
            take_back(state, slot)
            num_reaped += 1
        left -= 1
    return num_reaped


@device_function
def take_back(state, slot):
    """Free the slot and the data that UCX kept for it."""
    request = slot_address(state, slot)
    held = load_i64(request, layout.SLOT_HELD)
    if held != 0:
        source = load_i64(request, layout.REQUEST_SOURCE)
        am_data_release(worker_of(load_i64(state, layout.AGENT_CHANNELS), source), held)
    push(state + layout.AGENT_FREE * WORD, slot)


@device_function
def refuse_all(state):
    """Answer every request that still waits with CLOSING: the agent is closing."""
    ready, pending = state + layout.AGENT_READY * WORD, state + layout.AGENT_PENDING * WORD
    while ring_length(ready) > 0:
        send_reply(state, pop_first(ready), layout.CLOSING)
    while ring_length(pending) > 0:
        send_reply(state, pop_first(pending), layout.CLOSING)
