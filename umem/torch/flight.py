"""References of tensors that are on their way: the sender keeps a tensor alive until it has arrived.

A message carries an address. Between its writing and its reading only the sender refers to the memory,
so the sender keeps the storage, and with it a word on its *board*: memory in its own segment, where the
receiver notes the arrival. A reference in flight ends when

    the receiver has its own         it has put 0 into the word
    the receiver is known and dead   its messages are lost
    the lease is over                the message was never read: a queue was dropped, a reader died

whichever comes first. A tensor that arrives after its lease finds another generation and raises NotAllocated: never
a wrong value. Ended references are collected at the next send or arrival, by memory_summary and at the close.

A process that is no rank, such as a worker of a DataLoader, has no reference of its own in the heap. It *holds*
the sender's instead: its pid stands in the word until it lets go or ends. While this process has workers of
multiprocessing no lease is over, for they may be slow to read.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from ..errors import NotAllocated
from ..heap import Heap
from ..kernels import cpu_kernel
from ..kernels.intrinsics.scalar import compare_swap_i64, load_acquire_i64, store_release_i64
from ..world.liveness import has_ended

BOARD_WORDS = 512
ANYONE = -1  # as a receiver: any process that reads the queue
PID_BITS = 22  # the kernel's largest pid: /proc/sys/kernel/pid_max is at most 1 << 22


@cpu_kernel("int64(int64)")
def read_word(address):
    """The word at `address`, acquired."""
    return load_acquire_i64(address, 0)


@cpu_kernel("void(int64, int64)")
def write_word(address, value):
    """Release `value` to the word at `address`."""
    store_release_i64(address, 0, value)


@cpu_kernel("int64(int64, int64, int64)")
def swap_word(address, expected, value):
    """Replace `expected` in the word at `address` by `value`; 1 where the word held it, else 0."""
    return 1 if compare_swap_i64(address, 0, expected, value) == expected else 0


@dataclass(frozen=True)
class Flight:
    """One reference in flight: `number` stands in the word at `word` until the tensor has arrived or is held."""

    storage: torch.UntypedStorage
    word: int
    number: int
    receiver: int
    expires_s: float


class Flights:
    """All references in flight that this process keeps. May be used by any thread."""

    def __init__(
        self,
        heap: Heap,
        dead_ranks: Callable[[], Collection[int]],
        lease_s: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._heap, self._dead_ranks, self.lease_s, self._clock = heap, dead_ranks, lease_s, clock
        self._flights: dict[int, Flight] = {}  # by word
        self._free: list[int] = []
        self._boards: list[int] = []

        # Reentrant: a collection inside may end a storage whose owner sends or counts.
        self._lock = threading.RLock()

    def start(self, storage: torch.UntypedStorage, receiver: int = ANYONE) -> tuple[int, int]:
        """Keep `storage` until it has arrived; returns the word and the number that `land` and `hold` take."""
        self.collect()
        with self._lock:
            if not self._free:
                board = self._heap.alloc(BOARD_WORDS * 8)
                self._boards.append(board)
                self._free = [board + 8 * index for index in range(BOARD_WORDS)]
            # Random: a late receiver compares it with a word that may hold other data by then.
            number = secrets.randbits(62) | 1
            word = self._free.pop()
            write_word(word, number)
            expires_s = self._clock() + self.lease_s
            self._flights[word] = Flight(storage, word, number, receiver, expires_s)
            return word, number

    def collect(self) -> int:
        """End the flights that are over; returns how many references are still in flight."""
        now = self._clock()
        with self._lock:
            dead = self._dead_ranks() if self._flights else ()
            over = [flight for flight in self._flights.values() if self._is_over(flight, now, dead)]
            ended = [self._end(flight) for flight in over]
            num_left = len(self._flights)
        del ended  # outside of the lock: the end of a storage may run other code
        return num_left

    def close(self) -> None:
        """End the references that no living worker holds; free the boards if none is left. `start` makes new ones."""
        with self._lock:
            ended = [self._end(flight) for flight in list(self._flights.values()) if self._can_end(flight)]
            if not self._flights:
                for board in self._boards:
                    self._heap.free(board)
                self._boards, self._free = [], []
        del ended

    def _is_over(self, flight: Flight, now_s: float, dead: Collection[int]) -> bool:
        word = read_word(flight.word)
        if word != flight.number:
            return word == 0 or not _is_alive(_pid_of(word))
        is_late = now_s >= flight.expires_s and not multiprocessing.active_children()
        return (is_late or flight.receiver in dead) and self._can_end(flight)

    def _can_end(self, flight: Flight) -> bool:
        """Whether no living process holds the reference; if so none can take it any more."""
        if swap_word(flight.word, flight.number, 0):
            return True
        word = read_word(flight.word)
        return word == 0 or not _is_alive(_pid_of(word))

    def _end(self, flight: Flight) -> Flight:
        self._free.append(flight.word)
        return self._flights.pop(flight.word)


def land(word: int, number: int) -> None:
    """Tell the sender that a tensor has arrived, unless its reference in flight has ended by itself."""
    swap_word(word, number, 0)


def hold(word: int, number: int) -> int:
    """Hold a reference in flight for this process, which is no rank; returns the value that `let_go` takes.

    Raises NotAllocated where the reference has ended.
    """
    # The number's high bits stay, lest a late `let_go` meet equal data that stands there by then.
    held = -(number >> PID_BITS << PID_BITS | os.getpid())
    if not swap_word(word, number, held):
        raise NotAllocated(
            "a tensor came after its lease, or another process has read the same message;"
            " umem.torch.install(space, lease_s=...) sets a longer one"
        )
    return held


def let_go(word: int, held: int) -> None:
    """End the hold of a reference. Does nothing in a fork of the process that holds it."""
    if _pid_of(held) == os.getpid():
        swap_word(word, held, 0)


def _pid_of(held: int) -> int:
    return -held & ((1 << PID_BITS) - 1)


def _is_alive(pid: int) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not has_ended(pidfd)
    finally:
        os.close(pidfd)
