"""`umem verify faults`: what it prints, its exit codes, and that it can fail."""

from __future__ import annotations

import re

import pytest

from umem.cli import app
from umem.verify.faults import command
from umem.verify.faults.agent import AgentWork
from umem.verify.faults.directory import DirectoryWork
from umem.verify.faults.heap import HeapWork

ROW = r"{} +{} +(\d+) kills +\d+ steps of survivors +recovery +[\d.]+ ms, worst +[\d.]+ ms +\d+ lines poisoned +{}"


class Careless(DirectoryWork):
    """Raises counters that it does not report."""

    def step(self):
        super().step()
        self.space.fetch_add(self.counters[0], 1)


class Hoarder(HeapWork):
    """Forgets what it holds at the end."""

    def check(self, dead):
        self.held.clear()
        super().check(dead)


class Deaf(AgentWork):
    """Asks somebody else than it thinks."""

    def ask(self, home):
        super().ask(0)


def test_survivors_go_on_and_a_line_says_how_soon(capsys):
    assert app.main(["verify", "faults", "--what", "directory", "--kills", "2", "--seed", "3"]) == 0
    assert re.search(ROW.format("directory", "mapped", "ok"), capsys.readouterr().out).group(1) == "2"


@pytest.mark.parametrize(
    "arguments", [["--what", "fire"], ["--what", ""], ["--kills", "0"], ["--world", "moon"]]
)
def test_what_cannot_be_done_is_named(arguments, capsys):
    assert app.main(["verify", "faults", *arguments]) == 2
    assert arguments[1] in capsys.readouterr().err


KILLS = {"mapped": 20, "no-peer-access": 12, "hosts": 8}


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "world", "work", "symptom"),
    [
        ("directory", "mapped", Careless, "and was raised"),
        ("heap", "mapped", Hoarder, "allocations that nobody frees"),
        ("agent", "hosts", Deaf, "is dead and not said to be lost"),
    ],
)
def test_a_survivor_that_finds_something_wrong_fails(
    kind, world, work, symptom, monkeypatch, why_no_hosts, capsys
):
    if world == "hosts" and why_no_hosts is not None:
        pytest.skip(why_no_hosts)
    monkeypatch.setattr(command, "TIMEOUT_S", 8.0)  # who waits in vain, and others for it
    monkeypatch.setitem(command.FAULT_KINDS, kind, work)
    assert app.main(["verify", "faults", "--what", kind, "--kills", "1", "--world", world]) == 1
    printed = capsys.readouterr().out
    assert re.search(ROW.format(kind, world, "FAILED").replace(r"[\d.]+", r"[\d.na]+"), printed)
    assert symptom in printed


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", command.FAULT_KINDS)
@pytest.mark.parametrize("world", KILLS)
def test_random_kills_in_every_world(world, kind, soak_factor, why_no_hosts, capsys):
    """With a crowd of processes on one memory (tests/kernels) more than 200 by `make verify`."""
    if world == "hosts" and why_no_hosts is not None:
        pytest.skip(why_no_hosts)
    kills = str(KILLS[world] * soak_factor)
    code = app.main(["verify", "faults", "--what", kind, "--kills", kills, "--world", world])
    printed = capsys.readouterr().out
    print(printed)
    assert code == 0, printed
