"""A round of probes: one to each rank that must let go of a line, sent at once and asked for until all are answered.

Sequence numbers of the probes of a request stand in its row of tickets: a word a rank, 0 where nothing is due.
"""

from __future__ import annotations

from ...agent import layout
from ...agent.asking.requests import give_up, post, take_reply
from ...kernels import device_function, status
from ...kernels.coherent import layout as words
from ...kernels.coherent.cache import count
from ...kernels.coherent.directory import NO_RANK, owner_of
from ...kernels.coherent.transaction import first_target
from ...kernels.intrinsics.scalar import load_i64, store_i64
from ...kernels.page.control import CONTROL_NUM_RANKS, peer_is_dead, shares_meta
from .prober import PROBER_CACHE, PROBER_CLIENT, PROBER_STATE, PROBER_TICKETS
from .probes import PROBE_INVALIDATE

PROBE = int(layout.Operation.PROBE)
SENT_NOTHING, TO_SEND = 0, -1
SCRATCH_LOST = 3  # scratch word of a request: 1 where the only copy of its line is lost


@device_function
def tickets_of(request, context):
    """Address of the request's row of tickets."""
    state = load_i64(context, PROBER_STATE)
    slot = (request - load_i64(state, layout.AGENT_SLOTS)) // (layout.SLOT_WORDS * layout.WORD)
    return load_i64(context, PROBER_TICKETS) + slot * load_i64(state, layout.AGENT_NUM_RANKS) * layout.WORD


@device_function
def send_probes(request, context, row, value, rank):
    """Send a probe to each rank that the row names and that is not mapped: the owner, or every sharer."""
    control = load_i64(load_i64(context, PROBER_CACHE), words.CACHE_CONTROL)
    num_ranks = load_i64(control, CONTROL_NUM_RANKS)
    tickets = tickets_of(request, context)
    target = 0
    while target < num_ranks:
        store_i64(tickets, target, SENT_NOTHING)
        target += 1
    if row & (words.FORWARD_SHARED | words.FORWARD_INVALID):
        store_i64(tickets, owner_of(value), TO_SEND)
        return
    source = load_i64(request, layout.REQUEST_SOURCE)
    target = first_target(value, row, 0, num_ranks)
    while target != NO_RANK:
        is_kept = target == source and row & words.ACCESS_HOME == 0
        if not shares_meta(control, target) and not is_kept:
            store_i64(tickets, target, TO_SEND)
        target = first_target(value, row, target + 1, num_ranks)


@device_function
def are_answered(request, context, start, line_log2, kind):
    """True once every probe of the request is answered, or its rank dead; sends those that had to wait.

    The owner's line lands in the home's memory. The request's SCRATCH_LOST is set where it will not come.
    """
    cache, client = load_i64(context, PROBER_CACHE), load_i64(context, PROBER_CLIENT)
    control = load_i64(cache, words.CACHE_CONTROL)
    num_ranks = load_i64(control, CONTROL_NUM_RANKS)
    tickets = tickets_of(request, context)
    num_open = 0
    target = 0
    while target < num_ranks:
        ticket = load_i64(tickets, target)
        if ticket == TO_SEND:
            ticket = send_probe(client, cache, target, start, line_log2, kind)
            store_i64(tickets, target, ticket)
        if ticket != SENT_NOTHING:
            code = status.PENDING
            if ticket > 0:
                found, answer, _, _ = take_reply(client, ticket)
                if found == status.OK:
                    code = answer
            if code == status.PENDING and peer_is_dead(control, target):
                code = status.RANK_LOST
                if ticket > 0:
                    give_up(client, ticket)
            if code == status.PENDING:
                num_open += 1
            else:
                store_i64(tickets, target, SENT_NOTHING)
                if kind == PROBE_INVALIDATE:
                    count(cache, words.INVALIDATED + target, 1)
                    count(cache, words.NUM_INVALIDATIONS, 1)
                elif code == status.OK:
                    count(cache, words.NUM_FORWARDS, 1)
                    count(cache, words.INVALIDATED + target, 1)
                else:
                    store_i64(request + layout.REQUEST_SCRATCH * layout.WORD, SCRATCH_LOST, 1)
        target += 1
    return num_open == 0


@device_function
def send_probe(client, cache, target, start, line_log2, kind):
    """Send one: its ticket, or TO_SEND where as many as may be are under way."""
    arguments = client + layout.CLIENT_ARGUMENTS * layout.WORD
    store_i64(arguments, 0, start)
    store_i64(arguments, 1, kind)
    store_i64(arguments, 2, line_log2)
    room = 0 if kind == PROBE_INVALIDATE else 1 << line_log2
    ticket = post(client, target, PROBE, arguments, 3, 0, 0, start, room)
    return ticket if ticket > 0 else TO_SEND
