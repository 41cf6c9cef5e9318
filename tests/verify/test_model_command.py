"""`umem verify model`: what it prints, and its exit codes; a researcher's file is checked before it may run."""

from __future__ import annotations

import re

import pytest

from umem.cli import app

HEAD = "from umem.coherence.protocol import *\n"


def with_row(case, row):
    """A file whose protocol is MSI but for one row."""
    return f"{HEAD}protocol = Protocol('mine', {{**MSI.rows, {case}: {row}}})\n"


RIGHT = with_row("(U, GET_SHARED, STRANGER)", "Row(READ_HOME | SET_OWNER, M, Copy.E)")
WRONG = with_row("(S, GET_OWNED, SHARER)", "Row(READ_HOME | SET_OWNER, M, Copy.M)")
SENSELESS = with_row("(U, GET_OWNED, STRANGER)", "Row(READ_HOME | SET_OWNER, S, Copy.S)")
SHORT = (
    HEAD + "rows = dict(MSI.rows)\ndel rows[(M, PUT_OWNED, STRANGER)]\nprotocol = Protocol('mine', rows)\n"
)


@pytest.fixture
def file(tmp_path):
    def write(source):
        path = tmp_path / "mine.py"
        path.write_text(source)
        return str(path)

    return write


def test_a_protocol_by_name_is_exhausted(capsys):
    assert app.main(["verify", "model", "--protocol", "mesi", "--nodes", "8", "--flits", "2"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"mesi atomic, 8 ranks +exhausted +\d+ states", printed)
    assert re.search(r"mesi flits back, 2 ranks +exhausted", printed)
    assert re.search(r"mesi flits through, 2 ranks +exhausted", printed)


def test_without_a_name_all_that_are_shipped_are_checked(capsys):
    assert app.main(["verify", "model", "--nodes", "2", "--flits", "1"]) == 0
    printed = capsys.readouterr().out
    assert [printed.count(f"{name} flits") for name in ("msi", "mesi", "snoop")] == [2, 2, 2]
    assert "rows that nothing asks for: (S, GET_SHARED, SHARER)" in printed


def test_a_variant_from_a_file_is_checked(file, capsys):
    assert app.main(["verify", "model", "--protocol", file(RIGHT), "--nodes", "3", "--flits", "1"]) == 0
    assert "mine atomic, 3 ranks" in capsys.readouterr().out


def test_a_bug_is_told_with_the_way_to_it(file, capsys):
    assert app.main(["verify", "model", "--protocol", file(WRONG), "--flits", "2"]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"mine atomic, 8 ranks +bug", printed) and "SWMR: rank" in printed
    assert re.search(r"  0  rank \d: load", printed)
    assert "flits" not in printed, "what is wrong with the table alone is not searched again"


def test_a_bug_that_only_messages_show_is_told(file, capsys):
    assert app.main(["verify", "model", "--protocol", file(WRONG), "--nodes", "0", "--flits", "2"]) == 1
    assert "receives GRANT_M" in capsys.readouterr().out


def test_a_table_that_means_nothing_is_refused(file, capsys):
    assert app.main(["verify", "model", "--protocol", file(SHORT)]) == 2
    assert "no row for (M, PUT_OWNED, STRANGER)" in capsys.readouterr().err
    assert app.main(["verify", "model", "--protocol", file(SENSELESS)]) == 2
    assert "SET_OWNER leads to M, not to S" in capsys.readouterr().err
    assert app.main(["verify", "model", "--protocol", "moesi"]) == 2
    assert "no such file, nor one of msi, mesi, snoop" in capsys.readouterr().err


def test_a_limit_is_no_pass(capsys):
    assert app.main(["verify", "model", "--protocol", "msi", "--limit-s", "0"]) == 3
    assert "limit" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--nodes", "99"], ["--flits", "9"], ["--nodes", "0", "--flits", "0"]])
def test_what_cannot_be_searched_is_refused(options, capsys):
    assert app.main(["verify", "model", *options]) == 2
    assert options[0] in capsys.readouterr().err
