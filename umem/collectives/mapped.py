"""A team whose members map each other's memory: pages in the space, and compiled operations over them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..agent.private_memory import PrivateMemory
from ..errors import (
    CollectiveMismatch,
    NotMappable,
    OutOfMemory,
    RankLost,
    UmemError,
    WaitTimeout,
    WorldError,
)
from ..kernels import status
from ..kernels.collective import layout, run
from ..kernels.data.copy import default_stream_bytes
from ..kernels.page.control import KIND_DEVICE, KIND_HOST
from ..memory.waiting import complete
from .calls import in_words

if TYPE_CHECKING:
    from ..space.space import Space

HALF_BYTES = 128 << 10  # of staging memory: two of them and a reader's part fit a core's second-level cache
EAGER_BYTES = 32 << 10
TWO_SHOT_BYTES = 16 << 10
SLOT_LINE_WORDS = layout.SLOT_BYTES // 8
OWN_BYTES = (
    64 << 10
)  # of a member's words, scratch and tables of the largest team; untouched pages cost nothing


class MappedTeam:
    """This rank's part of a team. Collective to make: every member, for teams of the same ranks in the same order."""

    def __init__(self, space: Space, ranks: Sequence[int], key: str, timeout_s: float):
        self.space, self.ranks, self.timeout_s = space, tuple(ranks), timeout_s
        self.size, self.position = len(self.ranks), self.ranks.index(space.rank)
        reach = space.segments.reach
        away = [r for r in self.ranks if not (reach.by_cpu(r, KIND_DEVICE) and reach.by_cpu(r, KIND_HOST))]
        if away:
            raise NotMappable(
                f"rank {space.rank} does not map the memory of ranks {away}: collectives by loads and stores need that"
            )
        self._key = key
        self._page = self._make_page()
        self._pages = [int(blob) for blob in self._exchange("page", str(self._page))]
        without = [rank for rank, page in zip(self.ranks, self._pages, strict=True) if not page]
        if without:
            raise OutOfMemory(
                f"ranks {without} have no memory for their pages of a team: give them larger segments"
            )
        self._memory = PrivateMemory(OWN_BYTES)
        words = self._words = self._memory.words(layout.TEAM_WORDS)
        self.address = words.address  # what kernels/collective takes as `team`
        words[layout.TEAM_CONTROL] = space.control
        words[layout.TEAM_SIZE], words[layout.TEAM_POSITION] = self.size, self.position
        words[layout.TEAM_PAGES] = self._memory.words_of(self._pages).address
        words[layout.TEAM_HALF_BYTES], words[layout.TEAM_EAGER_BYTES] = HALF_BYTES, EAGER_BYTES
        words[layout.TEAM_TWO_SHOT_BYTES] = TWO_SHOT_BYTES
        words[layout.TEAM_STREAM_BYTES] = default_stream_bytes()
        words[layout.TEAM_SCRATCH] = self._memory.take(layout.TEAM_SCRATCH_BYTES)
        words[layout.TEAM_SOURCES] = self._memory.words(self.size).address
        self._start = run.start.compiled
        self._broken: BaseException | None = None

    def run(
        self,
        flags: int,
        call: int,
        src: int,
        dst: int,
        length: int,
        root: int = 0,
        reduction: int = 0,
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
                reduction,
                element_bytes,
                rows,
                self.space.page.epoch,
                status.SLICE_NS,
            )
            if code != status.OK:
                self._see_through(code, call, length)
        except CollectiveMismatch:
            raise
        except BaseException as error:
            self._broken = error
            raise

    def close(self) -> None:
        """Give the page back, once every member has left the operations before. Collective."""
        self._broken = WorldError("the team is closed")
        # By the store of the world: of a barrier over the pages nobody could tell that all have read its flags.
        self._exchange("left", "")
        self.space.free(self._page)

    def _make_page(self) -> int:
        """Address of this member's page, its flags zero; 0 where there is no memory."""
        try:
            page = self.space.alloc(layout.page_bytes(self.size, HALF_BYTES), align=layout.STAGE_ALIGNMENT)
        except OutOfMemory:
            return 0
        ctypes.memset(page, 0, layout.stage_offset(self.size))
        return page

    def _exchange(self, what: str, text: str) -> list[bytes]:
        """Every member's text, by the store of the world."""
        world = self.space.world
        world.set(f"{self._key}/{what}/{self.space.rank}", text.encode())
        return [world.get(f"{self._key}/{what}/{rank}", self.timeout_s, rank) for rank in self.ranks]

    def _see_through(self, code: int, call: int, length: int) -> None:
        codes = [code]

        def step() -> int:
            code = codes.pop() if codes else run.go_on(self.address, self.space.page.epoch, status.SLICE_NS)
            if code == status.MISMATCH:
                raise self._mismatch(call, length)
            return int(code)

        what = in_words(call, length)
        try:
            complete(step, self.space.page, self.timeout_s, what, self.ranks)
        except WaitTimeout:
            raise WaitTimeout(f"{what}: {self._who_is_missing()}") from None

    def _refuse(self) -> None:
        error = self._broken
        if isinstance(error, RankLost):
            raise RankLost(
                error.rank, "and this team with it: make one of the ranks that are left"
            ) from error
        raise WorldError(f"this team has ended: {error}; make a new one") from (
            error if isinstance(error, UmemError) else None
        )

    def _slot(self, member: int, sequence: int) -> np.ndarray:
        address = self._pages[member] + sequence % layout.NUM_FLAG_LINES * layout.SLOT_BYTES
        return np.ctypeslib.as_array((ctypes.c_int64 * SLOT_LINE_WORDS).from_address(address))

    def _mismatch(self, call: int, length: int) -> CollectiveMismatch:
        sequence, other = self._words[layout.TEAM_SEQUENCE], self._words[layout.TEAM_OTHER]
        theirs = self._slot(other, sequence)
        their_call, their_length = int(theirs[layout.SLOT_CALL]), int(theirs[layout.SLOT_LENGTH])
        mine, others = in_words(call, length), in_words(their_call, their_length)
        if mine == others and call & layout.VARIES:
            mine, others = self._counts(self.position), self._counts(other)
        return CollectiveMismatch(self.space.rank, mine, self.ranks[other], others)

    def _counts(self, member: int) -> str:
        turn = self._words[layout.TEAM_NUM_CALLS] & 1
        offset = layout.TABLES_OFFSET + turn * 8 * layout.TABLE_ROW_WORDS * self.size
        words = (ctypes.c_int64 * (layout.TABLE_ROW_WORDS * self.size)).from_address(
            self._pages[member] + offset
        )
        rows = np.ctypeslib.as_array(words).reshape(self.size, -1)
        sent, taken = rows[:, layout.TABLE_SEND].tolist(), rows[:, layout.TABLE_TAKE].tolist()
        return f"all_to_all_v(sends {sent} bytes, takes {taken})"

    def _who_is_missing(self) -> str:
        sequence = self._words[layout.TEAM_SEQUENCE]
        told = []
        for member, rank in enumerate(self.ranks):
            slots = [self._slot(member, turn) for turn in range(layout.NUM_FLAG_LINES)]
            last = max(slots, key=lambda slot: int(slot[layout.SLOT_SIGNAL]) >> 1)
            if int(last[layout.SLOT_SIGNAL]) >> 1 < sequence:
                before = int(last[layout.SLOT_SIGNAL]) >> 1
                its = (
                    in_words(int(last[layout.SLOT_CALL]), int(last[layout.SLOT_LENGTH]))
                    if before
                    else "nothing"
                )
                told.append(f"rank {rank}, whose last call here was {its}")
        return f"no end after {self.timeout_s:g} s; not there: {'; '.join(told) or 'nobody any more'}"
