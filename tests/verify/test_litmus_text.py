"""The text form of litmus tests: what it means, and what is said to those who write it wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from umem.errors import ConfigError, LitmusSyntax
from umem.verify.litmus import Condition, Place, Step, Term, parse, read
from umem.verify.litmus.litmus import FORMS
from umem.verify.litmus.shipped import shipped

PAGE = Path(__file__).parents[2] / "docs" / "litmus.md"

MP = """
test MP: message passing   # a comment
start x = 0, y = -1, z = 0x10 beside x

rank 0: store x 1 ; store_release y 1
rank 1: a = load_acquire y ; fence ; fetch_add z 2; b = compare_swap x 0 7
forbidden a = 1 and b != 1
allowed a = -1
"""


def test_a_test_is_what_its_lines_say():
    litmus = parse(MP)
    assert (litmus.name, litmus.title) == ("MP", "message passing")
    assert litmus.places == (Place("x", 0, 0), Place("y", -1, 1), Place("z", 16, 0, 1))
    assert litmus.lanes == (
        (Step("store", "x", (1,)), Step("store_release", "y", (1,))),
        (
            Step("load_acquire", "y", (), "a"),
            Step("fence"),
            Step("fetch_add", "z", (2,)),
            Step("compare_swap", "x", (0, 7), "b"),
        ),
    )
    assert litmus.forbidden == (Condition((Term("a", "=", 1), Term("b", "!=", 1))),)
    assert [str(condition) for condition in litmus.allowed] == ["a = -1"]
    assert litmus.num_lines == 2


def test_an_end_is_the_registers_and_the_places_that_are_asked_for():
    litmus = parse(MP.replace("b != 1", "y = 1"))
    assert litmus.observed == ("a", "b", "y")
    assert str(litmus.violated({"a": 1, "b": 5, "y": 1})) == "a = 1 and y = 1"
    assert litmus.violated({"a": 0, "b": 5, "y": 1}) is None
    assert litmus.violated({"a": 1, "b": 5, "y": 0}) is None


RANK0, RANK1 = "rank 0: store x 1 ; store_release y 1", "fetch_add z 2"
# what is written in place of what, the line of the error, what was expected and found there
WRONG = [
    ("test MP: message passing", "tset MP", 2, "`test NAME`", "tset MP"),
    ("start x = 0", "start x 0", 3, "'='", "0"),
    ("y = -1", "y = many", 3, "a whole number, the value that a place starts with", "many"),
    ("y = -1", "x = -1", 3, "a new name for a place", "x"),
    ("y = -1", "store = -1", 3, "the name of a place", "store"),
    ("y = -1", f"y = {1 << 63}", 3, "of 64 bits", str(1 << 63)),
    ("beside x", "beside w", 3, "a place that has been started: x, y", "w"),
    ("beside x", "next to x", 3, "the end of the line", "next"),
    ("rank 0", "rank 1", 5, "rank 0: they are numbered from 0", "1"),
    (RANK0, f"{RANK0} ; start", 5, "an operation: load, load_acquire, store", "start"),
    (RANK0, RANK0.replace(";", ","), 5, "the end of the line", ","),
    ("store x 1", "store w 1", 5, "a place that has been started: x, y, z", "w"),
    ("store x 1", "store x", 5, "a whole number, the value", ";"),
    ("store x 1", "put x 1", 5, "an operation (load, load_acquire, store", "put"),
    ("store x 1", "a = store x 1", 5, "an operation that gives a value, for 'a'", "store"),
    ("a = load_acquire", "load_acquire", 6, "a register for what is loaded", "load_acquire"),
    ("b = compare_swap", "a = compare_swap", 6, "a new name for a register", "a"),
    ("b = compare_swap", "x = compare_swap", 6, "a new name for a register", "x"),
    ("x 0 7", "x 0", 6, "a whole number, the desired", ""),
    ("a = 1 and", "c = 1 and", 7, "a register or a place: a, b, x, y, z", "c"),
    ("a = 1 and", "a < 1 and", 7, "a comparison: =, !=", "<"),
    ("a = 1 and", "a = 1 or", 7, "the end of the line", "or"),
    ("a = 1 and", "a = b and", 7, "the number to compare with", "b"),
    ("allowed a = -1", "test two", 8, "a file holds one test", "test"),
    ("allowed a = -1", "start w = 0", 8, "all places before the first rank", "w"),
]


@pytest.mark.parametrize(("old", "new", "line", "expected", "found"), WRONG)
def test_what_is_wrong_is_said_with_its_line(old, new, line, expected, found):
    assert old in MP
    with pytest.raises(LitmusSyntax) as error:
        parse(MP.replace(old, new, 1), "mp.litmus")
    assert (error.value.file, error.value.line, error.value.found) == ("mp.litmus", line, found)
    assert expected in error.value.expected
    assert str(error.value).startswith(f"mp.litmus:{line}: expected ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "test NAME"),
        ("# nothing", "test NAME"),
        ("test MP\nstart x = 0", "rank 0"),
        ("test MP\nstart x = 0\nrank 0: store x 1", "forbidden"),
        ("test MP\nstart x = 0\n" + "".join(f"rank {n}: store x 1\n" for n in range(9)), "at most 8 ranks"),
        ("test MP\nstart x = 0" + "".join(f", x{n} = 0 beside x" for n in range(8)), "at most 8 places"),
    ],
)
def test_what_is_missing_or_too_much_is_said(text, expected):
    with pytest.raises(LitmusSyntax, match=expected):
        parse(text)


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.litmus"):
        read(tmp_path / "nowhere.litmus")
    (tmp_path / "binary.litmus").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.litmus"):
        read(tmp_path / "binary.litmus")


def test_the_page_shows_a_test_every_operation_and_every_shipped_name():
    page = PAGE.read_text()
    examples = [block for block in re.findall(r"```\n(.*?)```", page, re.DOTALL) if block.startswith("test ")]
    assert [parse(example) for example in examples] == [one for one in shipped() if one.name == "MP"]
    words = set(re.findall(r"[\w+-]+", page))
    assert not FORMS.keys() - words
    assert not {one.name for one in shipped()} - words


def test_a_shipped_file_is_named_for_its_test():
    folder = PAGE.parents[1] / "umem" / "verify" / "litmus" / "shipped"
    assert {path.stem for path in folder.glob("*.litmus")} == {one.name for one in shipped()}
    assert all(one.title for one in shipped())
