"""References of tensors that are on their way: the sender keeps a tensor alive until it has arrived.

A message carries an address. Between its writing and its reading nobody but the sender refers to the memory,
so the sender keeps the storage, and with it a word on its *board*: memory in its own segment, where the
receiver notes the arrival. A reference in flight ends when

    the receiver has its own         it has put 0 into the word
    the receiver is known and dead   its messages are lost
    the lease is over                nobody read the message: a queue was dropped, a reader died

whichever comes first. One that comes after its lease finds another generation and is told so: never a wrong
value. Ended references are collected at the next send or arrival, by memory_summary and at the close.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from ..heap import Heap
from ..kernels import cpu_kernel
from ..kernels.ops import compare_swap_i64, load_acquire_i64, store_release_i64

BOARD_WORDS = 512
ANYONE = -1  # as a receiver: whoever reads the queue


@cpu_kernel("int64(int64)")
def read_word(address):
    """The word at `address`, acquired."""
    return load_acquire_i64(address, 0)


@cpu_kernel("void(int64, int64)")
def write_word(address, value):
    """Release `value` to the word at `address`."""
    store_release_i64(address, 0, value)


@cpu_kernel("int64(int64, int64)")
def clear_word(address, expected):
    """Put 0 into a word that is `expected`; 1 where it was."""
    return 1 if compare_swap_i64(address, 0, expected, 0) == expected else 0


@dataclass(frozen=True)
class Flight:
    """One reference in flight: `number` stands in the word at `word` until the tensor has arrived."""

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
        """Keep `storage` until it has arrived; returns the word and the number by which `land` is told."""
        self.collect()
        with self._lock:
            if not self._free:
                board = self._heap.alloc(BOARD_WORDS * 8)
                self._boards.append(board)
                self._free = [board + 8 * index for index in range(BOARD_WORDS)]
            # Not to be met by chance: a late receiver looks for it where other data may stand by then.
            number = secrets.randbits(62) | 1
            word = self._free.pop()
            write_word(word, number)
            expires_s = self._clock() + self.lease_s
            self._flights[word] = Flight(storage, word, number, receiver, expires_s)
            return word, number

    def collect(self) -> int:
        """End what is over; returns how many references are still in flight."""
        now = self._clock()
        with self._lock:
            dead = self._dead_ranks() if self._flights else ()
            over = [flight for flight in self._flights.values() if self._is_over(flight, now, dead)]
            ended = [self._end(flight) for flight in over]
            num_left = len(self._flights)
        del ended  # outside of the lock: the end of a storage may run other code
        return num_left

    def close(self) -> None:
        """End all, and give the boards back. A later `start` makes new ones."""
        with self._lock:
            ended = [self._end(flight) for flight in list(self._flights.values())]
            for board in self._boards:
                self._heap.free(board)
            self._boards, self._free = [], []
        del ended

    def _is_over(self, flight: Flight, now_s: float, dead: Collection[int]) -> bool:
        return read_word(flight.word) == 0 or now_s >= flight.expires_s or flight.receiver in dead

    def _end(self, flight: Flight) -> Flight:
        clear_word(flight.word, flight.number)
        self._free.append(flight.word)
        return self._flights.pop(flight.word)


def land(word: int, number: int) -> None:
    """Tell the sender that a tensor has arrived, unless its reference in flight has ended by itself."""
    clear_word(word, number)
