"""What this rank's part of a team is, whichever way its operations go: how it ends, and what its errors say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from ..errors import CollectiveMismatch, RankLost, UmemError, WaitTimeout, WorldError
from ..kernels import status
from ..memory.waiting import complete
from .calls import in_words

if TYPE_CHECKING:
    from ..space.space import Space


class Closed(WorldError):
    """The member has left its team."""


class Member(ABC):
    """This rank's part of a team. Collective to make: every member, for teams of the same ranks in the same order."""

    semantics: ClassVar[str]
    address = 0  # of the words that compiled code takes
    held: Any = None  # what keeps the buffers of the operation under way alive

    def __init__(self, space: Space, ranks: Sequence[int], key: str, timeout_s: float):
        self.space, self.ranks, self.timeout_s = space, tuple(ranks), timeout_s
        self.size, self.position = len(self.ranks), self.ranks.index(space.rank)
        self.needs: Sequence[int] = self.ranks  # without which its waits cannot end
        self._key = key
        self._broken: BaseException | None = None

    @abstractmethod
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
        """Do one operation: the arguments of kernels/collective/run.py. One thread at a time."""

    @abstractmethod
    def combining(self, operation: int, element: str) -> Any:
        """What `run` takes as `combining`."""

    def follow(self, *streams: int) -> None:
        """Have this thread's next operation begin behind what the streams of a GPU hold now."""
        assert not any(streams), "a CPU has no streams"

    @abstractmethod
    def leave(self) -> None:
        """Tell the others that this member's part is over, without waiting for theirs."""

    @abstractmethod
    def close(self) -> None:
        """Give back the memory, once every member has left the operations before. Collective."""

    def end(self) -> None:
        """Have every call raise, an operation of another thread that waits too, within a slice."""
        self._broken = Closed("the team is closed")

    def tell(self, what: str, text: str) -> list[bytes]:
        """Every member's text. Collective."""
        return told(self.space, self.ranks, f"{self._key}/{what}", text, self.timeout_s)

    def _refuse(self) -> NoReturn:
        self.space.switch.check_open()
        error = self._broken
        if isinstance(error, RankLost):
            raise RankLost(
                error.rank, "and this team with it: make one of the ranks that are left"
            ) from error
        raise WorldError(f"this team has ended: {error}; make a new one") from (
            error if isinstance(error, UmemError) else None
        )


class WaitingMember(Member):
    """A part whose operations are compiled code that is called again until it has ended."""

    def _see_through(self, code: int, call: int, length: int, go_on: Callable[[], int]) -> None:
        """Call `go_on` after `code` until the operation has ended."""
        codes = [code]

        def step() -> int:
            if isinstance(self._broken, Closed):
                raise self._broken
            code = codes.pop() if codes else go_on()
            if code == status.MISMATCH:
                raise self._mismatch(call, length)
            return int(code)

        what = in_words(call, length)
        try:
            complete(step, self.space.page, self.timeout_s, what, self.needs)
        except WaitTimeout:
            missing = "; ".join(self._missing()) or "nobody any more"
            raise WaitTimeout(f"{what}: no end after {self.timeout_s:g} s; not there: {missing}") from None

    @abstractmethod
    def _mismatch(self, call: int, length: int) -> CollectiveMismatch:
        """The error for the mismatch that compiled code has found."""

    @abstractmethod
    def _missing(self) -> list[str]:
        """Each member that has not come, with its last call."""


def told(space: Space, ranks: Sequence[int], key: str, text: str, timeout_s: float) -> list[bytes]:
    """The text of each of `ranks`, by the store of the world. Collective among them, each key once."""
    space.world.set(f"{key}/{space.rank}", text.encode())
    return [space.world.get(f"{key}/{rank}", timeout_s, rank) for rank in ranks]


def varying_in_words(sent: list[int], taken: list[int]) -> str:
    """An all_to_all_v as a program would have written it."""
    return f"all_to_all_v(sends {sent} bytes, takes {taken})"
