"""Requests that compiled code makes through a rank's gate (kernels/gate.py), and what it leaves unfinished."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from ..errors import RankLost
from ..kernels import gate as way
from ..kernels import status
from ..kernels.control import home_rank
from . import layout, requests
from .arena import Words
from .messages import Reply, Request, Ticket


class GateServer:
    """The part of a client that serves a gate; the client supplies the ways to ask and to wait."""

    address: int
    words: Words
    _ask: Callable[..., tuple[int, int, int, int]]
    _go_on: Callable[..., int]
    _wait: Callable[..., Reply]
    _make_ready: Callable[..., None]
    _gate: ctypes.Array[ctypes.c_int64]
    _left: Ticket | None

    def serve_gate(self, gate: ctypes.Array[ctypes.c_int64]) -> None:
        """Let compiled accesses through `gate` (kernels/gate.py) ask for this rank, until `shut`."""
        self._gate = gate
        gate[way.CONTEXT], gate[way.ASK] = self.address, requests.ask_for_gate.address

    def finish_gate(self, keep: Any = None) -> int:
        """Finish the request in the gate that compiled code has left PENDING; the bits of its scalar.

        `keep` is alive while its memory is read or written, as for `read`.
        """
        gate = self._gate
        if not gate[way.ASK]:
            self._ask()  # shut: it says why
        fields = tuple(gate[word] for word in way.FIELDS)
        code, first, rank = gate[way.CODE], gate[way.FIRST], gate[way.RANK]
        if code == status.OK:  # the home itself has answered
            rank = home_rank(self.words[layout.CLIENT_CONTROL], gate[way.ADDRESS])
        value = self._go_on(code, first, rank, fields, keep)
        return gate[way.REPLY] if gate[way.REPLY_BYTES] else value

    def settle_gate(self, timeout_s: float) -> Reply:
        """The reply to the request in the gate that compiled code has left PENDING, whatever its status.

        Where the wait is cut short, by a signal or the deadline, it goes on with the next call: `is_left` then.
        """
        gate = self._gate
        if self._left is None:
            fields = tuple(gate[word] for word in way.FIELDS)
            code, first, rank = gate[way.CODE], gate[way.FIRST], gate[way.RANK]
            if code == status.OK:
                return Reply(first, gate[way.VALUE], 0)
            while first == 0:  # it was never sent
                self._make_ready(code, rank, fields[0], timeout_s)
                code, first, *answer = self._ask(self.address, rank, *fields)
                if code == status.OK:
                    return Reply(first, *answer)
            self._left = Ticket(first, Request(rank, fields[0]))
        try:
            reply = self._wait(self._left, timeout_s, gives_up=False)
        except RankLost:
            self._left = None
            raise
        self._left = None
        return reply

    @property
    def is_left(self) -> bool:
        """Whether a request of the gate was sent and its reply is still to come."""
        return self._left is not None
