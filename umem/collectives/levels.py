"""A team over several hosts whose members on a host map each other: loads and stores within, messages between.

Every operation begins with heads between all members, as by messages alone: so all find a mismatch, and small
operations have their data there. Large ones go by levels where that is done here (`_ways`): within a host as a
MappedTeam, and between the hosts by the first member of each, its leader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CollectiveMismatch
from ..kernels.collective import layout
from .links import CAME, MADE, NUM_ROOMS, RESULT, chain, chain_steps, slabs, star
from .mapped import MappedTeam
from .member import Member
from .message import MessageTeam
from .partial import Partial

if TYPE_CHECKING:
    from ..space.space import Space

# Shorter blocks go as messages between all members: a chain has more steps to wait for.
LEVELS_BYTES = 256 << 10
CHUNK_BYTES = 512 << 10
OWN = NUM_ROOMS  # the room of this member's own input, where it is not the program's
LEADER = 0  # position of a host's leader among its members


class LevelTeam(Member):
    """This rank's part of a team over `hosts`, the positions of each host's members.

    `number` and the next one are the team's own among those of its first member's.
    """

    semantics = "levels"

    def __init__(
        self,
        space: Space,
        ranks: Sequence[int],
        key: str,
        timeout_s: float,
        number: int,
        hosts: Sequence[range],
    ):
        self._parts: list[Member] = []
        super().__init__(space, ranks, key, timeout_s)
        self._hosts = hosts
        self._host = next(index for index, mates in enumerate(hosts) if self.position in mates)
        self._mates = hosts[self._host]
        leaders = [self.ranks[mates.start] for mates in hosts]
        self._all = MessageTeam(space, ranks, key, timeout_s, number)
        self._local = MappedTeam(space, [self.ranks[at] for at in self._mates], f"{key}/host", timeout_s)
        self._leaders = None
        if space.rank in leaders:
            self._leaders = MessageTeam(space, leaders, f"{key}/leaders", timeout_s, number + 1)
        self._parts = [self._all, self._local, *([self._leaders] if self._leaders else [])]
        for part in self._parts:
            part.needs = self.ranks
        self._rooms = np.zeros((OWN + 1) * CHUNK_BYTES, np.uint8)
        self._ways = {
            layout.ALL_REDUCE: self._reduce,
            layout.REDUCE_TO_ROOT: self._reduce,
            layout.BROADCAST: self._broadcast,
            layout.ALL_GATHER: self._all_gather,
        }

    @property
    def timeout_s(self) -> float:
        """Bound of every wait."""
        return self._timeout_s

    @timeout_s.setter
    def timeout_s(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        for part in self._parts:
            part.timeout_s = timeout_s

    def run(
        self,
        flags: int,
        call: int,
        src: int,
        dst: int,
        length: int,
        root: int = 0,
        combining: Partial | int = 0,
        element_bytes: int = 1,
        rows: int = 0,
    ) -> None:
        """Do one operation; see `Member.run`. `combining` is what this member's `combining` returned."""
        if self._broken is not None:
            self._refuse()
        for part in self._parts:
            part.held = self.held, self._rooms
        try:
            if flags in self._ways and length >= LEVELS_BYTES:
                self._all.announce(call, length)
                self._ways[flags](flags, call, src, dst, length, root, combining)
            else:
                address = combining.address if isinstance(combining, Partial) else 0
                self._all.run(flags, call, src, dst, length, root, address, element_bytes, rows)
        except CollectiveMismatch:
            raise
        except BaseException as error:
            self._broken = error
            raise

    def combining(self, operation: int, element: str) -> Partial:
        """What `run` takes as `combining`."""
        return Partial(operation, element)

    def end(self) -> None:
        """Have every call raise, an operation of another thread that waits too, within a slice."""
        super().end()
        for part in self._parts:
            part.end()

    def leave(self) -> None:
        """Tell the others that this member's part is over."""
        for part in self._parts:
            part.leave()

    def close(self) -> None:
        """Give back the memory, once every member has left the operations before. Collective."""
        self.end()
        for part in self._parts:
            part.close()

    # --- by levels

    def _room(self, index: int) -> int:
        return self._rooms.ctypes.data + index * CHUNK_BYTES

    def _reduce(
        self, flags: int, call: int, src: int, dst: int, length: int, root: int, combining: Partial
    ) -> None:
        """all_reduce and reduce: a chain of the hosts (links.py), a chunk a step."""
        num_hosts, item, width = len(self._hosts), combining.item_bytes, combining.part_bytes
        is_to_root = bool(flags & layout.TO_ROOT)
        takers = {host for host in range(num_hosts) if not is_to_root or root in self._hosts[host]}
        takes = not is_to_root or self.position == root
        num_elements, most = length // item, CHUNK_BYTES // width
        chunks = [(begin, min(most, num_elements - begin)) for begin in range(0, num_elements, most)]
        sizes = [count * width for _, count in chunks]
        for step in chain_steps(len(chunks), num_hosts):
            if self._leaders is not None:
                links = chain(self._host, num_hosts, step, sizes, takers, CHUNK_BYTES)
                self._leaders.exchange(links, self._room(CAME), call, length)
            done, here = step - num_hosts, step - self._host
            if done >= 0 and self._host in takers:
                begin, count = chunks[done]
                self._take(call, combining, dst + begin * item, count, takes)
            if 0 <= here < len(chunks):
                begin, count = chunks[here]
                self._add(call, combining, src + begin * item, count)

    def _add(self, call: int, combining: Partial, src: int, count: int) -> None:
        """Add a chunk of this host's members to what came from the hosts before."""
        own = src
        if combining.wide != combining.element:
            own = self._room(OWN)
            combining.widen(own, src, count)
        if self._leaders is not None and self._host > 0:
            # What came goes before the first member's input: so the sum is in the members' order.
            combining.join(self._room(OWN), self._room(CAME), own, count)
            own = self._room(OWN)
        num_bytes, joining = count * combining.part_bytes, combining.joining
        made = self._room(MADE) if self._leaders is not None else own
        self._local.run(
            layout.REDUCE_TO_ROOT, call, own, made, num_bytes, LEADER, joining, combining.part_bytes
        )

    def _take(self, call: int, combining: Partial, dst: int, count: int, takes: bool) -> None:
        """Take a chunk of the result from this host's leader."""
        is_last, is_leader = self._host == len(self._hosts) - 1, self._leaders is not None
        place = self._room(MADE) if is_leader and is_last else self._room(RESULT)
        if not is_leader and takes and combining.is_final:
            place = dst
        self._local.run(layout.BROADCAST, call, place, place, count * combining.part_bytes, LEADER)
        if takes and place != dst:
            combining.conclude(dst, place, count, self.size)

    def _broadcast(
        self, flags: int, call: int, src: int, dst: int, length: int, root: int, combining: Any
    ) -> None:
        host = next(index for index, mates in enumerate(self._hosts) if root in mates)
        for begin in range(0, length, CHUNK_BYTES):
            num_bytes, piece = min(CHUNK_BYTES, length - begin), dst + begin
            if self._host == host:
                self._local.run(layout.BROADCAST, call, piece, piece, num_bytes, root - self._mates.start)
            if self._leaders is not None:
                links = star(self._host, len(self._hosts), host, begin, num_bytes)
                self._leaders.exchange(links, dst, call, length)
            if self._host != host:
                self._local.run(layout.BROADCAST, call, piece, piece, num_bytes, LEADER)

    def _all_gather(
        self, flags: int, call: int, src: int, dst: int, length: int, root: int, combining: Any
    ) -> None:
        self._local.run(layout.ALL_GATHER, call, src, dst + self._mates.start * length, length)
        if self._leaders is not None:
            self._leaders.exchange(slabs(self._host, self._hosts, length), dst, call, length)
        for mates in self._hosts:
            if mates is not self._mates:
                slab = dst + mates.start * length
                self._local.run(layout.BROADCAST, call, slab, slab, len(mates) * length, LEADER)
