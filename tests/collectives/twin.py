"""The NumPy twin of umem/fabric/ucx/schedules.py: all members' schedules, in any order that UCX might take.

A message is copied at a moment that the caller chooses, between the later of its two starts and the first wait of
either side for it: so a schedule that writes what is still being sent, or reads what has not come, is found out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from umem.collectives.schedules import Schedule
from umem.fabric.ucx.schedules import DO_CHECK, DO_COMBINE, DO_COPY, DO_RECV, DO_SEND, DO_WAIT


@dataclass
class Message:
    """One side's part of a message: a view of what is sent, or of where it goes."""

    data: np.ndarray
    has_ended: bool = False


@dataclass
class Rank:
    """A member with its schedule and its memory, uint8 by buffer."""

    schedule: Schedule
    memory: dict[int, np.ndarray]
    cursor: int = 0
    messages: list[Message] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        return self.cursor == len(self.schedule.rows)

    def view(self, buffer: int, offset: int, num_bytes: int) -> np.ndarray:
        whole = self.memory[buffer]
        assert 0 <= offset <= offset + num_bytes <= len(whole), "a row reaches beyond its buffer"
        return whole[offset : offset + num_bytes]


class Deadlock(AssertionError):
    """No member can go on, and no message can be copied."""


class Ranks:
    """Members' schedules on one machine. `combine(arrays)` is the reduction of uint8 arrays, in the members' order."""

    def __init__(self, ranks: list[Rank], combine: Callable[[list[np.ndarray]], np.ndarray]):
        self.ranks, self.combine = ranks, combine
        self.queues: dict[tuple[int, int], tuple[list[Message], list[Message]]] = {}

    def run(self, choose: Callable[[int], int]) -> None:
        """Do all rows; `choose(n)` picks one of n things that may happen next."""
        while not all(rank.has_ended for rank in self.ranks):
            ready = [at for at, rank in enumerate(self.ranks) if self._may_step(rank)]
            pairs = [pair for pair, (sent, taken) in self.queues.items() if sent and taken]
            if not ready and not pairs:
                raise Deadlock(f"rows {[rank.cursor for rank in self.ranks]}")
            chosen = choose(len(ready) + len(pairs))
            if chosen < len(ready):
                self._step(ready[chosen])
            else:
                self._copy(pairs[chosen - len(ready)])
        for rank in self.ranks:
            assert all(message.has_ended for message in rank.messages), "messages are left under way"
            assert len(rank.messages) == rank.schedule.num_requests

    def _may_step(self, rank: Rank) -> bool:
        if rank.has_ended:
            return False
        row = rank.schedule.rows[rank.cursor]
        return row[0] != DO_WAIT or all(message.has_ended for message in rank.messages[row[5] : row[6]])

    def _copy(self, pair: tuple[int, int]) -> None:
        sent, taken = (queue.pop(0) for queue in self.queues[pair])
        assert len(sent.data) <= len(taken.data), "a message is longer than its receiver has room for"
        taken.data[: len(sent.data)] = sent.data
        sent.has_ended = taken.has_ended = True

    def _step(self, at: int) -> None:
        rank = self.ranks[at]
        kind, peer, *place = rank.schedule.rows[rank.cursor][:5] + (0,) * 4
        operands = rank.schedule.rows[rank.cursor][5:]
        if kind in (DO_SEND, DO_RECV):
            sender, taker, side = (at, peer, 0) if kind == DO_SEND else (peer, at, 1)
            message = Message(rank.view(*place[:3]))
            rank.messages.append(message)
            self.queues.setdefault((sender, taker), ([], []))[side].append(message)
        elif kind == DO_COPY:
            rank.view(*place[:3])[:] = rank.view(*operands, place[2])
        elif kind == DO_COMBINE:
            places = rank.schedule.sources[operands[1] :][: len(self.ranks)]
            inputs = [rank.view(*source, place[2]) for source in places]
            rank.view(*place[:3])[:] = self.combine(inputs)
        else:
            assert kind in (DO_WAIT, DO_CHECK)
        rank.cursor += 1
