"""Asking another rank's agent, from Python.

For the threads that run user code: requests travel through the rank's main channels, in turns. `request` sends one
and waits; `stream` keeps several in flight, over several homes. Every wait has a deadline and watches the peer.
"""

from __future__ import annotations

import ctypes
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import ConfigError, FabricError, RankLost
from ...fabric.ucx.turns import progress_in_turn
from ...kernels import status
from ...kernels.page import gate as way
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
from .gate_server import GateServer
from .messages import Reply, Request, Ticket, check, operation_name, refusal

if TYPE_CHECKING:
    from ...fabric.ucx.fabric import UcxFabric

CONFIRMATION_S = 0.2  # a broken connection is a death once the agent says so: 4-8 ms
UNSIGNED = {4: (1 << 32) - 1, 8: (1 << 64) - 1}


class Client(GateServer):
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
        self._gates: list[ctypes.Array[ctypes.c_int64]] = []
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
        return self._reply(code, first, rank, fields, timeout_s, keep)

    def _reply(
        self, code: int, first: int, rank: int, fields: tuple[int, ...], timeout_s: float | None, keep: Any
    ) -> Reply:
        """The reply to a request whose `ask` returned (code, first): wait for it, or ask once it can be sent."""
        while first == 0:  # no sequence number: it was never sent
            self._make_ready(code, rank, fields[0], timeout_s)
            code, first, value, num_bytes = self._ask(self.address, rank, *fields)
            if code == status.OK:
                return Reply(first, value, num_bytes)
        return self._wait(Ticket(first, Request(rank, fields[0], keep=keep)), timeout_s)

    def value(self, rank: int, operation: int, *arguments: int) -> int:
        """The one word that `rank` answers to `operation` with up to four arguments. Raises HandlerError."""
        reply = self.request(rank, operation, *arguments)
        if reply.status < 0:
            raise refusal(rank, operation, reply)
        return reply.value

    def answer(self, rank: int, operation: int, word0: int, word1: int, word2: int) -> tuple[int, int]:
        """(status, value) that `rank` answers to a request of plain ints; `request` with fewer detours."""
        fields = (operation, word0, word1, word2, 0, 0, 0, 0, 0)
        code, first, value, _ = self._ask(self.address, rank, *fields)
        if code == status.OK:
            return first, value
        reply = self._reply(code, first, rank, fields, None, None)
        return reply.status, reply.value

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

    # --- words and bytes of a home: one call of compiled code where nothing is amiss

    def read(self, rank: int, address: int, dst: int, num_bytes: int, keep: Any = None) -> None:
        """Copy `num_bytes` from `address`, whose home is `rank`, to the pointer `dst`, in memory of `keep`."""
        if num_bytes > layout.MAX_PAYLOAD_BYTES:
            for request, reply in self.stream(
                Request(
                    rank,
                    operations.READ,
                    (address + offset, size),
                    dst=dst + offset,
                    capacity=size,
                    keep=keep,
                )
                for offset, size in pieces(num_bytes)
            ):
                check(request.rank, operations.READ, reply)
            return
        fields = (operations.READ, address, num_bytes, 0, 0, 0, 0, dst, num_bytes)
        code, refused, _, _ = self._ask(self.address, rank, *fields)
        if code or refused:
            self._go_on(code, refused, rank, fields, keep)

    def write(self, rank: int, address: int, src: int, num_bytes: int, keep: Any = None) -> None:
        """Copy `num_bytes` from the pointer `src`, in memory of `keep`, to `address`, whose home is `rank`.

        Complete on return.
        """
        if num_bytes > layout.MAX_PAYLOAD_BYTES:
            for request, reply in self.stream(
                Request(rank, operations.WRITE, (address + offset,), src + offset, size, keep=keep)
                for offset, size in pieces(num_bytes)
            ):
                check(request.rank, operations.WRITE, reply)
            return
        fields = (operations.WRITE, address, 0, 0, 0, src, num_bytes, 0, 0)
        code, refused, _, _ = self._ask(self.address, rank, *fields)
        if code or refused:
            self._go_on(code, refused, rank, fields, keep)

    def fetch_add(self, rank: int, address: int, value: int, num_bytes: int) -> int:
        """Add `value` to the word of 4 or 8 bytes at `address`; what stood there, unsigned."""
        fields = (operations.FETCH_ADD, address, signed(value), num_bytes, 0, 0, 0, 0, 0)
        code, refused, old, _ = self._ask(self.address, rank, *fields)
        if code or refused:
            old = self._go_on(code, refused, rank, fields)
        return old & UNSIGNED[num_bytes]

    def exchange(self, rank: int, address: int, value: int, num_bytes: int) -> int:
        """Put `value` into the word of 4 or 8 bytes at `address`; what stood there, unsigned."""
        fields = (operations.EXCHANGE, address, signed(value), num_bytes, 0, 0, 0, 0, 0)
        code, refused, old, _ = self._ask(self.address, rank, *fields)
        if code or refused:
            old = self._go_on(code, refused, rank, fields)
        return old & UNSIGNED[num_bytes]

    def compare_swap(self, rank: int, address: int, expected: int, desired: int, num_bytes: int) -> int:
        """Put `desired` into the word at `address` if `expected` stands there; what stood there, unsigned."""
        fields = (operations.COMPARE_SWAP, address, signed(expected), signed(desired), num_bytes, 0, 0, 0, 0)
        code, refused, old, _ = self._ask(self.address, rank, *fields)
        if code or refused:
            old = self._go_on(code, refused, rank, fields)
        return old & UNSIGNED[num_bytes]

    def ports(self) -> Iterator[tuple[int, Operation, int, int]]:
        """(rank, operation, requests, bytes) of the requests that named an address."""
        step = layout.NUM_COUNTED * layout.COUNTED_WORDS
        for rank in range(self.fabric.num_ranks):
            for code in operations.BY_ADDRESS:
                first = rank * step + code * layout.COUNTED_WORDS
                if self._ports[first]:
                    yield rank, Operation(code), self._ports[first], self._ports[first + 1]

    def _go_on(self, code: int, first: int, rank: int, fields: tuple[int, ...], keep: Any = None) -> int:
        """After a request that did not simply succeed: wait on, or ask again; the reply's value."""
        operation = fields[0]
        reply = (
            Reply(first, 0, 0) if code == status.OK else self._reply(code, first, rank, fields, None, keep)
        )
        check(rank, operation, reply)
        return reply.value

    # --- waiting and closing

    def shut(self, make_error: MakeError) -> None:
        """Refuse every request from now on with `make_error()`."""

        def refuse(*_: int) -> NoReturn:
            raise make_error()

        self._ask = self._post = refuse
        for gate in self._gates:
            gate[way.GATE_ASK] = 0

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


def pieces(num_bytes: int) -> Iterator[tuple[int, int]]:
    """(offset, size) of the parts of a payload that is larger than one message."""
    step = layout.MAX_PAYLOAD_BYTES
    return ((offset, min(step, num_bytes - offset)) for offset in range(0, num_bytes, step))


def signed(word: int) -> int:
    """The int64 with the bits of `word`."""
    if -(1 << 63) <= word < 1 << 63:
        return word
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)
