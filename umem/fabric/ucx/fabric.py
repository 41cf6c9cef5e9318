"""UcxFabric: put, get, atomics and messages between the ranks of a world, over libucp.

Each rank has one context and two sets of channels (channels.py). The main channels belong to the threads that run
the user's code, in turns (turns.py); the agent's to its thread, which serves others while these are busy. Hence two
kinds of endpoints: main -> peer's main for messages, which need both sides, and main -> peer's agent for put,
get and atomics, which need one.

With shared memory and tcp a put, get or atomic is a message to the home's agent, whose progress
copies, or applies the processor's own atomic instruction (UCX, amo_sw.c: ucs_atomic_fadd64 and kin):
so they are atomic with respect to the home's own loads, stores and atomics.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from ...errors import AlignmentError, ConfigError, FabricError, Interrupted, RankLost, WaitTimeout
from ...kernels import status
from ...kernels.page.control import CONTROL_BYTES
from ...memory.control_page import ControlPage
from ...memory.waiting import loss, unless_again
from ...world.forks import MakeError, belongs_here, refuse
from ...world.waiting import Deadline, until
from . import abi, operations, queues, turns
from .channels import Channels, address_for, has_shared_memory, num_channels, packed_addresses
from .context import Context
from .parcels import Parcels
from .peer import Peer
from .port import PORT_RECV_BYTES, PORT_REPLY, PORT_UCX_STATUS, Port
from .ports import Ports
from .tags import BARRIER_TAG, checked, wire

CONFIRM_S = 1.0  # how long a broken connection may take to be confirmed as a death; measured: 4-60 ms
CONFIRM_STEP_S = 0.002
_OPEN_PAGE = np.zeros(CONTROL_BYTES // 8, np.int64)  # a control page on which nothing ever happens
BROKEN = (abi.UCS_ERR_CONNECTION_RESET, abi.UCS_ERR_ENDPOINT_TIMEOUT, abi.UCS_ERR_NOT_CONNECTED)


class Ranks(Protocol):
    """A world, as far as the fabric needs one."""

    @property
    def rank(self) -> int:
        """This rank."""

    @property
    def num_ranks(self) -> int:
        """Ranks of the world."""

    @property
    def hosts(self) -> Sequence[str]:
        """Host of each rank."""

    @property
    def ucx_environment(self) -> Mapping[str, str]:
        """UCX_TLS and the like."""

    def exchange(self, key: str, blob: bytes) -> list[bytes]:
        """Every rank's blob, by rank. Collective."""


class UcxFabric:
    """libucp between the ranks of `world`; `regions` are this rank's (address, bytes) that peers may reach.

    Collective to create: every rank of the world. `control` is the address of this rank's control page,
    on which the agent confirms deaths. All calls return when complete; any thread may make them.

    Raises FabricMissing without a libucp. Calls raise WaitTimeout after `timeout_s`, RankLost for a peer
    that is confirmed dead, Interrupted when the space closes, FabricError with UCX's own words. Attributes
    for compiled code that drives UCX itself: `port(rank)` (see port.py), `peers[rank]` (see peer.py).
    """

    name = "ucx"

    def __init__(self, world: Ranks, control: int, regions: Sequence[tuple[int, int]], timeout_s: float):
        self.rank, self.num_ranks, self.timeout_s = world.rank, world.num_ranks, timeout_s
        self.control = control
        self.page = ControlPage(_words_at(control))
        count = num_channels(world.ucx_environment, world.num_ranks)
        self.context = Context(queues.agree(world, count), num_endpoints=2 * world.num_ranks)
        self.main = Channels(self.context, world.num_ranks, count, control)
        self.agent = Channels(self.context, world.num_ranks, count, control)
        registered = [self.context.register(address, num_bytes) for address, num_bytes in regions]
        for worker in self.main.workers:
            worker.call = partial(turns.in_turn, self.main)
        self.ports, self.parcels = Ports(self.main), Parcels(self)
        card = {
            "main": packed_addresses(self.main),
            "agent": packed_addresses(self.agent),
            "regions": [(region.address, region.num_bytes, region.remote_key.hex()) for region in registered],
        }
        cards = [json.loads(blob) for blob in world.exchange("ucx", json.dumps(card).encode())]
        self.agent_addresses = [address_for(card["agent"], self.rank) for card in cards]
        self.watched = [_is_watched(world, rank) for rank in range(world.num_ranks)]
        self.peers = [
            Peer(
                self.main,
                self.rank,
                rank,
                card,
                watched,
                partial(self._confirmed, "connect", (rank,)),
            )
            for rank, (card, watched) in enumerate(zip(cards, self.watched, strict=True))
        ]
        self._last_ports: list[
            Port
        ] = []  # of the flushes at the end: a peer that does not receive loses its messages
        self._barrier_words = np.zeros(2, np.int64)
        belongs_here(self)

    @property
    def transports(self) -> str:
        """UCX_TLS as this world has it: shared memory lies where there was room for it."""
        return self.context.environment["UCX_TLS"]

    def port(self, rank: int) -> Port:
        """The port through which this rank talks with `rank` where one thread does."""
        return self.ports.first(rank)

    # --- memory of a peer; its agent's thread answers

    def put(self, rank: int, address: int, src: int, num_bytes: int, keep: Any = None) -> None:
        """Copy `num_bytes` from the pointer `src` to `address` at `rank`.

        `keep` is an object to hold on to as long as UCX may use `src`, also after an error.
        """
        if num_bytes:
            memory = self.peers[rank].memory
            key = memory.key(address, num_bytes)
            operands = (memory.endpoint.handle, src, num_bytes, address, key)
            self.ports.put_back(rank, self._run("put", rank, keep, operations.put, *operands))

    def get(self, rank: int, address: int, dst: int, num_bytes: int, keep: Any = None) -> None:
        """Copy `num_bytes` from `address` at `rank` to the pointer `dst`.

        `keep` is an object to hold on to as long as UCX may write to `dst`, also after an error: a peer
        that answers after a WaitTimeout would else write into memory that is somebody else's by then.
        """
        if num_bytes:
            memory = self.peers[rank].memory
            key = memory.key(address, num_bytes)
            operands = (memory.endpoint.handle, dst, num_bytes, address, key)
            self.ports.put_back(rank, self._run("get", rank, keep, operations.get, *operands))

    def fetch_add(self, rank: int, address: int, value: int, num_bytes: int) -> int:
        """Add `value` to the word at `address`, atomically; returns the old value."""
        return self._fetch("fetch_add", rank, abi.ATOMIC_ADD, address, value, 0, num_bytes)

    def exchange(self, rank: int, address: int, value: int, num_bytes: int) -> int:
        """Put `value` into the word at `address`, atomically; returns the old value."""
        return self._fetch("exchange", rank, abi.ATOMIC_SWAP, address, value, 0, num_bytes)

    def compare_swap(self, rank: int, address: int, expected: int, desired: int, num_bytes: int) -> int:
        """Put `desired` into the word at `address` if it holds `expected`; returns the old value."""
        return self._fetch("compare_swap", rank, abi.ATOMIC_CSWAP, address, expected, desired, num_bytes)

    def flush(self, rank: int | None = None) -> None:
        """Return when everything that was started towards `rank` (None: every living rank) is complete there.

        Needed only by code that drives the endpoints itself: put, get and atomics here flush.
        """
        dead = self.page.dead_ranks()
        for peer in self.peers if rank is None else [self.peers[rank]]:
            if rank is None and peer.rank in dead:
                continue
            for endpoint in peer.endpoints:
                self.ports.put_back(
                    peer.rank, self._run("flush", peer.rank, None, operations.flush, endpoint.handle)
                )

    # --- messages; both sides take part

    def send(self, rank: int, src: int, num_bytes: int, tag: int = 0, keep: Any = None) -> None:
        """Send `num_bytes` at the pointer `src` to `rank`; returns when `src` may be used again.

        Messages with one tag between two ranks arrive in order. A large message waits for its receiver.
        """
        endpoint, wire_tag = self.peers[rank].messages.handle, wire(self.rank, checked(tag))
        port = self._run("send", rank, keep, operations.send, endpoint, src, num_bytes, wire_tag)
        self.ports.put_back(rank, port)

    def recv(self, rank: int, dst: int, max_bytes: int, tag: int = 0, keep: Any = None) -> int:
        """Receive the next message with `tag` from `rank` to the pointer `dst`; returns its length.

        Raises FabricError for a message longer than `max_bytes`.
        """
        port = self._run("recv", rank, keep, operations.recv, dst, max_bytes, wire(rank, checked(tag)))
        num_bytes = int(port.words[PORT_RECV_BYTES])
        self.ports.put_back(rank, port)
        return num_bytes

    def barrier(self, timeout_s: float | None = None) -> None:
        """Return when every rank has called it. Collective, one at a time. Orders messages, puts and atomics before it.

        Dissemination: in round k each rank tells the one 2^k further on and hears from the one 2^k before,
        so the last round has heard of all. Raises RankLost if any rank is dead.
        """
        out, into = self._barrier_words.ctypes.data, self._barrier_words.ctypes.data + 8
        limits: dict[str, Any] = {"timeout_s": timeout_s, "needs": range(self.num_ranks)}
        distance = 1
        while distance < self.num_ranks:
            to, source = (self.rank + distance) % self.num_ranks, (self.rank - distance) % self.num_ranks
            tag = BARRIER_TAG + distance
            endpoint = self.peers[to].messages.handle
            told = self._run(
                "barrier", to, None, operations.send, endpoint, out, 8, wire(self.rank, tag), **limits
            )
            self.ports.put_back(to, told)
            heard = self._run("barrier", source, None, operations.recv, into, 8, wire(source, tag), **limits)
            self.ports.put_back(source, heard)
            distance *= 2

    # --- lifetime

    def disown(self, make_error: MakeError) -> None:
        """In a forked child: refuse every call, for UCX's connections are the rank's."""
        refuse(self, make_error)
        refuse(self.parcels, make_error)

    def close(self, timeout_s: float = 1.0) -> None:
        """Complete the sends to living peers, then close everything; safe to repeat.

        The agent's thread must have ended, and peers' operations towards this rank must be complete:
        synchronise before. Over tcp UCX's flush ends only when the peer's main thread is in UCX too, as
        it is when it closes its own fabric: it is waited for at most `timeout_s`. Other threads of this rank that
        are in a call get Interrupted.
        """
        if not self.context.handle:
            return
        deadline, dead = Deadline(timeout_s), self.page.dead_ranks()
        for peer in self.peers:
            if peer.has_messages and not peer.failure and peer.rank not in dead:
                self._send_off(peer, deadline)
        turns.close(self.main.address)
        self.context.close(timeout_s)

    def _send_off(self, peer: Peer, deadline: Deadline) -> None:
        """Let `peer` have what was sent to it, until the deadline."""
        # The space is closing, which ends waits; this one has its own deadline.
        port = Port(self.main, peer.rank, _OPEN_PAGE.ctypes.data)
        self._last_ports.append(port)
        code = operations.flush(port.address, peer.rank, peer.messages.handle)
        codes = _codes(code, partial(operations.resume, port.address, peer.rank))
        until(lambda: True if peer.failure else unless_again(next(codes)), deadline)

    # --- one operation

    def is_lost(self, rank: int) -> bool:
        """Whether `rank` is known to be dead, or to have left."""
        return rank in self.page.lost_ranks()

    def complete(
        self,
        port: Port,
        code: int,
        call: str,
        rank: int,
        timeout_s: float,
        needs: Iterable[int],
        step: Callable[[int, int], int] = operations.resume,
        between: Callable[[], None] | None = None,
    ) -> None:
        """See the operation in `port` through, which has returned `code`; an exception leaves it there.

        `step(port, rank)` goes on after AGAIN, and `between` is called before.
        """

        def go_on() -> int:
            if between is not None:
                between()
            return step(port.address, rank)

        codes = _codes(code, go_on)

        def look() -> int | None:
            code = next(codes)
            if code == status.AGAIN and self.peers[rank].failure:
                raise self.broken(call, rank, self.peers[rank].failure, needs)
            if code == status.RANK_LOST:
                raise RankLost(rank, f"{call} over ucx", self.page.lost_ranks().get(rank, ""))
            if code == status.INTERRUPTED:
                raise Interrupted(f"{call} with rank {rank} over ucx: the space is closing")
            if code not in (status.OK, status.AGAIN):
                assert code == status.FABRIC_FAILED, status.name(code)
                raise self.broken(call, rank, int(port.words[PORT_UCX_STATUS]), needs)
            return unless_again(code)

        # Over tcp what a rank did before it ended may still be on its way.
        if until(look, Deadline(timeout_s), partial(self._loss, call, needs), CONFIRM_S) is None:
            raise WaitTimeout(f"{call} with rank {rank} over ucx: no end after {timeout_s:g} s")

    def _run(
        self,
        call: str,
        rank: int,
        keep: Any,
        kernel: Any,
        *arguments: int,
        timeout_s: float | None = None,
        needs: Iterable[int] | None = None,
    ) -> Port:
        """The port of an operation that has ended, to be put back; one that ends with an exception is given up."""
        port = self.ports.take(rank)
        port.kept = keep
        try:
            code = kernel(port.address, rank, *arguments)
            if code != status.OK:
                timeout_s = self.timeout_s if timeout_s is None else timeout_s
                self.complete(port, code, call, rank, timeout_s, (rank,) if needs is None else needs)
        except BaseException:
            self.ports.give_up(rank, port)
            raise
        return port

    def _fetch(
        self, call: str, rank: int, operation: int, address: int, value: int, desired: int, num_bytes: int
    ) -> int:
        if num_bytes not in (4, 8):
            raise ConfigError(f"{call} on {num_bytes} bytes: an atomic word has 4 or 8")
        if address % num_bytes:
            raise AlignmentError(address, num_bytes, "an atomic needs it")
        words = self.peers[rank].words
        operands = (operation, _signed(value), _signed(desired), num_bytes, address)
        key = words.key(address, num_bytes)
        port = self._run(call, rank, None, operations.atomic, words.endpoint.handle, *operands, key)
        old = int(port.words[PORT_REPLY]) & ((1 << 8 * num_bytes) - 1)
        self.ports.put_back(rank, port)
        return old

    def _loss(self, call: str, needs: Iterable[int]) -> RankLost | None:
        return loss(self.page, needs, f"{call} over ucx")

    def broken(self, call: str, rank: int, ucx_status: int, needs: Iterable[int]) -> FabricError | RankLost:
        """The error for a failed call: RankLost where a death explains it."""
        lost = self._confirmed(call, needs) if ucx_status in BROKEN else None
        text = self.context.library.status_text(ucx_status)
        return lost or FabricError(f"{call} with rank {rank} over ucx failed: {text} ({ucx_status})")

    def _confirmed(self, call: str, needs: Iterable[int]) -> RankLost | None:
        """The error for the death of one of `needs`, if it is confirmed within CONFIRM_S."""

        def look() -> RankLost | None:
            error = self._loss(call, needs)
            if error is None:
                time.sleep(CONFIRM_STEP_S)
            return error

        return until(look, Deadline(CONFIRM_S))


def _codes(code: int, go_on: Callable[[], int]) -> Iterator[int]:
    """The statuses of an operation that has returned `code`: that one, then what `go_on` returns each time."""
    yield code
    while True:
        yield go_on()


def _is_watched(world: Ranks, rank: int) -> bool:
    """Whether UCX can tell that `rank` is gone: where it has no shared memory to reach it."""
    if rank == world.rank:
        return False
    return not has_shared_memory(world.ucx_environment) or world.hosts[rank] != world.hosts[world.rank]


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits


def _words_at(control: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_int64 * (CONTROL_BYTES // 8)).from_address(control))
