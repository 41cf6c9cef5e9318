"""Loads protocols by name or from a file, and checks a table before it may run.

A variant is a Python file that assigns `protocol = Protocol(name, rows)`; it may start from MSI.rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import ProtocolError
from ..files.users import run_file
from .atomic import Atomic
from .machine import is_owned, key_text
from .protocol import PROTOCOLS, Action, Copy, Directory, Key, Protocol, Relation, Request, Row, required_keys
from .search import Result, search

CHECKED_RANKS = 4  # beside the home: an owner, a sharer, a requester, and a bystander
_FORWARDS = Action.FORWARD_SHARED | Action.FORWARD_INVALID
_GIVES_COPY = Action.READ_HOME | Action.SET_OWNER | Action.ADD_SHARER
_GIVES_NO_COPY = (Request.PUT_OWNED, Request.WRITE_HOME)


def load_protocol(name_or_file: str | Path) -> Protocol:
    """The protocol of this name, or that of this Python file, with rows that `check_rows` accepts.

    Raises ProtocolError, and ConfigError where the file cannot be run. `check_protocol` searches the table for bugs.
    """
    if str(name_or_file) in PROTOCOLS:
        return PROTOCOLS[str(name_or_file)]
    file = Path(name_or_file)
    known = ", ".join(PROTOCOLS)
    if not file.is_file():
        raise ProtocolError(str(file), f"no such file, nor one of {known}")
    found = run_file(file).get("protocol")
    if not isinstance(found, Protocol):
        raise ProtocolError(
            str(file),
            "it assigns no protocol: write `from umem.coherence.protocol import *` and"
            " `protocol = Protocol('mine', {**MSI.rows, (U, GET_SHARED, STRANGER): Row(...)})`",
        )
    check_rows(found)
    return found


def check_protocol(protocol: Protocol, num_ranks: int = CHECKED_RANKS) -> None:
    """Search every state that `num_ranks` ranks and a home reach by the table, in a fraction of a second.

    Raises ProtocolError with a bug and the shortest trace to it.
    """
    check_rows(protocol)
    verdict = search(Atomic(protocol, num_ranks))
    if verdict.result is not Result.EXHAUSTED:
        raise ProtocolError(protocol.name, "\n".join((verdict.bug or "not exhausted", *verdict.trace)))


def check_rows(protocol: Protocol) -> None:
    """Raise ProtocolError for the first case without a row, or row that is no Row or contradicts itself."""
    if not isinstance(protocol.rows, Mapping):
        raise ProtocolError(protocol.name, "its rows are no mapping of (line, request, relation) to Row")
    required = list(required_keys())
    for key in required:
        if key not in protocol.rows:
            raise ProtocolError(protocol.name, f"no row for {key_text(key)}; MSI.rows has one", key)
    for key in protocol.rows:
        if key not in required:
            raise ProtocolError(protocol.name, f"a row for {key!r}, which cannot happen: leave it out", key)
    for key in required:
        row = protocol.rows[key]
        if not _is_row(row):
            fault = f"{key_text(key)} has {row!r}; give it a Row(Action, Directory, Copy)"
            raise ProtocolError(protocol.name, fault, key)
        for contradiction in contradictions(key, row):
            raise ProtocolError(protocol.name, f"{key_text(key)}: {contradiction}", key)


def _is_row(row: object) -> bool:
    return (
        isinstance(row, Row)
        and isinstance(row.actions, Action)
        and isinstance(row.directory, Directory)
        and isinstance(row.copy, Copy)
    )


def contradictions(key: Key, row: Row) -> Iterator[str]:
    """The contradictions of a row, in itself or with its case, in words; a search finds all other bugs."""
    directory, request, relation = key
    actions, after, copy = row.actions, row.directory, row.copy
    has_owner, names_owner = directory is Directory.M, after is Directory.M
    at_home = relation is Relation.HOME
    if actions & _FORWARDS and not has_owner:
        yield "it takes the line from its owner, and the line has none; FORWARD_* belongs to a line in M"
    if _FORWARDS in actions:
        yield "the owner cannot both keep a copy and lose it; take one of FORWARD_SHARED, FORWARD_INVALID"
    if actions & (Action.INVALIDATE | Action.INVALIDATE_ALL) and directory is not Directory.S:
        yield "it invalidates sharers, and the line has none; INVALIDATE belongs to a line in S"
    if Action.INVALIDATE | Action.INVALIDATE_ALL in actions:
        yield "INVALIDATE_ALL asks every rank, INVALIDATE those that have names; take one"
    if actions & Action.KEEP_OWNER and not (actions & Action.FORWARD_SHARED and after is Directory.S):
        yield "KEEP_OWNER makes a sharer of the owner: it needs FORWARD_SHARED and leads to S"
    if actions & Action.SET_OWNER and not names_owner:
        yield f"SET_OWNER leads to M, not to {after.name}"
    if names_owner and not (actions & Action.SET_OWNER or has_owner):
        yield "it leads to M and names no owner; add SET_OWNER"
    if actions & Action.ADD_SHARER and after is not Directory.S:
        yield f"ADD_SHARER leads to S, not to {after.name}"
    if actions & Action.WRITE_BACK and request is not Request.PUT_OWNED:
        yield "WRITE_BACK needs the line, which comes with PUT_OWNED only"
    if at_home and (actions & (_GIVES_COPY | Action.WRITE_BACK) or copy is not Copy.I):
        yield "the home has no copy beside its memory: no READ_HOME, SET_OWNER, ADD_SHARER, WRITE_BACK, copy I"
    if request in _GIVES_NO_COPY and (actions & _GIVES_COPY or copy is not Copy.I):
        yield f"{request.name} is answered without the line: no READ_HOME, SET_OWNER, ADD_SHARER; copy I"
    if request not in _GIVES_NO_COPY and not at_home and copy is Copy.I:
        yield "the requester waits for a copy and is granted none; give it copy S, E or M"
    is_owner_then = actions & Action.SET_OWNER or (relation is Relation.OWNER and names_owner)
    if is_owned(copy) and not is_owner_then:
        yield f"copy {copy.name} is the owner's, and the directory does not name the requester; add SET_OWNER"
    if copy is not Copy.I and relation is not Relation.OWNER and not actions & Action.READ_HOME:
        yield "it grants a copy without the line; add READ_HOME (a sharer may have dropped its copy)"
    if actions & Action.ACCESS_HOME and not (at_home or request is Request.WRITE_HOME):
        yield "ACCESS_HOME belongs to WRITE_HOME, and to the home itself; a rank that gets a copy accesses the copy"
    if actions & Action.ACCESS_HOME and names_owner:
        yield "the access cannot be done at the home while a rank owns the line"
    if (at_home or request is Request.WRITE_HOME) and not actions & Action.ACCESS_HOME:
        yield "the requester waits for an access at the home, which is not done; add ACCESS_HOME"
