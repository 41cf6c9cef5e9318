"""Writes docs/protocol.md from the tables of umem/coherence and searches of them: `make docs`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from write_reference import table

from umem.coherence.atomic import Atomic
from umem.coherence.machine import HOME_RANK, Access, Attribute, request_of
from umem.coherence.patterns import PATTERNS, RANKS, cost
from umem.coherence.protocol import (
    GET_OWNED,
    INVALIDATE,
    MSI,
    PROTOCOLS,
    SHARER,
    Action,
    Copy,
    Directory,
    Protocol,
    Request,
    Row,
    S,
    relations,
)
from umem.coherence.search import search
from umem.kernels.coherent import layout

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "protocol.md"
SHOWN_RANKS = 3

INTRODUCTION = """\
Memory of attribute `back`, `through` or `private` may be cached by every rank, and is coherent all the same. One
table says every transition of a line: umem/coherence/protocol.py. Kernels interpret it where memory is mapped, by
atomic operations on the words of the home; agents interpret the same rows where it is not, by messages. A variant
is another table, and no other line of code.

A transaction is atomic under the line's lock, so the table needs stable states only. A row's key is the state of the
line in the directory, the request, and the requester's relation to the line; its value is the actions, and the states
of the line and of the requester's copy after them."""

STATES = """\
States of a line: U no rank has a copy, S some have copies equal to home, M one rank owns it: its copy is E, equal to
home, or M, stored into. E becomes M without a message. A cell is the actions / the line's next state, if it changes,
and the requester's copy, if it has one then; `-` is no action. An empty cell cannot happen. Cells that differ from
MSI's are bold."""

SAID = {
    "msi": "The directory names the sharers and the owner (Sorin, Hill, Wood, chapter 8).",
    "mesi": "A rank that reads a line without copies gets it alone (E), and may store without asking.",
    "snoop": "The directory names no sharers: every rank is asked, as on a bus (chapter 7).",
}

COSTS = f"""\
Messages a round, and how many of them carry the line, among {RANKS} ranks and a home that is none of them; counted
by stepping the tables:"""

LESSON = """\
MESI gains where one rank reads and then stores to lines that no other rank uses. SNOOP saves the names of sharers, and
asks every rank instead. `through` never moves a line to its writer, and pays with every store."""

MESSAGES = """\
Where no memory is mapped, the requester claims its slot (FILLING, or TAKEN for a copy that it gives back), asks the
home's agent, and installs the reply. The home's agent locks the line, sends probes to the holders (INVALIDATE,
TAKE_SHARED, TAKE_INVALID), waits for all answers, does the rest of the row, replies, and unlocks at once. What a
holder does depends on its slot:

| slot | INVALIDATE | TAKE_SHARED, TAKE_INVALID |
| --- | --- | --- |
| S | becomes I | - |
| E, M | - | the line goes home; S or I; first it waits for a range that its rank writes beside it |
| PINNED | - | waits until the store ends |
| FILLING | becomes DROPPED: a shared grant is then not kept | waits for the grant that is under way |
| DROPPED | stays | waits for the grant that is under way |
| TAKEN | stays | the line goes home; stays, and its PUT_OWNED comes from a stranger |
| I | stays | - |

A `-` cannot happen; the search says "unexpected" if it does. A rank that stores at the home is told to drop its own
copy like every other one. Requests and replies travel apart from probes and answers (virtual networks), so that a
probe never waits behind a request; one may overtake the other. No network ever holds two flits of one line between
a rank and its home, so their order does not matter."""

CHECKED = """\
```
umem verify model                                  # all shipped protocols: 8 ranks, 3 by messages
umem verify model --protocol mesi --flits 4        # 4 ranks by messages, half a minute each
```

`atomic` is the table alone: every access of every attribute, by each rank and by the home, copies dropped and given
back, and requests that come late. `flits` are the messages above, in every order in which they may arrive. Data is
an age, not a value: a copy is the newest, or stale.

| property | meaning |
| --- | --- |
| SWMR | a rank that may store is alone; the home may read where the directory does not say M |
| data-value | all data that may be read is the newest; a load that is not kept was the newest after it began |
| rows | every case that happens has a row; rows that no case uses are listed |
| unexpected | no flit meets a slot that is in no state for it |
| unbounded | at most one flit of a network is under way between a rank and the home |
| stuck | from every state all requests can come to an end; an access ends while no other rank acts |

Ranks are alike, so states that differ only by a renaming of ranks are one (as in Murphi). A bug is shown with the
shortest trace to it. Not modelled: two lines in one slot, memory that is mapped (that is checked as it runs,
in tests/verify/test_directory.py), ranks that die."""

VARIANT = """\
A file that assigns `protocol`; here a load of a line without copies gets it alone, which makes MESI of MSI:

```python
from umem.coherence.protocol import *

protocol = Protocol("mine", {
    **MSI.rows,
    (U, GET_SHARED, STRANGER): Row(READ_HOME | SET_OWNER, M, Copy.E),
})
```

`umem verify model --protocol mine.py` checks it. Before it searches, it refuses a table that lacks a row, has one
for a case that cannot happen, or contradicts itself (SET_OWNER and a line that is not M then): `ProtocolError`, with
the row and the way out, exit code 2. From Python, `umem.coherence.load` has `load_protocol(name_or_file)` and
`check_protocol(protocol)`, which takes a fraction of a second and raises the same error with the trace to the bug. A
world that starts with `--protocol mine.py` does that first; only `umem verify model` also searches the table by
messages.

A bug is exit code 1, a search that reached its limit 3, which is no pass. This is what is found if an upgrade
forgets INVALIDATE:"""


def accesses() -> str:
    """The table of the requests that accesses make."""
    rows = [
        (
            f"`{attribute.name.lower()}`",
            *(f"`{request_of(attribute, access, 0).name}`" for access in Access),
        )
        for attribute in Attribute
    ]
    at_home = (f"`{request_of(Attribute.BACK, access, HOME_RANK).name}`" for access in Access)
    return table(("memory", *(access.value for access in Access)), [*rows, ("any, by its home", *at_home)])


def actions() -> str:
    """The table of actions, with their meanings from the comments of the layout."""
    source = inspect.getsource(layout)
    meanings = dict(re.findall(r"^([A-Z_]+) = 1 << \d+(?:  # (.+))?$", source, re.MULTILINE))
    meanings["SET_OWNER"] = "the directory names the requester as the owner"
    meanings["ADD_SHARER"] = "the directory names the requester as a sharer"
    rows = [(f"`{action.name}`", meanings[str(action.name)]) for action in Action]
    return "Done in this order:\n\n" + table(("action", "meaning"), rows)


def protocol_table(protocol: Protocol) -> str:
    """A protocol as a table: states and relations down, requests across; cells that differ from MSI's in bold."""
    rows = []
    for directory in Directory:
        for relation in relations(directory):
            cells = [
                cell(
                    protocol.row(directory, request, relation),
                    MSI.row(directory, request, relation),
                    directory,
                )
                for request in Request
            ]
            rows.append((f"**{directory.name}**", relation.name.lower(), *cells))
    return table(("line", "requester", *(request.name for request in Request)), rows)


def cell(row: Row | None, of_msi: Row | None, directory: Directory) -> str:
    """A row as a cell: actions / the line's next state, the requester's copy."""
    if row is None:
        return ""
    done = " ".join(str(action.name) for action in Action if action & row.actions) or "-"
    line = "" if row.directory is directory else f" / {row.directory.name}"
    copy = "" if row.copy is Copy.I else f", copy {row.copy.name}"
    text = f"{done}{line}{copy}"
    return text if row == of_msi else f"**{text}**"


def tables() -> Iterator[str]:
    """Every protocol that is shipped."""
    yield STATES
    for name, protocol in PROTOCOLS.items():
        yield f"### {name.upper()}\n\n{SAID[name]}\n\n{protocol_table(protocol)}"


def comparison() -> str:
    """Messages of the usual patterns."""
    attributes = (Attribute.BACK, Attribute.THROUGH)
    kinds = [(*named, attribute) for attribute in attributes for named in PROTOCOLS.items()]
    rows = []
    for pattern in PATTERNS:
        costs = [cost(protocol, pattern, attribute) for _, protocol, attribute in kinds]
        rows.append(
            (pattern.name, pattern.description, *(f"{each.messages:g} ({each.lines:g})" for each in costs))
        )
    heads = [f"{name} `{attribute.name.lower()}`" for name, _, attribute in kinds]
    return "\n\n".join((COSTS, table(("pattern", "a round", *heads), rows), LESSON))


def bug() -> str:
    """The trace of a planted bug, as the command prints it."""
    right = MSI.rows[S, GET_OWNED, SHARER]
    wrong = Row(right.actions & ~INVALIDATE, right.directory, right.copy)
    verdict = search(Atomic(Protocol("mine", {**MSI.rows, (S, GET_OWNED, SHARER): wrong}), SHOWN_RANKS))
    return "\n".join(["```", *list(verdict.lines())[1:], "```"])


def page() -> str:
    """The whole page."""
    parts = [
        "# The protocol",
        "Written by `make docs` from umem/coherence; do not edit.",
        INTRODUCTION,
        "## Requests of accesses",
        accesses(),
        "## Actions",
        actions(),
        "## Tables",
        *tables(),
        "## The cost of sharing",
        comparison(),
        "## By messages",
        MESSAGES,
        "## What is checked",
        CHECKED,
        "## A variant",
        VARIANT,
        bug(),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(ROOT)}")
