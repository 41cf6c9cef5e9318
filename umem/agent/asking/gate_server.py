"""Requests that compiled code makes through a gate of this rank (kernels/page/gate.py), finished here."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from ...errors import RankLost
from ...kernels import status
from ...kernels.page import gate as way
from . import requests
from .messages import Reply, Request, Ticket, refusal

Gate = ctypes.Array[ctypes.c_int64]


class GateServer:
    """The part of a client that serves gates; the client supplies the ways to ask and to wait."""

    address: int
    _ask: Callable[..., tuple[int, int, int, int]]
    _wait: Callable[..., Reply]
    _make_ready: Callable[..., None]
    _gates: list[Gate]
    _left: Ticket | None

    def serve_gate(self, gate: Gate) -> None:
        """Let compiled accesses through `gate` ask for this rank, until `shut`."""
        self._gates.append(gate)
        gate[way.GATE_CONTEXT], gate[way.GATE_ASK] = self.address, requests.ask_for_gate.address

    def finish_gate(self, code: int, rank: int, operation: int, keep: Any = None) -> Reply | None:
        """The reply to what compiled code has left with `code` (gate.pending); None where it was not sent: ask anew.

        `keep` is alive while its memory is read or written, as for `read`. Raises HandlerError.
        """
        left = way.left_of(code)
        if left == 0:
            return None
        if left < 0:
            raise refusal(rank, operation, Reply(left, 0, 0))
        reply = self._wait(Ticket(left, Request(rank, operation, keep=keep)), None)
        if reply.status < 0:
            raise refusal(rank, operation, reply)
        return reply

    def settle_gate(self, gate: Gate, left: int, rank: int, timeout_s: float) -> Reply:
        """The reply to the request that still stands in `gate`, of which `left` is left, whatever its status.

        Nobody else uses the gate meanwhile. Where the wait is cut short, by a signal or the deadline, it goes on with
        the next call: `is_left` then.
        """
        if self._left is None:
            operation, fields = gate[way.GATE_OPERATION], gate[way.GATE_ADDRESS : way.GATE_REPLY_BYTES + 1]
            while left == 0:  # it was never sent
                code, left, *answer = self._ask(self.address, rank, operation, *fields)
                if code == status.OK:
                    return Reply(left, *answer)
                if left == 0:
                    self._make_ready(code, rank, operation, timeout_s)
            self._left = Ticket(left, Request(rank, operation))
        try:
            reply = self._wait(self._left, timeout_s, gives_up=False)
        except RankLost:
            self._left = None
            raise
        self._left = None
        return reply

    @property
    def is_left(self) -> bool:
        """Whether a request of a gate was sent and its reply is still to come."""
        return self._left is not None
