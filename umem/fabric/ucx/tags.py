"""UCX's tags, 64 bits: the rank that sends, what kind of message it is, and the user's own tag."""

from __future__ import annotations

from typing import Any

from ...arguments import whole
from ...errors import ConfigError

MAX_TAG = (1 << 40) - 1  # of a user
BARRIER_TAG = 1 << 40  # plus the distance of the round
PARCEL = 1 << 41  # plus a user's tag: a message that is received whole (parcels.py)
COLLECTIVE = 1 << 42  # plus a team's number and its calls so far (umem/collectives/message.py)
TENSOR = 1 << 43  # plus a group's number and tag: a parcel that torch.distributed sends
SENDER_SHIFT = 48  # the upper 16 bits are the sender's rank


def wire(sender: int, tag: int) -> int:
    """The tag by which UCX matches a message of rank `sender`."""
    return sender << SENDER_SHIFT | tag


def sender(wire_tag: int) -> int:
    """The rank that sent a message with this tag."""
    return wire_tag >> SENDER_SHIFT


def checked(tag: Any) -> int:
    """A user's tag. Raises ConfigError."""
    number = whole(tag, "message tag")
    if not 0 <= number <= MAX_TAG:
        raise ConfigError(f"message tag {number} is not between 0 and {MAX_TAG}")
    return number
