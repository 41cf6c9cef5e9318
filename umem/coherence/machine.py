"""The effect of a table's rows on one line: pure steps over plain values, one transaction at a time.

Data is an age, not a value: a copy is the newest, or stale. So a check needs no numbers that grow, and
every load can be judged by itself. Searches, simulators and documents step lines here; kernels and agents do the
same to memory.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import NamedTuple

from ..kernels.coherent import layout as words
from .protocol import Action, Copy, Directory, Key, Protocol, Relation, Request, Row

HOME_RANK = -1  # the home of the line, which has no copy beside the memory itself


class Age(IntEnum):
    """Whether a copy or the memory at home is the newest value or a stale one."""

    NEWEST = 0
    STALE = 1  # a store has made a newer one


class Attribute(Enum):
    """The attribute of cached memory, which decides the requests that accesses make."""

    BACK = words.BACK
    THROUGH = words.THROUGH
    PRIVATE = words.PRIVATE


class Access(Enum):
    """The kinds of accesses; an update reads and stores in one."""

    LOAD = "load"
    STORE = "store"
    UPDATE = "update"


class Holder(NamedTuple):
    """A rank's state of one line: its copy, the copy's age, and whether the directory names the rank."""

    copy: Copy = Copy.I
    age: Age = Age.STALE
    is_named: bool = False


class Line(NamedTuple):
    """The whole state of one line: the directory's state, the age of its memory at home, every other rank."""

    directory: Directory
    home: Age
    ranks: tuple[Holder, ...]


class Outcome(NamedTuple):
    """The outcome of a request: the line after it, the age of the data that the requester may read, messages.

    `read` is None where it may read none. `messages` are those of a world without mapped memory: request, reply, and
    a probe and its answer for every rank that is asked; `lines` of them carry the line.
    """

    line: Line
    row: Row
    read: Age | None
    messages: int
    lines: int


class Broken(Exception):
    """A protocol breaks an invariant; the text names it."""


def unused_line(num_ranks: int) -> Line:
    """A line that no rank has touched, with `num_ranks` ranks beside its home."""
    return Line(Directory.U, Age.NEWEST, (Holder(),) * num_ranks)


def relation_of(line: Line, rank: int) -> Relation:
    """The rank's relation to the line in the directory: home, owner, sharer or stranger."""
    if rank == HOME_RANK:
        return Relation.HOME
    if not line.ranks[rank].is_named:
        return Relation.STRANGER
    return Relation.OWNER if line.directory is Directory.M else Relation.SHARER


def request_of(attribute: Attribute, access: Access, rank: int) -> Request:
    """The request of a rank for an access that it cannot do by itself."""
    if attribute is Attribute.PRIVATE and rank != HOME_RANK:
        return Request.GET_OWNED
    if access is Access.LOAD:
        return Request.GET_SHARED
    at_home = rank == HOME_RANK or attribute is Attribute.THROUGH
    return Request.WRITE_HOME if at_home else Request.GET_OWNED


def is_owned(copy: Copy) -> bool:
    """Whether its rank may store into it."""
    return copy in (Copy.E, Copy.M)


def hits(line: Line, rank: int, attribute: Attribute, access: Access) -> bool:
    """Whether the rank may do the access without a message to another."""
    if rank == HOME_RANK:
        return False  # the home has rows of its own, also for accesses without a message
    copy = line.ranks[rank].copy
    if access is Access.LOAD:
        return copy is not Copy.I
    return is_owned(copy) and attribute is not Attribute.THROUGH


def step(protocol: Protocol, line: Line, request: Request, rank: int) -> Outcome:
    """Do the request of a rank in one step, as under the line's lock. Raises Broken."""
    key = (line.directory, request, relation_of(line, rank))
    row = protocol.row(*key)
    if row is None:
        raise Broken(f"no row for {key_text(key)}")
    actions, ranks, home = row.actions, list(line.ranks), line.home
    probes = lines = 0
    if actions & (Action.FORWARD_SHARED | Action.FORWARD_INVALID):
        owner = owner_of(line)
        if owner is None or not is_owned(ranks[owner].copy):
            raise Broken(f"{key_text(key)} takes the line from its owner, and no rank owns it")
        home = ranks[owner].age
        stays = actions & Action.FORWARD_SHARED
        ranks[owner] = Holder(Copy.S, home) if stays else Holder()
        probes, lines = 1, 1
    for other in _invalidated(actions, line, request, rank):
        ranks[other] = Holder()
        probes += 1
    before = {number for number, holder in enumerate(line.ranks) if holder.is_named}
    names = names_after(row, line.directory, before, rank)
    read: Age | None = None
    if rank != HOME_RANK:
        had = ranks[rank]
        if actions & Action.WRITE_BACK:
            home = had.age
            lines += 1
        if had.copy is not Copy.I:
            read = had.age
        elif actions & Action.READ_HOME:
            read = home
            lines += 1
        if row.copy is not Copy.I and read is None:
            raise Broken(f"{key_text(key)} grants a copy without the line")
        ranks[rank] = Holder() if row.copy is Copy.I or read is None else Holder(row.copy, read)
    if actions & Action.ACCESS_HOME:
        read = home
    named = tuple(holder._replace(is_named=number in names) for number, holder in enumerate(ranks))
    own = 0 if rank == HOME_RANK else 2
    return Outcome(Line(row.directory, home, named), row, read, own + 2 * probes, lines)


def store(line: Line, rank: int) -> Line:
    """The line after a store, by a rank into its copy or at the home; all other data of it is stale."""
    ranks = tuple(
        Holder(Copy.M, Age.NEWEST, holder.is_named) if number == rank else holder._replace(age=Age.STALE)
        for number, holder in enumerate(line.ranks)
    )
    return line._replace(home=Age.NEWEST if rank == HOME_RANK else Age.STALE, ranks=ranks)


def access(protocol: Protocol, line: Line, rank: int, attribute: Attribute, kind: Access) -> Outcome:
    """Do an access to its end while no other rank acts; messages are counted over all its requests.

    Raises Broken where a step does, where a stale value is read, or where the requests never end.
    """
    request = request_of(attribute, kind, rank)
    met, messages, lines = {line}, 0, 0
    row = Row(Action(0), line.directory, Copy.I)
    is_done = hits(line, rank, attribute, kind)
    read = line.ranks[rank].age if is_done else None
    at_home = False
    while not is_done:
        line, row, read, more, more_lines = step(protocol, line, request, rank)
        messages, lines = messages + more, lines + more_lines
        at_home = bool(row.actions & Action.ACCESS_HOME)
        is_done = at_home or (read is not None and kind is Access.LOAD)
        is_done = is_done or hits(line, rank, attribute, kind)
        if not is_done and line in met:
            raise Broken(f"stuck: it asks for {request.name} again and again, and may never {kind.value}")
        met.add(line)
    if kind is not Access.STORE and read is not Age.NEWEST:
        raise Broken("data-value: it reads a stale value")
    if kind is not Access.LOAD:
        line = store(line, HOME_RANK if at_home else rank)
    return Outcome(line, row, read, messages, lines)


def owner_of(line: Line) -> int | None:
    """The rank that owns the line, by the directory."""
    if line.directory is not Directory.M:
        return None
    return next((number for number, holder in enumerate(line.ranks) if holder.is_named), None)


def failure(line: Line) -> str | None:
    """The invariant that a line between two transactions violates, in words, or None."""
    holders = list(enumerate(line.ranks))
    owners = [rank for rank, holder in holders if is_owned(holder.copy)]
    readers = [rank for rank, holder in holders if holder.copy is Copy.S]
    stale = [rank for rank in owners + readers if line.ranks[rank].age is not Age.NEWEST]
    home_reads = line.directory is not Directory.M
    return violation(owners, readers, owner_of(line), stale, home_reads, line.home is Age.NEWEST)


def violation(
    owners: list[int],
    readers: list[int],
    owner: int | None,
    stale: list[int],
    home_reads: bool,
    home_is_newest: bool,
) -> str | None:
    """The violated invariant, in words, or None, for the ranks that may store or read, and the directory's owner.

    SWMR: a rank that may store is alone, and the home may read where the directory names no owner. Data-value: all data
    that may be read is the newest. (Sorin, Hill, Wood, "A Primer", 2nd edition, section 2.3.)
    """
    if len(owners) > 1:
        return f"SWMR: ranks {owners[0]} and {owners[1]} may both store"
    if owners and readers:
        return f"SWMR: rank {owners[0]} may store while rank {readers[0]} may read"
    if owners and owners[0] != owner:
        return f"SWMR: rank {owners[0]} may store, and the directory does not say that it owns the line"
    if stale:
        return f"data-value: the copy of rank {stale[0]} is stale"
    if home_reads and not home_is_newest:
        return "data-value: the memory at home is stale, and the directory says that no rank owns the line"
    return None


def names_after(row: Row, directory: Directory, names: set[int], rank: int) -> set[int]:
    """The ranks that the directory names after a row, if it was in `directory` and named `names` before."""
    if row.directory is Directory.M:
        return {rank} if row.actions & Action.SET_OWNER else names
    if row.directory is Directory.U:
        return set()
    if directory is Directory.M:
        stay = names if row.actions & Action.KEEP_OWNER else set()
    else:
        stay = set() if row.actions & (Action.INVALIDATE | Action.INVALIDATE_ALL) else names
    return stay | {rank} if row.actions & Action.ADD_SHARER else stay


def key_text(key: Key) -> str:
    """A case of the table, as its source names it."""
    return f"({', '.join(part.name for part in key)})"


def _invalidated(actions: Action, line: Line, request: Request, rank: int) -> list[int]:
    """The ranks that must drop their copies; also the requester, if it keeps none because it stores at the home."""
    asked = [other for other in range(len(line.ranks)) if other != rank or request is Request.WRITE_HOME]
    if actions & Action.INVALIDATE_ALL:
        return asked
    if actions & Action.INVALIDATE and line.directory is Directory.S:
        return [other for other in asked if line.ranks[other].is_named]
    return []
