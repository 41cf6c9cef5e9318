"""The table alone, as a model to search: every transaction is one step, as under the line's lock.

All accesses of all attributes, by every rank and by the home; copies dropped and given back; and late requests: a
rank asks for a line that a sibling has got meanwhile, or gives back a copy that was taken from it. This model judges
the rows; umem/verify/model/flits.py judges their actions as messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from .machine import (
    HOME_RANK,
    Access,
    Age,
    Attribute,
    Broken,
    Holder,
    Line,
    Outcome,
    access,
    failure,
    is_owned,
    relation_of,
    step,
    unused_line,
)
from .protocol import Copy, Key, Protocol, Relation, Request, Row
from .search import Illegal

_ACCESSES = [(attribute, kind) for attribute in Attribute for kind in Access]


class Atomic:
    """The model of one line, a home and `num_ranks` other ranks."""

    def __init__(self, protocol: Protocol, num_ranks: int):
        self.name = f"{protocol.name} atomic, {num_ranks} ranks"
        self._num_ranks = num_ranks
        self._rows = _Noting(protocol.rows)
        self._protocol = Protocol(protocol.name, self._rows)

    @property
    def unused(self) -> list[Key]:
        """The rows that no step has used so far."""
        return [key for key in self._rows if key not in self._rows.used]

    def start(self) -> Line:
        """A line that no rank has touched."""
        return unused_line(self._num_ranks)

    def canonical(self, state: Line) -> Line:
        """The line with its ranks sorted by their copies: ranks are interchangeable."""
        return state._replace(ranks=tuple(sorted(state.ranks)))

    def failure(self, state: Line) -> str | None:
        """SWMR and data-value."""
        return failure(state)

    def is_quiet(self, state: Line) -> bool:
        """True: `access` itself goes on until it ends, and raises where it never would."""
        return True

    def steps(self, state: Line) -> Iterator[tuple[str, Line]]:
        """Every access, eviction and late request of the home and of one of each kind of ranks."""
        unlike = {holder: rank for rank, holder in enumerate(state.ranks)}
        for rank in (HOME_RANK, *unlike.values()):
            actor = "home" if rank == HOME_RANK else f"rank {rank}"
            for attribute, kind in _ACCESSES:
                label = f"{actor}: {kind.value} ({attribute.name.lower()})"
                yield label, _line_after(label, access, self._protocol, state, rank, attribute, kind)
            if rank != HOME_RANK:
                yield from self._without_access(state, rank)

    def text(self, state: Line) -> str:
        """The line in words."""
        named = [rank for rank, holder in enumerate(state.ranks) if holder.is_named]
        copies = " ".join(
            holder.copy.name + ("(stale)" if holder.copy is not Copy.I and holder.age is Age.STALE else "")
            for holder in state.ranks
        )
        return f"{state.directory.name}{named or ''} home {state.home.name.lower()}, copies {copies}"

    def _without_access(self, state: Line, rank: int) -> Iterator[tuple[str, Line]]:
        holder = state.ranks[rank]
        if holder.copy is Copy.S:
            ranks = list(state.ranks)
            ranks[rank] = Holder(is_named=holder.is_named)
            yield f"rank {rank}: drops its copy", state._replace(ranks=tuple(ranks))
        late = [Request.GET_SHARED, Request.GET_OWNED]
        # A copy that is given back late was taken before: the rank has none any more, and is not the owner.
        if is_owned(holder.copy) or relation_of(state, rank) is not Relation.OWNER:
            late += [Request.PUT_OWNED] if holder.copy is not Copy.S else []
        for request in late:
            label = f"rank {rank}: {request.name}"
            yield label, _line_after(label, step, self._protocol, state, request, rank)


def _line_after(label: str, function: Callable[..., Outcome], *arguments: object) -> Line:
    try:
        return function(*arguments).line
    except Broken as broken:
        raise Illegal(label, str(broken)) from None


class _Noting(dict[Key, Row]):
    """Rows that note which of them are looked up."""

    def __init__(self, rows: Mapping[Key, Row]):
        super().__init__(rows)
        self.used: set[Key] = set()

    def get(self, key: Key, default: Row | None = None) -> Row | None:  # type: ignore[override]
        self.used.add(key)
        return super().get(key, default)
