"""Messages and one-sided accesses over UCX, between ranks 0 and 1."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from umem.errors import FabricMissing, Waived
from umem.fabric.ucx.library import INSTALL_UCX
from umem.fabric.ucx.peer import Reach
from umem.fabric.ucx.port import Port
from umem.kernels.status import OK
from umem.space.space import Space
from umem.world.spec import HOSTS

from ..harness.stats import Samples
from . import message_loops as loops
from .base import SpacePart, check

TAG = 1 << 45  # above the tags of users
MAX_WINDOW = 128
# 10 ms each: cores that have slept take that long to come back to speed.
WARM_ROUNDS, WARM_ROUNDS_TCP = 20_000, 500
SMALL_BYTES = 8 << 10
WORD_BYTES = 8


class UcxPart(SpacePart):
    """The base of parts that drive UCX from a compiled loop: a port, the other rank, clocks."""

    def __init__(self, space: Space):
        super().__init__(space)
        if space.fabric is None:
            raise FabricMissing(f"messages need UCX. Fix: {INSTALL_UCX}")
        if space.num_ranks < 2:
            raise Waived("messages need two ranks")
        self.fabric = space.fabric
        self.takes_part = self.rank < 2
        self.other = 1 - self.rank if self.takes_part else 0
        self.port = Port(self.fabric.main, self.other)
        if self.takes_part:
            self.endpoint = self.fabric.peers[self.other].messages.handle
        self.out_tag = self.rank << 48 | TAG  # UcxFabric: the upper bits of a tag are its sender
        self.in_tag = self.other << 48 | TAG

    def warm_rounds(self, num_bytes: int) -> int:
        """Rounds before the timed ones: the other rank may still be on its way, and caches are cold."""
        if num_bytes > SMALL_BYTES:
            return 1
        return WARM_ROUNDS_TCP if self.space.world.spec.kind == HOSTS else WARM_ROUNDS

    def rounds(self, num_samples: int, num_warm: int, loop: Callable[[int, int], int]) -> Samples:
        """Seconds of each round of `loop(num_rounds, times)`: `num_samples`, after `num_warm` dropped ones.

        The loop writes the cycles of each round to `times`; the time of the whole loop gives the length of a cycle.
        """
        times = np.zeros(num_warm + num_samples, np.int64)
        begin_ns = time.perf_counter_ns()
        code = loop(len(times), times.ctypes.data)
        elapsed_s = (time.perf_counter_ns() - begin_ns) * 1e-9
        check(code)
        return np.asarray(times[num_warm:] * (elapsed_s / max(int(times.sum()), 1)), np.float64)


class Message(UcxPart):
    """Messages of one size to and fro; a sample is half a round trip."""

    def __init__(self, space: Space, num_bytes: int):
        super().__init__(space)
        self.num_bytes = num_bytes
        self.src = np.full(num_bytes, self.rank + 1, np.uint8)
        self.dst = np.zeros(num_bytes, np.uint8)

    def message(self, num_samples: int) -> Samples | None:
        """Round trips, each timed."""
        self.space.barrier()
        if not self.takes_part:
            return None
        self.dst[:] = 0
        samples = self.rounds(num_samples, self.warm_rounds(self.num_bytes), self._ping_pong)
        self.expect(bool((self.dst == self.other + 1).all()))
        return samples / 2 if self.is_timed else None

    def _ping_pong(self, num_rounds: int, times: int) -> int:
        code = loops.ping_pong(
            self.port.address,
            self.endpoint,
            self.other,
            self.src.ctypes.data,
            self.dst.ctypes.data,
            self.num_bytes,
            self.out_tag,
            self.in_tag,
            self.rank,
            num_rounds,
            times,
            self.deadline_ns(),
        )
        return int(code)


class Stream(UcxPart):
    """Messages of one size in one direction, `window` in flight; a sample is the mean of a batch."""

    def __init__(self, space: Space, num_bytes: int, window: int, num_messages: int):
        super().__init__(space)
        self.num_bytes, self.window, self.num_messages = num_bytes, min(window, MAX_WINDOW), num_messages
        self.buffer = np.full(max(num_bytes, 8), self.rank + 1, np.uint8)
        self.requests = np.zeros(MAX_WINDOW, np.int64)

    def message(self, num_samples: int) -> Samples | None:
        """Batches from rank 0 to rank 1, each answered once."""
        if self.rank == 1:
            self.buffer[:] = 0
        samples = self.timed(num_samples, self.num_messages, self._run)
        if self.rank == 1:
            self.expect(bool((self.buffer[: self.num_bytes] == 1).all()))
        return samples

    def _run(self) -> int:
        if not self.takes_part:
            return OK
        code = loops.stream(
            self.port.address,
            self.endpoint,
            self.other,
            self.buffer.ctypes.data,
            self.requests.ctypes.data,
            self.num_bytes,
            self.out_tag,
            self.in_tag,
            self.rank,
            self.num_messages,
            self.window,
            self.deadline_ns(),
        )
        return int(code)


class Access(UcxPart):
    """Puts and gets of one size at the peer, by rank 0 alone, each timed and complete on return."""

    def __init__(self, space: Space, num_bytes: int):
        super().__init__(space)
        self.num_bytes = num_bytes
        self.array = self.shared(num_bytes, home=1)
        self.buffer = np.zeros(num_bytes, np.uint8)
        if self.is_timed:
            self.address = space.segments.remote_address(self.array.address)
            reach = self.fabric.peers[1].memory
            self.endpoint, self.key = reach.endpoint.handle, reach.key(self.address, num_bytes)

    def put(self, num_samples: int) -> Samples | None:
        """Puts, complete at the home."""
        if not self.is_timed:
            return None
        found = np.empty_like(self.buffer)
        self.space.get(found, self.array.address)
        np.invert(found, out=self.buffer)  # nothing of what stands there
        samples = self._access(num_samples, is_put=1)
        self.space.get(found, self.array.address)
        self.expect(bool((found == self.buffer).all()))
        return samples

    def get(self, num_samples: int) -> Samples | None:
        """Gets."""
        if not self.is_timed:
            return None
        expected = np.empty_like(self.buffer)
        self.space.get(expected, self.array.address)
        np.invert(expected, out=self.buffer)
        samples = self._access(num_samples, is_put=0)
        self.expect(bool((self.buffer == expected).all()))
        return samples

    def _access(self, num_samples: int, is_put: int) -> Samples:
        def loop(num_rounds: int, times: int) -> int:
            code = loops.access(
                self.port.address,
                self.endpoint,
                1,
                is_put,
                self.buffer.ctypes.data,
                self.num_bytes,
                self.address,
                self.key,
                num_rounds,
                times,
                self.deadline_ns(),
            )
            return int(code)

        return self.rounds(num_samples, self.warm_rounds(self.num_bytes) // 10, loop)


class PutPingPong(UcxPart):
    """Puts of one size into each other's memory, to and fro; a sample is half a round trip."""

    def __init__(self, space: Space, num_bytes: int):
        super().__init__(space)
        self.num_bytes, self.num_done = num_bytes, 0
        inboxes = [self.shared(num_bytes, home=rank) for rank in (0, 1)]
        self.src = np.full(num_bytes, self.rank + 1, np.uint8)
        if self.takes_part:
            self.inbox = inboxes[self.rank]
            self.address = space.segments.remote_address(inboxes[self.other].address)
            peer = self.fabric.peers[self.other]
            # To the rank's own thread, which polls, and not to its agent, which would wait for its core.
            self.key = Reach(peer.messages, peer.regions).key(self.address, num_bytes)

    def ping_pong(self, num_samples: int) -> Samples | None:
        """Round trips, each timed."""
        self.space.barrier()
        if not self.takes_part:
            return None
        samples = self.rounds(num_samples, self.warm_rounds(self.num_bytes), self._ping_pong)
        found = np.empty(self.num_bytes, np.uint8)
        self.space.get(found, self.inbox.address)
        number = found[-WORD_BYTES:].view(np.int64)[0]
        self.expect(number == self.num_done and bool((found[:-WORD_BYTES] == self.other + 1).all()))
        return samples / 2 if self.is_timed else None

    def _ping_pong(self, num_rounds: int, times: int) -> int:
        code = loops.put_ping_pong(
            self.port.address,
            self.endpoint,
            self.other,
            self.src.ctypes.data,
            self.space.pointer(self.inbox.address),
            self.num_bytes,
            self.address,
            self.key,
            self.rank,
            self.num_done + 1,
            num_rounds,
            times,
            self.deadline_ns(),
        )
        self.num_done += num_rounds
        return int(code)
