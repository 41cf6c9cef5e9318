"""Messages of any length, received whole: the receiver learns the length from the message itself.

A message is one of UCX's, so that nothing that is given up half way can shift those behind it: a send that timed out
goes on in a thread of its own, until its receiver has it or the space closes, and a receive that timed out is gone on
with by the next one.

A large message waits for its receiver. So that ranks which send to each other at once do not wait for each other,
one that waits in `send` takes in what others send to it, up to MAX_WAITING_BYTES or else one message; and one that
waits for a message takes in others, though it looks less often.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from typing import Protocol

import numpy as np

from ...errors import FabricError, Interrupted, RankLost, WaitTimeout
from ...kernels import status
from ...memory.waiting import unless_again
from ...units import format_size
from ...world.waiting import Deadline, until
from . import operations
from .channels import Channels
from .peer import Peer
from .port import PORT_RECV_BYTES, PORT_RECV_TAG, PORT_SLICE, Port
from .ports import Ports
from .tags import PARCEL, sender, wire
from .waiting import EVERY_BIT

MAX_WAITING_BYTES = 256 << 20  # of messages that were taken in before they were asked for
TAKE_IN_NS = 1_000_000  # how often a waiting send looks whether others wait for it
LARGE_BYTES = 4096  # smaller messages leave at once


class Carrier(Protocol):
    """The fabric, as far as messages need one: UcxFabric."""

    rank: int
    main: Channels
    ports: Ports
    peers: list[Peer]

    def is_lost(self, rank: int) -> bool:
        """Whether `rank` is known to be dead, or to have left."""

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
        """See the operation in `port` through."""


class Parcel:
    """A message that was claimed: it is in `data` once the operation in `port` has ended."""

    def __init__(self, port: Port):
        self.port = port
        self.num_bytes = int(port.words[PORT_RECV_BYTES])
        self.data: np.ndarray | None = None  # until its receive has begun


class Parcels:
    """Sends and receives bytes over `fabric`; any thread may. Tags are a user's."""

    def __init__(self, fabric: Carrier):
        self._fabric = fabric
        # By UCX's tag, in the order sent: messages that came while this rank waited for something else, or whose
        # receive was cut short.
        self._waiting: dict[int, deque[Parcel]] = {}
        self._receivers: Counter[int] = Counter()  # threads that wait for a tag of UCX
        # Held for moments, to keep the order of a tag's messages; a finalizer may send in one of them.
        self._order = threading.RLock()

    def send(self, rank: int, data: np.ndarray, tag: int, timeout_s: float) -> None:
        """Send `data`, contiguous, to `rank`; returns when it has been handed over."""
        fabric = self._fabric
        endpoint = fabric.peers[rank].messages.handle
        port = fabric.ports.take(rank)
        port.kept = data
        is_large = data.nbytes >= LARGE_BYTES
        try:
            if is_large:
                port.words[PORT_SLICE] = TAKE_IN_NS
            own_tag = wire(fabric.rank, tag | PARCEL)
            code = operations.send(port.address, rank, endpoint, data.ctypes.data, data.nbytes, own_tag)
            if code != status.OK:
                fabric.complete(port, code, "send", rank, timeout_s, (rank,), between=self._take_in)
        except (RankLost, FabricError, Interrupted):
            fabric.ports.give_up(rank, port)
            raise
        except BaseException as error:
            self._go_on_aside(rank, port)
            if not isinstance(error, WaitTimeout):
                raise
            raise WaitTimeout(
                f"{error}: rank {rank} does not receive these {format_size(data.nbytes)}. The message stays under way,"
                " and is received whole if it is asked for. Receive it in another thread, send less at a time, or"
                " raise UMEM_TIMEOUT_S"
            ) from None
        finally:
            if is_large:
                port.words[PORT_SLICE] = status.SLICE_NS
        fabric.ports.put_back(rank, port)

    def _go_on_aside(self, rank: int, port: Port) -> None:
        """See the send in `port` through, for as long as that takes, in another thread."""

        def go_on() -> None:
            # It has no deadline: it ends with the connection, or when the space closes.
            until(lambda: unless_again(operations.resume(port.address, rank)), Deadline(math.inf))
            self._fabric.ports.give_up(rank, port)

        threading.Thread(target=go_on, name="umem-send", daemon=True).start()

    def recv(self, rank: int, tag: int, timeout_s: float) -> np.ndarray:
        """The bytes of the next message of `rank` with this tag."""
        tag = wire(rank, tag | PARCEL)
        with self._order:
            parcel = self._next(tag)
            self._receivers[tag] += parcel is None
        if parcel is None:
            try:
                parcel = self._claim(rank, tag, timeout_s)
            finally:
                with self._order:
                    self._receivers[tag] -= 1
                    self._receivers += Counter()  # drops those at 0
        try:
            return self._finish(rank, parcel, timeout_s)
        except BaseException as error:
            if not isinstance(error, RankLost | FabricError):  # the next receive goes on with it
                with self._order:
                    self._waiting.setdefault(tag, deque()).appendleft(parcel)
            raise

    def recv_any(self, ranks: Sequence[int], tag: int, timeout_s: float) -> tuple[int, np.ndarray]:
        """The first message with this tag of any of `ranks`, and whose it is. Raises RankLost where all are lost."""
        turns = cycle(ranks)

        def look() -> int | None:
            for rank in ranks:
                if self._has_come(rank, tag):
                    return rank
            # Each may have a channel of its own: wait on one after the other, a moment each.
            rank = next(turns)
            if not self._fabric.is_lost(rank):
                self._await_one(rank, tag)
            return None

        def lost() -> RankLost | None:
            gone = [rank for rank in ranks if self._fabric.is_lost(rank)]
            return RankLost(gone[0], "recv from any rank") if len(gone) == len(ranks) else None

        found = until(look, Deadline(timeout_s), lost)
        if found is None:
            raise WaitTimeout(f"recv: no message of ranks {list(ranks)} with this tag within {timeout_s:g} s")
        return found, self.recv(found, tag, timeout_s)

    def _has_come(self, rank: int, tag: int) -> bool:
        tag, fabric = wire(rank, tag | PARCEL), self._fabric
        with self._order:
            if self._waiting.get(tag):
                return True
            port = fabric.ports.take(rank)
            try:
                return operations.peek(port.address, tag, EVERY_BIT) == status.OK
            finally:
                fabric.ports.put_back(rank, port)

    def _await_one(self, rank: int, tag: int) -> None:
        tag, fabric = wire(rank, tag | PARCEL), self._fabric
        port = fabric.ports.take(rank)
        port.words[PORT_SLICE] = TAKE_IN_NS
        code = operations.claim(port.address, rank, tag)
        port.words[PORT_SLICE] = status.SLICE_NS
        if code == status.OK:
            with self._order:
                self._waiting.setdefault(tag, deque()).append(Parcel(port))
            return
        fabric.ports.put_back(rank, port)
        if code == status.INTERRUPTED:
            raise Interrupted("recv from any rank over ucx: the space is closing")

    def _claim(self, rank: int, tag: int, timeout_s: float) -> Parcel:
        fabric = self._fabric
        port = fabric.ports.take(rank)

        def claim(address: int, rank: int) -> int:
            return operations.claim(address, rank, tag)

        try:
            code = claim(port.address, rank)
            if code != status.OK:
                fabric.complete(
                    port, code, "recv", rank, timeout_s, (rank,), step=claim, between=self._take_in
                )
        except BaseException:
            fabric.ports.put_back(rank, port)
            raise
        return Parcel(port)

    def _finish(self, rank: int, parcel: Parcel, timeout_s: float) -> np.ndarray:
        fabric, port = self._fabric, parcel.port
        code = self._begin(rank, parcel) if parcel.data is None else status.AGAIN
        if code != status.OK:
            fabric.complete(port, code, "recv", rank, timeout_s, (rank,))
        data = parcel.data
        assert data is not None
        fabric.ports.put_back(rank, port)
        return data

    def _begin(self, rank: int, parcel: Parcel) -> int:
        parcel.data = parcel.port.kept = np.empty(parcel.num_bytes, np.uint8)
        return operations.receive_claimed(parcel.port.address, rank, parcel.data.ctypes.data)

    def _next(self, tag: int) -> Parcel | None:
        waiting = self._waiting.get(tag)
        if not waiting:
            return None
        parcel = waiting.popleft()
        if not waiting:
            del self._waiting[tag]
        return parcel

    # --- taking in

    def _take_in(self) -> None:
        """Begin to receive what others wait to hand over to this rank."""
        fabric = self._fabric
        for channel in range(len(fabric.main.workers)):
            while True:
                port = fabric.ports.take(channel)
                if not self._take_one(port):
                    fabric.ports.put_back(channel, port)
                    break

    def _take_one(self, port: Port) -> bool:
        with self._order:
            if operations.peek(port.address, PARCEL, PARCEL) != status.OK:
                return False
            tag, num_bytes = int(port.words[PORT_RECV_TAG]), int(port.words[PORT_RECV_BYTES])
            if self._receivers[tag] or not self._has_room(num_bytes):
                return False
            rank = sender(tag)
            if operations.claim(port.address, rank, tag) != status.OK:
                return False
            parcel = Parcel(port)
            self._begin(rank, parcel)
            self._waiting.setdefault(tag, deque()).append(parcel)
        return True

    def _has_room(self, num_bytes: int) -> bool:
        held = sum(parcel.num_bytes for waiting in self._waiting.values() for parcel in waiting)
        return held == 0 or held + num_bytes <= MAX_WAITING_BYTES
