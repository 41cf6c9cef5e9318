"""THE table: every transition of a line, as in a textbook. No transition stands anywhere else.

A row's key is the state of the line in the directory, the request, and the requester's relation to the line;
its value is the actions, and the states of the line and of the requester's copy after them. Kernels interpret the
rows where memory is mapped, agents where it is not, `umem verify model` searches them, docs print them.

MSI and MESI with a directory that names sharers and owner, as in Sorin, Hill, Wood, "A Primer on Memory
Consistency and Cache Coherence", 2nd edition, chapter 8; SNOOP keeps no names and asks every rank, as a bus
does (chapter 7). Here the transaction is atomic under the line's lock, so the table has stable states only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from ..kernels.coherent import layout as words


class Directory(IntEnum):
    """State of a line at its home."""

    U = words.LINE_UNCACHED  # no rank has a copy
    S = words.LINE_SHARED  # some have copies equal to home
    M = words.LINE_OWNED  # one rank has the only valid copy, which it may have changed


class Copy(IntEnum):
    """State of a line in a rank's cache."""

    I = words.INVALID  # noqa: E741 - the field's own name
    S = words.SHARED_COPY
    E = words.EXCLUSIVE  # the only copy, equal to home: becomes M without a message
    M = words.MODIFIED


class Request(IntEnum):
    """The requests of a rank to the home of a line."""

    GET_SHARED = words.GET_SHARED  # to load
    GET_OWNED = words.GET_OWNED  # to store and update in its cache
    PUT_OWNED = words.PUT_OWNED  # to give an owned copy back
    WRITE_HOME = words.WRITE_HOME  # to store and update at the home


class Relation(IntEnum):
    """The requester's relation to the line in the directory."""

    STRANGER = words.STRANGER
    SHARER = words.SHARER  # it may have dropped its copy silently
    OWNER = words.OWNER
    HOME = words.HOME  # it is the home: its copy is the memory itself


class Action(IntFlag):
    """The actions of a row, done in this order. Meanings: kernels/coherent/layout.py."""

    FORWARD_SHARED = words.FORWARD_SHARED
    FORWARD_INVALID = words.FORWARD_INVALID
    INVALIDATE = words.INVALIDATE
    INVALIDATE_ALL = words.INVALIDATE_ALL
    WRITE_BACK = words.WRITE_BACK
    READ_HOME = words.READ_HOME
    SET_OWNER = words.SET_OWNER
    ADD_SHARER = words.ADD_SHARER
    KEEP_OWNER = words.KEEP_OWNER
    ACCESS_HOME = words.ACCESS_HOME


Key = tuple[Directory, Request, Relation]


@dataclass(frozen=True)
class Row:
    """The effect of a request: actions, the line's state after them, and the state of the requester's copy."""

    actions: Action
    directory: Directory
    copy: Copy


@dataclass(frozen=True)
class Protocol:
    """A complete table, under its name."""

    name: str
    rows: Mapping[Key, Row]

    def row(self, directory: Directory, request: Request, relation: Relation) -> Row | None:
        """The row for this case; None where the protocol has none, because it cannot happen."""
        return self.rows.get((directory, request, relation))

    def words(self) -> list[int]:
        """The table as kernels read it: NUM_ROWS words of kernels/coherent/layout.py, 0 where there is no row."""
        table = [0] * words.NUM_ROWS
        for key, row in self.rows.items():
            table[row_index(*key)] = (
                row.actions
                | row.directory << words.ROW_DIRECTORY_SHIFT
                | row.copy << words.ROW_COPY_SHIFT
                | words.ROW_EXISTS
            )
        return table


def row_index(directory: int, request: int, relation: int) -> int:
    """Index of the row of this case in the words of a table."""
    return (directory * words.NUM_REQUESTS + request) * words.NUM_RELATIONS + relation


def required_keys() -> Iterator[Key]:
    """The cases that every protocol must answer: those that can happen whatever the other rows say."""
    for directory in Directory:
        for relation in relations(directory):
            for request in Request:
                if request is Request.PUT_OWNED and relation is Relation.HOME:
                    continue  # the home has no copy to give back
                if request is Request.GET_OWNED and relation is Relation.HOME:
                    continue  # the home owns nothing: it writes at home
                yield directory, request, relation


def relations(directory: Directory) -> tuple[Relation, ...]:
    """Relations that a requester may have to a line in this state."""
    known = {Directory.U: (), Directory.S: (Relation.SHARER,), Directory.M: (Relation.OWNER,)}
    return (Relation.STRANGER, *known[directory], Relation.HOME)


U, S, M = Directory
GET_SHARED, GET_OWNED, PUT_OWNED, WRITE_HOME = Request
STRANGER, SHARER, OWNER, HOME = Relation
FORWARD_SHARED, FORWARD_INVALID, INVALIDATE, INVALIDATE_ALL = list(Action)[:4]
WRITE_BACK, READ_HOME, SET_OWNER, ADD_SHARER, KEEP_OWNER, ACCESS_HOME = list(Action)[4:]
NOTHING = Action(0)

_MSI: dict[Key, Row] = {
    # line, request, from          what is done, in this order                              line, copy
    (U, GET_SHARED, STRANGER): Row(READ_HOME | ADD_SHARER, S, Copy.S),
    (S, GET_SHARED, STRANGER): Row(READ_HOME | ADD_SHARER, S, Copy.S),
    (S, GET_SHARED, SHARER): Row(READ_HOME | ADD_SHARER, S, Copy.S),
    (M, GET_SHARED, STRANGER): Row(FORWARD_SHARED | READ_HOME | KEEP_OWNER | ADD_SHARER, S, Copy.S),
    (M, GET_SHARED, OWNER): Row(NOTHING, M, Copy.M),  # a sibling was first
    (U, GET_OWNED, STRANGER): Row(READ_HOME | SET_OWNER, M, Copy.M),
    (S, GET_OWNED, STRANGER): Row(INVALIDATE | READ_HOME | SET_OWNER, M, Copy.M),
    (S, GET_OWNED, SHARER): Row(INVALIDATE | READ_HOME | SET_OWNER, M, Copy.M),
    (M, GET_OWNED, STRANGER): Row(FORWARD_INVALID | READ_HOME | SET_OWNER, M, Copy.M),
    (M, GET_OWNED, OWNER): Row(NOTHING, M, Copy.M),  # a sibling was first
    (M, PUT_OWNED, OWNER): Row(WRITE_BACK, U, Copy.I),
    (U, PUT_OWNED, STRANGER): Row(NOTHING, U, Copy.I),  # the line was taken before: nothing is left to give
    (S, PUT_OWNED, STRANGER): Row(NOTHING, S, Copy.I),
    (S, PUT_OWNED, SHARER): Row(NOTHING, S, Copy.I),
    (M, PUT_OWNED, STRANGER): Row(NOTHING, M, Copy.I),
    (U, WRITE_HOME, STRANGER): Row(ACCESS_HOME, U, Copy.I),
    (S, WRITE_HOME, STRANGER): Row(INVALIDATE | ACCESS_HOME, U, Copy.I),
    (S, WRITE_HOME, SHARER): Row(INVALIDATE | ACCESS_HOME, U, Copy.I),  # its own copy too
    (M, WRITE_HOME, STRANGER): Row(FORWARD_INVALID | ACCESS_HOME, U, Copy.I),
    (M, WRITE_HOME, OWNER): Row(FORWARD_INVALID | ACCESS_HOME, U, Copy.I),
    (U, GET_SHARED, HOME): Row(ACCESS_HOME, U, Copy.I),
    (S, GET_SHARED, HOME): Row(ACCESS_HOME, S, Copy.I),
    (M, GET_SHARED, HOME): Row(FORWARD_SHARED | KEEP_OWNER | ACCESS_HOME, S, Copy.I),
    (U, WRITE_HOME, HOME): Row(ACCESS_HOME, U, Copy.I),
    (S, WRITE_HOME, HOME): Row(INVALIDATE | ACCESS_HOME, U, Copy.I),
    (M, WRITE_HOME, HOME): Row(FORWARD_INVALID | ACCESS_HOME, U, Copy.I),
}
MSI = Protocol("msi", _MSI)

# A rank that reads a line of which no rank has a copy gets it alone, and may then store without asking.
MESI = Protocol("mesi", {**_MSI, (U, GET_SHARED, STRANGER): Row(READ_HOME | SET_OWNER, M, Copy.E)})

# The directory knows that a line is shared, but no sharers: every rank is asked to drop its copy.
SNOOP = Protocol(
    "snoop",
    {
        key: Row(
            (row.actions & ~(ADD_SHARER | KEEP_OWNER | INVALIDATE))
            | (INVALIDATE_ALL if row.actions & INVALIDATE else NOTHING),
            row.directory,
            row.copy,
        )
        for key, row in _MSI.items()
    },
)

PROTOCOLS = {protocol.name: protocol for protocol in (MSI, MESI, SNOOP)}
