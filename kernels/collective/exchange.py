"""An exchange: every member tells that it has come, and waits until all have. All operations are made of exchanges.

A member writes to its own page only. Before it posts exchange n it has done all it had to do after exchange n - 1, so
whoever has seen all posts of n may write again what was read after n - 1: slots and halves of staging memory in turn
suffice. Nothing is lost where a wait returns: it is called again.
"""

from __future__ import annotations

from ..build.compile import device_function
from ..intrinsics.scalar import load_i64, store_i64
from ..intrinsics.system import now_ns
from ..page.signal import poll_eagerly, post, wait_patiently
from ..status import MISMATCH, OK
from .layout import (
    SLOT_CALL,
    SLOT_LENGTH,
    SLOT_SIGNAL,
    TEAM_CALL,
    TEAM_CONTROL,
    TEAM_LENGTH,
    TEAM_OTHER,
    TEAM_POSITION,
    TEAM_SEQUENCE,
    TEAM_SIZE,
    member_after,
    slot_of,
)


@device_function
def announce(team):
    """Post the next exchange; release ordering. What it carries has been written to the slot."""
    sequence = load_i64(team, TEAM_SEQUENCE) + 1
    slot = slot_of(team, load_i64(team, TEAM_POSITION), sequence)
    store_i64(slot, SLOT_CALL, load_i64(team, TEAM_CALL))
    store_i64(slot, SLOT_LENGTH, load_i64(team, TEAM_LENGTH))
    store_i64(team, TEAM_SEQUENCE, sequence)
    post(slot + 8 * SLOT_SIGNAL, sequence)


@device_function
def await_all(team, epoch, slice_ns):
    """Wait until all members have posted this member's last exchange; acquire ordering.

    Returns OK, AGAIN after about `slice_ns` (call again), INTERRUPTED, EPOCH_CHANGED where a rank died since `epoch`.
    """
    control = load_i64(team, TEAM_CONTROL)
    num_members, sequence = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_SEQUENCE)
    deadline_ns = 0
    hop = 1
    while hop < num_members:
        signal = slot_of(team, member_after(team, hop), sequence) + 8 * SLOT_SIGNAL
        if poll_eagerly(control, signal, sequence, 0) == 0:
            if deadline_ns == 0:
                deadline_ns = now_ns() + slice_ns
            code = wait_patiently(control, signal, sequence, 0, epoch, deadline_ns)
            if code != OK:
                return code
        hop += 1
    return OK


@device_function
def check_calls(team):
    """OK where all members have called the same, as their slots of this exchange say; else MISMATCH, and TEAM_OTHER is
    the first that has not. All members find the same: there is a mismatch, or there is none."""
    num_members, sequence = load_i64(team, TEAM_SIZE), load_i64(team, TEAM_SEQUENCE)
    call, length = load_i64(team, TEAM_CALL), load_i64(team, TEAM_LENGTH)
    member = 0
    while member < num_members:
        slot = slot_of(team, member, sequence)
        if load_i64(slot, SLOT_CALL) != call or load_i64(slot, SLOT_LENGTH) != length:
            store_i64(team, TEAM_OTHER, member)
            return MISMATCH
        member += 1
    return OK
