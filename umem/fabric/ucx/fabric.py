"""UcxFabric: put, get, atomics and messages between the ranks of a world, over libucp.

Each rank has one context and two sets of channels (channels.py). The main channels belong to the thread that
runs the user's code; the agent's to its thread, which serves others while the user's code is busy. Hence two
kinds of endpoints: main -> peer's main for messages, which need both sides, and main -> peer's agent for put,
get and atomics, which need one.

With shared memory and tcp a put, get or atomic is a message to the home's agent, whose progress
copies, or applies the processor's own atomic instruction (UCX, amo_sw.c: ucs_atomic_fadd64 and kin):
so they are atomic with respect to the home's own loads, stores and atomics.
"""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from ...control_page import ControlPage
from ...errors import (
    AlignmentError,
    ConfigError,
    FabricError,
    Interrupted,
    RankLost,
    WaitTimeout,
)
from ...forks import MakeError, belongs_here, refuse
from ...kernels import status
from ...kernels.control import CONTROL_BYTES
from . import abi, operations, queues
from .channels import (
    Channels,
    address_for,
    has_shared_memory,
    num_channels,
    packed_addresses,
)
from .context import Context
from .peer import Peer
from .port import CONTROL, RECV_BYTES, REPLY, REQUEST, STAGE, UCX_STATUS, Port

MAX_TAG = (1 << 40) - 1  # of a user's message
_BARRIER = 1 << 40  # plus the distance of the round
_SENDER_SHIFT = 48  # the upper 16 bits of UCX's tag are the sender's rank
CONFIRM_S = 1.0  # how long a broken connection may take to be confirmed as a death; measured: 4-60 ms
CONFIRM_STEP_S = 0.002
_OPEN_PAGE = np.zeros(CONTROL_BYTES // 8, np.int64)  # a control page on which nothing ever happens
BROKEN = (abi.UCS_ERR_CONNECTION_RESET, abi.UCS_ERR_ENDPOINT_TIMEOUT, abi.UCS_ERR_NOT_CONNECTED)


class Ranks(Protocol):
    """What the fabric needs of a world."""

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
        """Everybody's blob, by rank. Collective."""


class UcxFabric:
    """libucp between the ranks of `world`; `regions` are this rank's (address, bytes) that peers may reach.

    Collective to create: every rank of the world. `control` is the address of this rank's control page,
    on which the agent confirms deaths. All calls return when complete and belong to one thread.

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
        self._ports = [Port(self.main, channel) for channel in range(count)]
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
                partial(self._await_confirmation, "connect", (rank,)),
            )
            for rank, (card, watched) in enumerate(zip(cards, self.watched, strict=True))
        ]
        self._given_up: list[Port] = []
        self._put, self._get = operations.put.compiled, operations.get.compiled
        self._send, self._recv = operations.send.compiled, operations.recv.compiled
        self._atomic, self._flush = operations.atomic.compiled, operations.flush.compiled
        self._barrier_words = np.zeros(2, np.int64)
        belongs_here(self)

    def port(self, rank: int) -> Port:
        """The port through which this rank's user code talks with `rank`."""
        return self._ports[self.main.index(rank)]

    # --- memory of a peer; its agent's thread answers

    def put(self, rank: int, address: int, src: int, num_bytes: int, keep: Any = None) -> None:
        """Copy `num_bytes` from the pointer `src` to `address` at `rank`.

        `keep` is an object to hold on to as long as UCX may use `src`, also after an error.
        """
        if num_bytes:
            memory = self.peers[rank].memory
            key = memory.key(address, num_bytes)
            self._run("put", rank, keep, self._put, memory.endpoint.handle, src, num_bytes, address, key)

    def get(self, rank: int, address: int, dst: int, num_bytes: int, keep: Any = None) -> None:
        """Copy `num_bytes` from `address` at `rank` to the pointer `dst`.

        `keep` is an object to hold on to as long as UCX may write to `dst`, also after an error: a peer
        that answers after a WaitTimeout would else write into memory that is somebody else's by then.
        """
        if num_bytes:
            memory = self.peers[rank].memory
            key = memory.key(address, num_bytes)
            self._run("get", rank, keep, self._get, memory.endpoint.handle, dst, num_bytes, address, key)

    def fetch_add(self, rank: int, address: int, value: int, num_bytes: int) -> int:
        """Add `value` to the word at `address`, atomically; returns what stood there."""
        return self._fetch("fetch_add", rank, abi.ATOMIC_ADD, address, value, 0, num_bytes)

    def exchange(self, rank: int, address: int, value: int, num_bytes: int) -> int:
        """Put `value` into the word at `address`, atomically; returns what stood there."""
        return self._fetch("exchange", rank, abi.ATOMIC_SWAP, address, value, 0, num_bytes)

    def compare_swap(self, rank: int, address: int, expected: int, desired: int, num_bytes: int) -> int:
        """Put `desired` into the word at `address` if `expected` stands there; returns what stood there."""
        return self._fetch("compare_swap", rank, abi.ATOMIC_CSWAP, address, expected, desired, num_bytes)

    def flush(self, rank: int | None = None) -> None:
        """Return when everything that was started towards `rank` (None: every living rank) is complete there.

        Needed by those who drive the endpoints themselves: put, get and atomics here flush.
        """
        dead = self.page.dead_ranks()
        for peer in self.peers if rank is None else [self.peers[rank]]:
            if rank is None and peer.rank in dead:
                continue
            for endpoint in peer.endpoints:
                self._run("flush", peer.rank, None, self._flush, endpoint.handle)

    # --- messages; both sides take part

    def send(self, rank: int, src: int, num_bytes: int, tag: int = 0, keep: Any = None) -> None:
        """Send `num_bytes` at the pointer `src` to `rank`; returns when `src` may be used again.

        Messages with one tag between two ranks arrive in order. A large message waits for its receiver.
        """
        endpoint, wire_tag = self.peers[rank].messages.handle, _tag(self.rank, _checked(tag))
        self._run("send", rank, keep, self._send, endpoint, src, num_bytes, wire_tag)

    def recv(self, rank: int, dst: int, max_bytes: int, tag: int = 0, keep: Any = None) -> int:
        """Receive the next message with `tag` from `rank` to the pointer `dst`; returns its length.

        Raises FabricError for a message longer than `max_bytes`.
        """
        self._run("recv", rank, keep, self._recv, dst, max_bytes, _tag(rank, _checked(tag)))
        return int(self.port(rank).words[RECV_BYTES])

    def barrier(self, timeout_s: float | None = None) -> None:
        """Return when every rank has called it. Collective. Orders messages, puts and atomics before it.

        Dissemination: in round k each rank tells the one 2^k further on and hears from the one 2^k before,
        so the last round has heard of all. Raises RankLost if any rank is dead.
        """
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        out, into = self._barrier_words.ctypes.data, self._barrier_words.ctypes.data + 8
        distance = 1
        while distance < self.num_ranks:
            to, source = (self.rank + distance) % self.num_ranks, (self.rank - distance) % self.num_ranks
            tag = _BARRIER + distance
            endpoint = self.peers[to].messages.handle
            code = self._start(self._send, to, None, endpoint, out, 8, _tag(self.rank, tag))
            self._complete(code, "barrier", to, timeout_s, range(self.num_ranks))
            code = self._start(self._recv, source, None, into, 8, _tag(source, tag))
            self._complete(code, "barrier", source, timeout_s, range(self.num_ranks))
            distance *= 2

    # --- lifetime

    def disown(self, make_error: MakeError) -> None:
        """In a forked child: refuse every call, for UCX's connections are the rank's."""
        refuse(self, make_error)

    def close(self, timeout_s: float = 1.0) -> None:
        """Send off what living peers have still to receive, then close everything; safe to repeat.

        The agent's thread must have ended, and peers' operations towards this rank must be complete:
        synchronise before. Over tcp UCX's flush ends only when the peer's main thread is in UCX too, as
        it is when it closes its own fabric: it is waited for at most `timeout_s`.
        """
        if not self.context.handle:
            return
        for channel in range(len(self._ports)):
            self._release_port(channel)
            # The space is closing, which ends waits; these have their own deadline.
            self._ports[channel] = Port(self.main, channel, _OPEN_PAGE.ctypes.data)
        deadline, dead = time.monotonic() + timeout_s, self.page.dead_ranks()
        for peer in self.peers:
            if peer.has_messages and not peer.failure and peer.rank not in dead:
                code = self._start(self._flush, peer.rank, None, peer.messages.handle)
                while code == status.AGAIN and not peer.failure and time.monotonic() < deadline:
                    code = operations.resume(self.port(peer.rank).address, peer.rank)
                self._release_port(peer.rank)  # a peer that is gone, or does not receive, loses its messages
        self.context.close(timeout_s)
        self._given_up.clear()

    # --- one operation

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
        self._run(call, rank, None, self._atomic, words.endpoint.handle, *operands, key)
        return int(self.port(rank).words[REPLY]) & ((1 << 8 * num_bytes) - 1)

    def _run(self, call: str, rank: int, keep: Any, kernel: Any, *arguments: int) -> None:
        code = self._start(kernel, rank, keep, *arguments)
        if code != status.OK:
            self._complete(code, call, rank, self.timeout_s, (rank,))
        self.port(rank).kept = None

    def _start(self, kernel: Any, rank: int, keep: Any, *arguments: int) -> int:
        port = self.port(rank)
        kept_before, port.kept = port.kept, keep
        code: int = kernel(port.address, rank, *arguments)
        if code == status.BUSY:  # a signal took the operation before this one from between two slices
            port.kept = kept_before
            port = self._release_port(rank)
            port.kept = keep
            code = kernel(port.address, rank, *arguments)
        return code

    def _complete(self, code: int, call: str, rank: int, timeout_s: float, needs: Iterable[int]) -> None:
        """See the operation in the port through; gives it up where it ends with an exception."""
        deadline, lost_deadline = time.monotonic() + timeout_s, math.inf
        try:
            while code != status.OK:
                if code == status.AGAIN:
                    now = time.monotonic()
                    if self._lost(needs):  # which may have done its part before it ended
                        lost_deadline = min(lost_deadline, now + CONFIRM_S)
                        if now >= lost_deadline:
                            self._raise_if_lost(call, needs)
                    if self.peers[rank].failure:
                        raise self._broken(call, rank, self.peers[rank].failure, needs)
                    if now >= deadline:
                        raise WaitTimeout(f"{call} with rank {rank} over ucx: no end after {timeout_s:g} s")
                    code = operations.resume(self.port(rank).address, rank)
                elif code == status.RANK_LOST:
                    raise RankLost(rank, f"{call} over ucx")
                elif code == status.INTERRUPTED:
                    raise Interrupted(f"{call} with rank {rank} over ucx: the space is closing")
                else:
                    assert code == status.FABRIC_FAILED, status.name(code)
                    raise self._broken(call, rank, int(self.port(rank).words[UCX_STATUS]), needs)
        except BaseException:
            self._release_port(rank)
            raise

    def _lost(self, needs: Iterable[int]) -> set[int]:
        return set(self.page.dead_ranks()).intersection(needs)

    def _raise_if_lost(self, call: str, needs: Iterable[int]) -> None:
        for lost in self._lost(needs):
            raise RankLost(lost, f"{call} over ucx")

    def _broken(self, call: str, rank: int, ucx_status: int, needs: Iterable[int]) -> FabricError:
        """The error for a failed call; RankLost is raised instead where a death explains it."""
        if ucx_status in BROKEN:
            self._await_confirmation(call, needs)
        text = self.context.library.status_text(ucx_status)
        return FabricError(f"{call} with rank {rank} over ucx failed: {text} ({ucx_status})")

    def _await_confirmation(self, call: str, needs: Iterable[int]) -> None:
        """Raise RankLost if the death of one of `needs` is confirmed within CONFIRM_S."""
        deadline = time.monotonic() + CONFIRM_S
        while time.monotonic() < deadline:
            self._raise_if_lost(call, needs)
            time.sleep(CONFIRM_STEP_S)

    def _release_port(self, rank: int) -> Port:
        """A free port to `rank`: a receive is cancelled; anything else, and what it writes to, is left to UCX."""
        port = self.port(rank)
        request = int(port.words[REQUEST])
        if request <= 0:
            return port
        if port.words[STAGE] == operations.RECEIVING:
            self.context.ucp.ucp_request_cancel(port.worker.handle, request)
        self._given_up.append(port)
        self._ports[self.main.index(rank)] = port = Port(self.main, rank, int(port.words[CONTROL]))
        self._reap_given_up()
        return port

    def _reap_given_up(self) -> None:
        ucp, still = self.context.ucp, []
        for port in self._given_up:
            request = int(port.words[REQUEST])
            if ucp.ucp_request_check_status(request) == abi.UCS_INPROGRESS:
                still.append(port)
            else:
                ucp.ucp_request_free(request)
        self._given_up = still


def _is_watched(world: Ranks, rank: int) -> bool:
    """Whether UCX can tell that `rank` is gone: where it has no shared memory to reach it."""
    if rank == world.rank:
        return False
    return not has_shared_memory(world.ucx_environment) or world.hosts[rank] != world.hosts[world.rank]


def _tag(sender: int, tag: int) -> int:
    return sender << _SENDER_SHIFT | tag


def _checked(tag: int) -> int:
    if not 0 <= tag <= MAX_TAG:
        raise ConfigError(f"message tag {tag} is not between 0 and {MAX_TAG}")
    return tag


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits


def _words_at(control: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_int64 * (CONTROL_BYTES // 8)).from_address(control))
