"""Requests and replies as Python sees them, and the errors that a refusal becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ...errors import HandlerError, UnknownOperation
from ...kernels import status
from .. import layout
from ..layout import Operation


class Request(NamedTuple):
    """One request. `payload` and `dst` are pointers: the bytes to send, at most MAX_PAYLOAD_BYTES, and room
    for those of the reply. `keep` is the owner of that memory: it lives until the request has ended."""

    rank: int
    operation: int
    arguments: tuple[int, ...] = ()
    payload: int = 0
    payload_bytes: int = 0
    dst: int = 0
    capacity: int = 0
    keep: Any = None


class Reply(NamedTuple):
    """A handler's answer: its status, one word, and the number of bytes at the request's `dst`."""

    status: int
    value: int
    num_bytes: int


@dataclass(frozen=True)
class Ticket:
    """A request in flight, under its sequence number."""

    sequence: int
    request: Request


def check(rank: int, operation: int, reply: Reply) -> None:
    """Raise HandlerError where `reply` refuses."""
    if reply.status < 0:
        raise refusal(rank, operation, reply)


def refusal(rank: int, operation: int, reply: Reply) -> HandlerError:
    """The error that says why `rank` refused."""
    name, code = operation_name(operation), reply.status
    if code == layout.UNKNOWN_OPERATION:
        return UnknownOperation(rank, name, code, "no handler is registered there; use agent.register")
    if code == layout.REPLY_TOO_LARGE:
        return HandlerError(rank, name, code, f"there is no room for a reply of {reply.num_bytes} bytes")
    if code == layout.CLOSING:
        return HandlerError(rank, name, code, "its agent was closed before it was done")
    if code == status.CACHED:
        why = "ranks keep copies of that memory, which a raw access would pass by: use the accesses of space.cache"
        return HandlerError(rank, name, code, why)
    return HandlerError(rank, name, code, status.name(code))


def operation_name(operation: int) -> str:
    """How errors call an operation."""
    try:
        return Operation(operation).name
    except ValueError:
        return f"operation {operation}"
