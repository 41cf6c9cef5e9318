"""Asking another rank's agent, from Python.

For the threads that run user code: requests travel through the rank's main channels, in turns. `request` sends one
and waits, in one compiled call where nothing is amiss; `stream` keeps several in flight, over several homes; what
compiled code has asked for through a gate is finished here. Every wait has a deadline and watches the peer.
Whoever asks an agent from Python does it by a client.
"""

from __future__ import annotations

import ctypes
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import ConfigError, FabricError, RankLost
from ...fabric.ucx.turns import progress_in_turn
from ...kernels import status
from ...kernels.page import gate as gates
from ...kernels.page import operations
from ...memory.control_page import ControlPage
from ...memory.waiting import complete, loss
from ...world.forks import MakeError
from ...world.waiting import Deadline, until
from .. import layout
from ..layout import Operation
from ..spins import Spins
from . import requests
from .client_state import build_client
from .messages import Reply, Request, Ticket, check, operation_name, refusal

if TYPE_CHECKING:
    from ...fabric.ucx.fabric import UcxFabric

CONFIRMATION_S = 0.2  # a broken connection is a death once the agent says so: 4-8 ms
Gate = ctypes.Array[ctypes.c_int64]


class Client:
    """Sends requests to the agents of all ranks through the main channels of `fabric`.

    `credits` requests may be in flight to each rank, and no agent takes more from one client.
    """

    def __init__(
        self,
        fabric: UcxFabric,
        page: ControlPage,
        credits: int = layout.DEFAULT_CREDITS,
        spins: Spins = Spins(),
    ):
        check_credits(credits)
        self.fabric, self.page, self.timeout_s = fabric, page, fabric.timeout_s
        self.window = max(1, credits - 1)  # of `stream`: one is left for requests between, as a finalizer's
        self._abandoned: dict[
            int, Ticket
        ] = {}  # by slot: UCX may read their payload until the slot is used again
        self._gates: list[Gate] = []
        self._left: Ticket | None = None
        state = build_client(fabric.main, page, fabric.rank, fabric.num_ranks, credits, spins)
        self._endpoints, self._ports = state.endpoints, state.ports
        self.words, self.address = state.words, state.words.address
        self._ask: Callable[..., tuple[int, int, int, int]] = requests.ask.compiled
        self._post: Callable[..., int] = requests.post_request.compiled
        fabric.main.set_handler(layout.AM_REPLY, requests.receive_reply.address, self.address)

    # --- one at a time

    def request(
        self,
        rank: int,
        operation: int,
        word0: int = 0,
        word1: int = 0,
        word2: int = 0,
        word3: int = 0,
        payload: int = 0,
        payload_bytes: int = 0,
        dst: int = 0,
        capacity: int = 0,
        timeout_s: float | None = None,
        keep: Any = None,
    ) -> Reply:
        """Ask `rank` for `operation` with up to four arguments; its reply, whatever the status.

        The fields are those of Request. Raises RankLost, WaitTimeout, FabricError.
        """
        # A plain int: for a member of Operation Numba works out its type anew, which takes 300 us.
        fields = (int(operation), word0, word1, word2, word3, payload, payload_bytes, dst, capacity)
        code, first, value, num_bytes = self._ask(self.address, rank, *fields)
        if code == status.OK:
            return Reply(first, value, num_bytes)
        return self._go_on(code, first, rank, fields, timeout_s, keep)

    def value(
        self,
        rank: int,
        operation: int,
        word0: int = 0,
        word1: int = 0,
        word2: int = 0,
        word3: int = 0,
        payload: int = 0,
        payload_bytes: int = 0,
        dst: int = 0,
        capacity: int = 0,
        keep: Any = None,
    ) -> int:
        """The one word that `rank` answers to a `request`. Raises HandlerError where it refuses, besides."""
        fields = (int(operation), word0, word1, word2, word3, payload, payload_bytes, dst, capacity)
        code, first, value, num_bytes = self._ask(self.address, rank, *fields)
        if code == first == status.OK:
            return value
        reply = Reply(first, value, num_bytes)
        if code != status.OK:
            reply = self._go_on(code, first, rank, fields, None, keep)
        check(rank, operation, reply)
        return reply.value

    def ask(self, asked: Request, timeout_s: float | None = None) -> Reply:
        """Send a request of up to 8 arguments and wait; its reply. Raises HandlerError where it is refused, besides."""
        reply = self.finish(self.post(asked, timeout_s), timeout_s)
        check(asked.rank, asked.operation, reply)
        return reply

    # --- several in flight

    def stream(
        self, asked: Iterable[Request], timeout_s: float | None = None
    ) -> Iterator[tuple[Request, Reply]]:
        """Send the requests as credits allow; yield each with its reply, in order, whatever the status.

        Requests to different ranks do not wait for each other's credits as long as earlier replies are
        taken. Leaving the iteration early gives up what is in flight.
        """
        in_flight: deque[Ticket] = deque()
        num_of: Counter[int] = Counter()
        try:
            for request in asked:
                while True:
                    ticket = self._post_within(self.window - num_of[request.rank], request, timeout_s)
                    if ticket is not None:
                        break
                    if in_flight:
                        oldest = in_flight.popleft()
                        num_of[oldest.request.rank] -= 1
                        yield oldest.request, self.finish(oldest, timeout_s)
                    else:  # siblings have all credits
                        self._make_ready(status.BUSY, request.rank, request.operation, timeout_s)
                in_flight.append(ticket)
                num_of[request.rank] += 1
            while in_flight:
                ticket = in_flight.popleft()
                yield ticket.request, self.finish(ticket, timeout_s)
        finally:
            for ticket in in_flight:
                self.give_up(ticket)

    def ask_all(self, asked: Iterable[Request]) -> None:
        """Send the requests as `stream` does, and wait for all. Raises HandlerError for the first that is refused."""
        for request, reply in self.stream(asked):
            check(request.rank, request.operation, reply)

    def post(self, asked: Request, timeout_s: float | None = None) -> Ticket:
        """Send a request and return; `finish` or `give_up` its ticket.

        At most `window` may be in flight to a rank: one more waits, and since only `finish` makes room,
        it waits for the deadline (WaitTimeout) unless replies to given-up requests, or those of other threads, come in.
        `stream` keeps count.
        """
        while (ticket := self._post_within(1, asked, timeout_s)) is None:
            self._make_ready(status.BUSY, asked.rank, asked.operation, timeout_s)
        return ticket

    def _post_within(self, num_credits: int, asked: Request, timeout_s: float | None) -> Ticket | None:
        """`post` if the caller may use so many credits more; None where it may not, or none is free."""
        if num_credits <= 0:
            return None
        if len(asked.arguments) > layout.MAX_ARGUMENTS:
            raise ConfigError(
                f"{len(asked.arguments)} arguments: a request carries up to {layout.MAX_ARGUMENTS}"
            )
        words = (ctypes.c_int64 * layout.MAX_ARGUMENTS)(*asked.arguments)
        while True:
            sequence = self._post(
                self.address,
                asked.rank,
                int(asked.operation),
                ctypes.addressof(words),
                len(asked.arguments),
                asked.payload,
                asked.payload_bytes,
                asked.dst,
                asked.capacity,
            )
            if sequence > 0:
                return Ticket(sequence, asked)
            if sequence == status.BUSY:
                return None
            self._make_ready(sequence, asked.rank, asked.operation, timeout_s)

    def finish(self, ticket: Ticket, timeout_s: float | None = None) -> Reply:
        """Wait for the reply to a posted request, whatever its status. Once a ticket."""
        code, *reply = requests.finish_request(self.address, ticket.sequence, self.page.epoch)
        if code == status.OK:
            return Reply(*reply)
        return self._wait(ticket, timeout_s)

    def give_up(self, ticket: Ticket) -> None:
        """Forget a posted request: its reply is dropped when it comes, and its credit returns then."""
        requests.give_up_request(self.address, ticket.sequence)
        if ticket.request.keep is not None:
            self._abandoned[ticket.sequence & layout.SEQUENCE_SLOT_MASK] = ticket

    # --- requests that compiled code makes through a gate of this rank (kernels/page/gate.py), finished here

    def serve_gate(self, gate: Gate) -> None:
        """Let compiled accesses through `gate` ask for this rank, until `shut`."""
        self._gates.append(gate)
        gate[gates.GATE_CONTEXT], gate[gates.GATE_ASK] = self.address, requests.ask_for_gate.address

    def finish_gate(self, code: int, rank: int, operation: int, keep: Any = None) -> Reply | None:
        """The reply to a request that compiled code left open with `code` (gate.pending); None where it was not sent.

        `keep` is alive while its memory is read or written, as for `read`. Raises HandlerError.
        """
        left = gates.left_of(code)
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
            fields = (gate[gates.GATE_OPERATION], *gate[gates.GATE_ADDRESS : gates.GATE_REPLY_BYTES + 1])
            sent = self._sent(status.OK, left, rank, fields, timeout_s)
            if isinstance(sent, Reply):
                return sent
            self._left = sent
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

    # --- counting

    def ports(self) -> Iterator[tuple[int, Operation, int, int]]:
        """(rank, operation, requests, bytes) of the requests that named an address."""
        step = layout.NUM_COUNTED * layout.COUNTED_WORDS
        for rank in range(self.fabric.num_ranks):
            for code in operations.BY_ADDRESS:
                first = rank * step + code * layout.COUNTED_WORDS
                if self._ports[first]:
                    yield rank, Operation(code), self._ports[first], self._ports[first + 1]

    # --- waiting and closing

    def shut(self, make_error: MakeError) -> None:
        """Refuse every request from now on with `make_error()`."""

        def refuse(*_: int) -> NoReturn:
            raise make_error()

        self._ask = self._post = refuse
        for gate in self._gates:
            gate[gates.GATE_ASK] = 0

    def _sent(
        self,
        code: int,
        first: int,
        rank: int,
        fields: tuple[int, ...],
        timeout_s: float | None,
        keep: Any = None,
    ) -> Ticket | Reply:
        """The request whose `ask` returned (code, first), once it is sent; its reply where that came along."""
        while first == 0:  # no sequence number: it was never sent
            self._make_ready(code, rank, fields[0], timeout_s)
            code, first, value, num_bytes = self._ask(self.address, rank, *fields)
            if code == status.OK:
                return Reply(first, value, num_bytes)
        return Ticket(first, Request(rank, fields[0], keep=keep))

    def _go_on(
        self, code: int, first: int, rank: int, fields: tuple[int, ...], timeout_s: float | None, keep: Any
    ) -> Reply:
        """The reply to a request whose `ask` returned (code, first)."""
        sent = self._sent(code, first, rank, fields, timeout_s, keep)
        return sent if isinstance(sent, Reply) else self._wait(sent, timeout_s)

    def _wait(self, ticket: Ticket, timeout_s: float | None, gives_up: bool = True) -> Reply:
        rank, operation = ticket.request.rank, ticket.request.operation
        reply: list[int] = []

        def step() -> int:
            code, *answer = requests.finish_request(self.address, ticket.sequence, self.page.epoch)
            if code == status.FABRIC_FAILED or (code == status.AGAIN and self.fabric.peers[rank].failure):
                self._raise(status.FABRIC_FAILED, rank, operation)
            reply[:] = answer
            return code

        try:
            self._complete(step, rank, operation, timeout_s)
        except BaseException as error:
            if gives_up or isinstance(error, RankLost):
                self.give_up(ticket)
            raise
        return Reply(*reply)

    def _make_ready(self, code: int, rank: int, operation: int, timeout_s: float | None) -> None:
        """Get the connection or the credit that a request still needs; raise the reason where it can never be sent."""
        if code == status.OK:  # nothing is known to be in its way
            return
        if code == status.NOT_FOUND:
            self._endpoints[rank] = self.fabric.peers[rank].memory.endpoint.handle
            return
        if code != status.BUSY:
            self._raise(code, rank, operation)

        def step() -> int:
            return requests.wait_for_credit(self.address, rank, self.page.epoch)

        self._complete(step, rank, operation, timeout_s)

    def _complete(self, step: Callable[[], int], rank: int, operation: int, timeout_s: float | None) -> None:
        what = f"{operation_name(operation)} at rank {rank}"
        if (error := loss(self.page, (rank,), what)) is not None:
            raise error  # `complete` looks after a slice, and one has passed
        complete(step, self.page, self.timeout_s if timeout_s is None else timeout_s, what, (rank,))

    def _raise(self, code: int, rank: int, operation: int) -> NoReturn:
        what = f"{operation_name(operation)} at rank {rank}"
        if code == status.OUT_OF_RANGE:
            raise ConfigError(f"{what}: there is no such rank in this world")
        if code == status.BAD_REQUEST:
            raise ConfigError(f"{what}: a payload has at most {layout.MAX_PAYLOAD_BYTES} bytes; split it")

        def look() -> RankLost | None:
            if rank in self.page.dead_ranks():
                return RankLost(rank, what)
            progress_in_turn(self.fabric.main.address)
            return None

        found = until(look, Deadline(CONFIRMATION_S))
        raise found or FabricError(f"{what}: UCX could not send ({status.name(code)})")


def check_credits(credits: int) -> None:
    """Raise ConfigError unless so many requests may be in flight from a rank to an agent."""
    if not 1 <= credits <= layout.MAX_CREDITS:
        raise ConfigError(f"credits={credits} is not between 1 and {layout.MAX_CREDITS}")
