"""Tables are loaded by name or file, and refused with the row and the way out where they cannot mean anything."""

from __future__ import annotations

import pickle

import pytest

from umem.coherence.load import check_protocol, check_rows, load_protocol
from umem.coherence.protocol import (
    ACCESS_HOME,
    ADD_SHARER,
    FORWARD_INVALID,
    FORWARD_SHARED,
    GET_OWNED,
    GET_SHARED,
    HOME,
    INVALIDATE,
    INVALIDATE_ALL,
    KEEP_OWNER,
    MSI,
    NOTHING,
    OWNER,
    PROTOCOLS,
    PUT_OWNED,
    READ_HOME,
    SET_OWNER,
    SHARER,
    STRANGER,
    WRITE_BACK,
    WRITE_HOME,
    Copy,
    M,
    Protocol,
    Row,
    S,
    U,
    required_keys,
)
from umem.errors import ConfigError, ProtocolError

CONTRADICTIONS = {
    "takes from an owner where none is": ((U, GET_SHARED, STRANGER), FORWARD_SHARED | READ_HOME, S, Copy.S),
    "owner both keeps and loses": (
        (M, GET_SHARED, STRANGER),
        FORWARD_SHARED | FORWARD_INVALID | READ_HOME | ADD_SHARER,
        S,
        Copy.S,
    ),
    "invalidates where nobody shares": (
        (U, GET_OWNED, STRANGER),
        INVALIDATE | READ_HOME | SET_OWNER,
        M,
        Copy.M,
    ),
    "invalidates some and all": (
        (S, GET_OWNED, STRANGER),
        INVALIDATE | INVALIDATE_ALL | READ_HOME | SET_OWNER,
        M,
        Copy.M,
    ),
    "keeps an owner that loses its copy": (
        (M, GET_SHARED, STRANGER),
        FORWARD_INVALID | READ_HOME | KEEP_OWNER | ADD_SHARER,
        S,
        Copy.S,
    ),
    "names an owner and is shared": ((U, GET_SHARED, STRANGER), READ_HOME | SET_OWNER, S, Copy.S),
    "owned by nobody": ((U, GET_OWNED, STRANGER), READ_HOME, M, Copy.M),
    "adds a sharer to what is owned": (
        (U, GET_OWNED, STRANGER),
        READ_HOME | SET_OWNER | ADD_SHARER,
        M,
        Copy.M,
    ),
    "writes back what did not come": (
        (U, GET_SHARED, STRANGER),
        WRITE_BACK | READ_HOME | ADD_SHARER,
        S,
        Copy.S,
    ),
    "gives the home a copy": ((U, GET_SHARED, HOME), READ_HOME | ACCESS_HOME, U, Copy.S),
    "gives back and keeps": ((M, PUT_OWNED, OWNER), WRITE_BACK, U, Copy.S),
    "owned copy of a sharer": ((U, GET_SHARED, STRANGER), READ_HOME | ADD_SHARER, S, Copy.E),
    "copy without the line": ((S, GET_SHARED, SHARER), ADD_SHARER, S, Copy.S),
    "access at home of what is owned": ((M, WRITE_HOME, OWNER), ACCESS_HOME, M, Copy.I),
    "copy for a store at home": ((U, WRITE_HOME, STRANGER), READ_HOME | ACCESS_HOME, U, Copy.S),
    "copy that is waited for": ((U, GET_SHARED, STRANGER), READ_HOME, U, Copy.I),
    "access at home of a rank": (
        (U, GET_SHARED, STRANGER),
        READ_HOME | ADD_SHARER | ACCESS_HOME,
        S,
        Copy.S,
    ),
    "access that is not done": ((U, WRITE_HOME, STRANGER), NOTHING, U, Copy.I),
}


def variant(key, row):
    return Protocol("variant", {**MSI.rows, key: row})


@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_is_shipped_is_right(name):
    assert load_protocol(name) is PROTOCOLS[name]
    check_protocol(PROTOCOLS[name])


@pytest.mark.parametrize("key", list(required_keys()), ids=lambda key: " ".join(part.name for part in key))
def test_a_missing_row_is_named(key):
    rows = dict(MSI.rows)
    del rows[key]
    with pytest.raises(ProtocolError, match=f"no row for \\({key[0].name}, {key[1].name}") as caught:
        check_rows(Protocol("short", rows))
    assert caught.value.key == key and caught.value.protocol == "short"


def test_a_row_for_what_cannot_happen_is_refused():
    key = (U, GET_OWNED, OWNER)
    with pytest.raises(ProtocolError, match="cannot happen") as caught:
        check_rows(variant(key, MSI.rows[(M, GET_OWNED, OWNER)]))
    assert caught.value.key == key


@pytest.mark.parametrize("row", [None, (0, 1, 2), Row(READ_HOME | SET_OWNER, 2, 3)])
def test_what_is_no_row_is_refused(row):
    with pytest.raises(ProtocolError, match=r"\(U, GET_OWNED, STRANGER\) has .* give it a Row"):
        check_rows(variant((U, GET_OWNED, STRANGER), row))


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_row_that_contradicts_itself_is_refused(name):
    key, actions, directory, copy = CONTRADICTIONS[name]
    with pytest.raises(ProtocolError, match=key[1].name) as caught:
        check_rows(variant(key, Row(actions, directory, copy)))
    assert caught.value.key == key


def test_a_wrong_table_is_refused_with_the_way_to_its_bug():
    wrong = variant((S, GET_OWNED, STRANGER), Row(READ_HOME | SET_OWNER, M, Copy.M))
    check_rows(wrong)  # every row means something
    with pytest.raises(ProtocolError, match="SWMR") as caught:
        check_protocol(wrong)
    assert "store (back)" in str(caught.value)


def test_a_variant_is_loaded_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from umem.coherence.protocol import *\n"
        "alone = Row(READ_HOME | SET_OWNER, M, Copy.E)\n"
        "protocol = Protocol('mine', {**MSI.rows, (U, GET_SHARED, STRANGER): alone})\n"
    )
    assert load_protocol(file).rows == PROTOCOLS["mesi"].rows
    file.write_text("rows = {}\n")
    with pytest.raises(ProtocolError, match="assigns no protocol"):
        load_protocol(file)
    with pytest.raises(ProtocolError, match="no such file, nor one of msi, mesi, snoop"):
        load_protocol(tmp_path / "nothing.py")


def test_the_error_travels_between_processes_and_is_one_of_settings():
    error = pickle.loads(pickle.dumps(ProtocolError("mine", "no row", (U, GET_OWNED, OWNER))))
    assert isinstance(error, ConfigError)
    assert (error.protocol, error.key, str(error)) == ("mine", (U, GET_OWNED, OWNER), "protocol mine: no row")
