"""The protocol by messages is exhausted; each planted bug is found, beside its control in the same configuration."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product

import pytest

from umem.coherence.machine import Attribute
from umem.coherence.protocol import (
    ADD_SHARER,
    FORWARD_SHARED,
    GET_OWNED,
    GET_SHARED,
    MESI,
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
    Copy,
    M,
    Protocol,
    Row,
    S,
    U,
)
from umem.verify.model import Flits, Result, Rules, search
from umem.verify.model.flit_state import Data, Flit, Kind, Network, Tag, with_node

BACK, THROUGH = Attribute.BACK, Attribute.THROUGH


WRONG_ROWS = {
    "a store leaves the sharers": (
        MSI,
        (S, GET_OWNED, STRANGER),
        Row(READ_HOME | SET_OWNER, M, Copy.M),
        2,
        "SWMR",
    ),
    "an upgrade leaves the sharers": (
        MSI,
        (S, GET_OWNED, SHARER),
        Row(READ_HOME | SET_OWNER, M, Copy.M),
        2,
        "SWMR",
    ),
    "the owner that was asked is forgotten": (
        MSI,
        (M, GET_SHARED, STRANGER),
        Row(FORWARD_SHARED | READ_HOME | ADD_SHARER, S, Copy.S),
        2,
        "data-value",
    ),
    "a late stranger frees the line of another": (
        MSI,
        (M, PUT_OWNED, STRANGER),
        Row(WRITE_BACK, U, Copy.I),
        2,
        "SWMR",
    ),
    "a stranger gives back what was taken": (
        MSI,
        (U, PUT_OWNED, STRANGER),
        Row(WRITE_BACK, U, Copy.I),
        1,
        "data-value",
    ),
    "what is given back is lost": (MSI, (M, PUT_OWNED, OWNER), Row(NOTHING, U, Copy.I), 1, "data-value"),
}


class OneNetwork(Rules):
    separates_networks = False


class GrantBeforeAnswers(Rules):
    waits_for_answers = False


class DroppedIsIgnoredOnInstall(Rules):
    def tag_after_grant(self, tag, granted):
        return Tag(granted)


class InvalidateLeavesFilling(Rules):
    def tag_after_invalidate(self, tag):
        return Tag.I if tag is Tag.S else tag


class OwnedGrantIsDropped(Rules):
    """Over-careful: also an owned grant is thrown away where the slot was dropped."""

    def tag_after_grant(self, tag, granted):
        return Tag.I if tag is Tag.DROPPED else Tag(granted)


class TakeOnFillingIsAnswered(Rules):
    def waits_with_take(self, tag):
        return tag is Tag.PINNED

    def can_be_taken(self, tag):
        return True


class TakeOnPinnedIsAnswered(Rules):
    def waits_with_take(self, tag):
        return tag in (Tag.FILLING, Tag.DROPPED)

    def tag_after_take(self, tag, probe):
        return tag if tag is Tag.PINNED else super().tag_after_take(tag, probe)


class TakenIsAnsweredWithoutTheLine(Rules):
    def line_taken(self, tag, data):
        return Data.STALE if tag is Tag.TAKEN else data


class UpgradeNeverGetsTheLine(Rules):
    def sends_line(self, relation, request):
        return request.data is Data.NONE


class ExclusiveIsCleanAfterAStore(Rules):
    def tag_after_store(self, tag):
        return Tag.E

    def line_given_back(self, tag, data):
        return Data.NONE if tag is Tag.E else data


class RequesterKeepsItsCopy(Rules):
    """A rank that stores at the home is not told to drop its own copy."""

    def invalidates_requester(self, request):
        return False


class OwnerStaysBesideReaders(Rules):
    def tag_after_take(self, tag, probe):
        return tag


# rules, protocol, attribute, ranks, what is found
PLANTED = {
    "one network": (OneNetwork(), MSI, BACK, 2, "stuck"),
    "grant before the answers": (GrantBeforeAnswers(), MSI, BACK, 2, "data-value"),
    "DROPPED ignored on install": (DroppedIsIgnoredOnInstall(), MSI, BACK, 2, "data-value"),
    "INVALIDATE forgotten by a slot that fills": (InvalidateLeavesFilling(), MSI, BACK, 2, "data-value"),
    "owned grant dropped": (OwnedGrantIsDropped(), MSI, BACK, 2, "unexpected"),
    "TAKE on FILLING answered at once": (TakeOnFillingIsAnswered(), MSI, BACK, 2, "data-value"),
    "TAKE on PINNED answered at once": (TakeOnPinnedIsAnswered(), MSI, BACK, 2, "data-value"),
    "TAKEN answered without the line": (TakenIsAnsweredWithoutTheLine(), MSI, BACK, 2, "data-value"),
    "lost upgrade answered without the line": (UpgradeNeverGetsTheLine(), MSI, BACK, 2, "without the line"),
    "E clean after a store": (ExclusiveIsCleanAfterAStore(), MESI, BACK, 1, "data-value"),
    "own copy kept while storing at the home": (RequesterKeepsItsCopy(), MSI, THROUGH, 1, "data-value"),
    "owner keeps its copy beside readers": (OwnerStaysBesideReaders(), MSI, BACK, 2, "SWMR"),
}


class AbandonsEviction(Flits):
    """A rank takes its PUT_OWNED back before it leaves, and goes on as the owner that it may not be any more."""

    def _accesses(self, state, rank, node):
        if node.tag is Tag.TAKEN and node.queues[Network.REQUESTS]:
            kept = node._replace(tag=Tag.M, is_waiting=False).received(Network.REQUESTS)
            yield f"rank {rank}: takes PUT_OWNED back", with_node(state, rank, kept)
        yield from super()._accesses(state, rank, node)


class LoadsFromTaken(Flits):
    """A sibling loads from a slot that is being given back."""

    def failure(self, state):
        stale = [node for node in state.nodes if node.tag is Tag.TAKEN and node.data is not Data.NEWEST]
        return "data-value: a load hits what is TAKEN and stale" if stale else super().failure(state)


class RepliesBeforeItPublishes(Flits):
    """The home grants the line before its directory says so; the home itself reads without the lock."""

    def _finish(self, state, rank, label):
        after = super()._finish(state, rank, label)
        if after.directory is not M or state.directory is M:
            return after
        granted = after.nodes[rank]._replace(served=state.nodes[rank].served, is_named=False)
        return with_node(after._replace(directory=state.directory), rank, granted)

    def _home_publishes(self, state, rank):
        nodes = tuple(
            node._replace(is_named=other == rank, served=()) for other, node in enumerate(state.nodes)
        )
        return state._replace(directory=M, nodes=nodes)

    def steps(self, state):
        yield from super().steps(state)
        for rank, node in enumerate(state.nodes):
            if node.served and not any(other.is_asked for other in state.nodes):
                yield "home: publishes that the line is owned", self._home_publishes(state, rank)


def explore(protocol, num_ranks, attribute=BACK, rules=None, model=Flits):
    return search(model(protocol, num_ranks, attribute, rules))


@cache
def control(protocol_name, num_ranks, attribute):
    """The design as it is: exhausted and clean, or nothing that is planted in it proves anything."""
    return explore(PROTOCOLS[protocol_name], num_ranks, attribute).result is Result.EXHAUSTED


@pytest.mark.parametrize("attribute", [BACK, THROUGH])
@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_one_and_two_ranks_are_exhausted(name, num_ranks, attribute):
    verdict = explore(PROTOCOLS[name], num_ranks, attribute)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")


def test_three_ranks_are_exhausted():
    verdict = explore(MESI, 3, THROUGH)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "") and verdict.num_states > 5_000


SEARCH_FOUR = """
from umem.coherence.machine import Attribute
from umem.coherence.protocol import PROTOCOLS
from umem.verify.model import Flits, search
verdict = search(Flits(PROTOCOLS[{!r}], 4, Attribute[{!r}]), limit_s=300)
print(verdict.result.value, verdict.bug)
"""


def search_four(name, attribute):
    """What a search of four ranks says, in a process of its own."""
    command = [sys.executable, "-c", SEARCH_FOUR.format(name, attribute.name)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout.strip()


@pytest.fixture(scope="module")
def four_ranks():
    """The searches of four ranks, two at a time: one alone leaves a core idle."""
    with ThreadPoolExecutor(2) as pool:
        yield {case: pool.submit(search_four, *case) for case in product(PROTOCOLS, (BACK, THROUGH))}


@pytest.mark.soak
@pytest.mark.parametrize("attribute", [BACK, THROUGH])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_four_ranks_are_exhausted(name, attribute, four_ranks):
    assert four_ranks[name, attribute].result() == Result.EXHAUSTED.value


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_a_wrong_row_is_found(name):
    protocol, key, row, num_ranks, bug = WRONG_ROWS[name]
    assert control(protocol.name, num_ranks, BACK)
    verdict = explore(Protocol("wrong", {**protocol.rows, key: row}), num_ranks)
    assert verdict.result is Result.BUG and bug in verdict.bug, verdict.bug


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_rule_is_found(name):
    rules, protocol, attribute, num_ranks, bug = PLANTED[name]
    assert control(protocol.name, num_ranks, attribute)
    verdict = explore(protocol, num_ranks, attribute, rules)
    assert verdict.result is Result.BUG and bug in verdict.bug, verdict.bug


@pytest.mark.parametrize(
    ("model", "bug"),
    [
        (AbandonsEviction, "SWMR"),
        (LoadsFromTaken, "hits what is TAKEN"),
        (RepliesBeforeItPublishes, "the directory does not say"),
    ],
)
def test_another_order_of_steps_is_found(model, bug):
    assert control("msi", 2, BACK)
    verdict = explore(MSI, 2, model=model)
    assert verdict.result is Result.BUG and bug in verdict.bug, verdict.bug


def test_a_missing_row_is_found():
    rows = dict(MSI.rows)
    del rows[(M, PUT_OWNED, STRANGER)]
    assert "no row for (M, PUT_OWNED, STRANGER)" in explore(Protocol("short", rows), 2).bug


def test_order_within_a_network_cannot_matter():
    """No network ever holds two flits between a rank and the home, so there is nothing to be out of order.

    That is a property that the search checks (a bug "unbounded"): here that it can say so.
    """
    state = Flits(MSI, 1).start()
    node = (
        state.nodes[0]
        .sent(Network.PROBES, Flit(Kind.INVALIDATE))
        .sent(Network.PROBES, Flit(Kind.TAKE_SHARED))
    )
    assert "2 probes between rank 0 and the home" in Flits(MSI, 1).failure(state._replace(nodes=(node,)))


def test_the_way_to_a_bug_is_told_step_by_step():
    verdict = explore(MSI, 1, THROUGH, RequesterKeepsItsCopy())
    assert [line.split("  ")[0] for line in verdict.trace] == [
        "rank 0: GET_SHARED",
        "home: receives GET_SHARED of rank 0",
        "rank 0: receives GRANT_S",
        "rank 0: WRITE_HOME",
        "home: receives WRITE_HOME of rank 0",
    ]


def test_renaming_ranks_loses_nothing():
    class Plain(Flits):
        def canonical(self, state):
            return state

    alike = explore(MSI, 2)
    assert alike.num_states < explore(MSI, 2, model=Plain).num_states < 2 * alike.num_states
    for rules, protocol, attribute, num_ranks, bug in PLANTED.values():
        assert bug in explore(protocol, num_ranks, attribute, rules, Plain).bug
