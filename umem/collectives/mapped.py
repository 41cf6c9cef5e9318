"""A team whose members map each other's memory: pages in the space, and compiled operations over them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np

from ..agent.private_memory import PrivateMemory
from ..errors import CollectiveMismatch, OutOfMemory, RankLost, WaitTimeout
from ..kernels import status
from ..kernels.collective import layout, polling, run
from ..kernels.collective.reductions import reduction
from ..kernels.collective.rounds import NEVER
from ..kernels.page.control import CONTROL_EPOCH
from .calls import in_words
from .common_memory import CommonMemory, common_memory_of, side_of
from .member import WaitingMember, varying_in_words
from .thresholds import Thresholds, defaults, of_this_machine

if TYPE_CHECKING:
    from ..space.space import Space

SLOT_LINE_WORDS = layout.SLOT_BYTES // 8
# Of a member's words, scratch and tables of the largest team; untouched pages cost nothing.
OWN_BYTES = 64 << 10


_LEFT: WeakKeyDictionary[Space, list[MappedTeam]] = WeakKeyDictionary()  # teams that wait for others to leave
_OPEN: WeakKeyDictionary[Space, WeakSet[MappedTeam]] = WeakKeyDictionary()  # whose pages can be read


class MappedTeam(WaitingMember):
    """This rank's part of a team whose members load and store each other's memory."""

    semantics = "load_store"

    def __init__(self, space: Space, ranks: Sequence[int], key: str, timeout_s: float):
        super().__init__(space, ranks, key, timeout_s)
        self._thresholds = defaults()
        self._common = self._find_common_memory()
        left = _LEFT.get(space, [])
        left[:] = [team for team in left if not team.free_if_all_left()]
        self._page = self._make_page()
        self._pages = [int(blob) for blob in self.tell("page", str(self._page))]
        without = [rank for rank, page in zip(self.ranks, self._pages, strict=True) if not page]
        if without:
            if self._page:
                self.space.free(self._page)
                self._free_words()
            raise OutOfMemory(
                f"ranks {without} have no memory for their pages of a team: give them larger segments"
            )
        self._fill_words()
        self._epoch = ctypes.c_int64.from_address(space.control + 8 * CONTROL_EPOCH)
        _OPEN.setdefault(space, WeakSet()).add(self)

    def run(
        self,
        flags: int,
        call: int,
        src: int,
        dst: int,
        length: int,
        root: int = 0,
        combining: Any = 0,
        element_bytes: int = 1,
        rows: int = 0,
    ) -> None:
        """Do one operation; see kernels/collective/run.py. One thread at a time."""
        if self._broken is not None:
            self._refuse()
        try:
            code = self._start(
                self.address,
                flags,
                call,
                src,
                dst,
                length,
                root,
                combining,
                element_bytes,
                rows,
                self._epoch.value,
                status.SLICE_NS,
            )
            if code != status.OK:
                self._see_through(code, call, length, self._go_on_here)
        except CollectiveMismatch:
            raise
        except BaseException as error:
            self._broken = error
            raise

    def leave(self) -> None:
        """Tell the others that this member's part is over; its page goes back with a later team, when all have left."""
        _OPEN[self.space].discard(self)
        self.space.world.set(f"{self._key}/left/{self.space.rank}", b"")
        _LEFT.setdefault(self.space, []).append(self)

    def free_if_all_left(self) -> bool:
        """Give the page of a team that this rank has left back, unless a member may still use it; whether it has."""
        for rank in self.ranks:
            try:
                self.space.world.get(f"{self._key}/left/{rank}", 0.0, rank)
            except WaitTimeout:
                return False
            except RankLost:
                continue
        self.space.free(self._page)
        self._free_words()
        return True

    def close(self) -> None:
        """Give the page back, once every member has left the operations before. Collective."""
        _OPEN[self.space].discard(self)
        self.end()
        # By the store of the world: of a barrier over the pages nobody could tell that all have read its flags.
        self.tell("left", "")
        self.space.free(self._page)
        self._free_words()

    def combining(self, operation: int, element: str) -> Any:
        """What `run` takes as `combining`."""
        return reduction(operation, element).address

    def _find_common_memory(self) -> CommonMemory:
        """Where the members meet, by what each reaches. Raises NotMappable where GPUs do not meet."""
        segments = self.space.segments
        reach, gpu_ranks = segments.reach, frozenset(segments.map.gpu_ranks)
        if gpu_ranks.isdisjoint(self.ranks):
            self._thresholds = Thresholds.parse(self.tell("thresholds", of_this_machine().text())[0].decode())
            return CommonMemory("local", self._thresholds.half)
        mine = side_of(reach.words, segments.gpu is not None)
        texts = self.tell("reach", " ".join(map(str, mine)))
        told = {r: [int(word) for word in text.split()] for r, text in zip(self.ranks, texts, strict=True)}
        return common_memory_of(told, gpu_ranks)

    def _fill_words(self) -> None:
        """This member's own words, at `address`, which kernels/collective takes as `team`; and what works on them."""
        reach, chosen = self._common.reach, self._thresholds
        is_among_gpus = len(reach) > 0
        self._memory = PrivateMemory(OWN_BYTES)
        words = self._words = self._memory.words(layout.TEAM_WORDS)
        self.address = words.address
        words[layout.TEAM_CONTROL] = self.space.control
        words[layout.TEAM_SIZE], words[layout.TEAM_POSITION] = self.size, self.position
        words[layout.TEAM_PAGES] = self._memory.words_of(self._pages).address
        words[layout.TEAM_HALF_BYTES], words[layout.TEAM_EAGER_BYTES] = self._common.half_bytes, chosen.eager
        words[layout.TEAM_TWO_SHOT_BYTES] = chosen.two_shot
        words[layout.TEAM_STREAM_BYTES] = NEVER if is_among_gpus else chosen.stream
        words[layout.TEAM_SCRATCH] = self._memory.take(layout.TEAM_SCRATCH_BYTES)
        words[layout.TEAM_SOURCES] = self._memory.words(self.size).address
        words[layout.TEAM_REACH] = self._memory.words_of(reach).address
        self._start = (polling.start if is_among_gpus else run.start).compiled
        self._go_on = (polling.go_on if is_among_gpus else run.go_on).compiled

    def _free_words(self) -> None:
        """Give the words back: private memory, which goes with this object."""

    def _make_page(self) -> int:
        """Address of this member's page, its flags zero; 0 where there is no memory."""
        try:
            num_bytes = layout.page_bytes(self.size, self._common.half_bytes)
            page = self.space.alloc(num_bytes, self._common.home, align=layout.STAGE_ALIGNMENT)
        except OutOfMemory:
            return 0
        self._zero(page, layout.stage_offset(self.size))
        return page

    def _zero(self, address: int, num_bytes: int) -> None:
        ctypes.memset(address, 0, num_bytes)

    def _word(self, index: int) -> int:
        """One of this member's own words."""
        return self._words[index]

    def _go_on_here(self) -> int:
        return int(self._go_on(self.address, self.space.page.epoch, status.SLICE_NS))

    def _slot(self, member: int, sequence: int) -> np.ndarray:
        address = self._pages[member] + sequence % layout.NUM_FLAG_LINES * layout.SLOT_BYTES
        return self._read_words(address, SLOT_LINE_WORDS)

    def _read_words(self, address: int, num_words: int) -> np.ndarray:
        return words_at(address, num_words)

    def _mismatch(self, call: int, length: int) -> CollectiveMismatch:
        sequence, other = self._word(layout.TEAM_SEQUENCE), self._word(layout.TEAM_OTHER)
        theirs = self._slot(other, sequence)
        their_call, their_length = int(theirs[layout.SLOT_CALL]), int(theirs[layout.SLOT_LENGTH])
        mine, others = in_words(call, length), in_words(their_call, their_length)
        if mine == others and call & layout.VARIES:
            mine, others = self._counts(self.position), self._counts(other)
        return CollectiveMismatch(self.space.rank, mine, self.ranks[other], others)

    def _counts(self, member: int) -> str:
        num_words = layout.TABLE_ROW_WORDS * self.size
        turn = self._word(layout.TEAM_NUM_CALLS) & 1
        table = self._pages[member] + layout.TABLES_OFFSET + turn * 8 * num_words
        rows = self._read_words(table, num_words).reshape(self.size, -1)
        sent, taken = rows[:, layout.TABLE_SEND].tolist(), rows[:, layout.TABLE_TAKE].tolist()
        return varying_in_words(sent, taken)

    def _missing(self) -> list[str]:
        sequence = self._word(layout.TEAM_SEQUENCE)
        told = []
        for member, rank in enumerate(self.ranks):
            before, call, length = self._last_of(member)
            if before < sequence:
                its = in_words(call, length) if before else "nothing"
                others = [team._waits_here(rank) for team in _OPEN.get(self.space, ()) if team is not self]
                waits = "".join(f" and which waits in {where}" for where in others if where)
                told.append(f"rank {rank}, whose last call here was {its}{waits}")
        return told

    def _last_of(self, member: int) -> tuple[int, int, int]:
        """The last exchange that a member has posted, with what it called."""
        slots = [self._slot(member, turn) for turn in range(layout.NUM_FLAG_LINES)]
        last = max(slots, key=lambda slot: int(slot[layout.SLOT_SIGNAL]) >> 1)
        return (
            int(last[layout.SLOT_SIGNAL]) >> 1,
            int(last[layout.SLOT_CALL]),
            int(last[layout.SLOT_LENGTH]),
        )

    def _waits_here(self, rank: int) -> str:
        """The call in which `rank` waits for this rank here, if it does: teams called in another order."""
        if rank not in self.ranks:
            return ""
        posted, call, length = self._last_of(self.ranks.index(rank))
        ranks = ", ".join(map(str, self.ranks))
        is_ahead = posted > self._word(layout.TEAM_SEQUENCE)
        return f"{in_words(call, length)} of the team of ranks {ranks}" if is_ahead else ""


def words_at(address: int, num_words: int) -> np.ndarray:
    """The int64 words at an address that this CPU maps."""
    return np.ctypeslib.as_array((ctypes.c_int64 * num_words).from_address(address))
