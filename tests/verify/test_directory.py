"""Coherence where memory is mapped, model-checked as it runs: every execution of a few lanes in weak memory.

At each end there is an order that explains what every lane found in a line, no copy is stale, and no lock is left.
With a kill: what the living found is right, nobody waits for ever, and the directory names whole copies only.
"""

from __future__ import annotations

import pytest

from umem.coherence.protocol import MESI, SNOOP
from umem.kernels.coherent.layout import PRIVATE, THROUGH
from umem.verify import Result

from .coherence import Small, search

TWO_LINES = {"num_lines": 2}
OWNED = {"first_owner": 1}
# lanes, fields of the small world, lanes that may be killed
SMALL = {
    "adds": ("1:a 2:a", {}, 0),
    "a load and a store": ("1:l 2:s", {}, 0),
    "compare-swaps": ("1:c 2:c", {}, 0),
    "MESI": ("1:l 2:a", {"protocol": MESI}, 0),
    "snooping": ("1:l 2:a", {"protocol": SNOOP}, 0),
    "stores at home": ("1:la 2:la", {"attribute": THROUGH}, 0),
    "stores at home, MESI": ("1:la 2:la", {"attribute": THROUGH, "protocol": MESI}, 0),
    "private": ("1:l 2:a", {"attribute": PRIVATE}, 0),
    "a lane at home": ("0:al 1:la", {}, 0),
    "a lane at home, MESI": ("0:al 1:la", {"protocol": MESI}, 0),
    "siblings": ("1:l 1:a", {}, 0),
    "siblings, two ways": ("1:al 1:A", {"num_ways": 2, **TWO_LINES}, 0),
    "siblings that evict": ("1:l 1:Ll", TWO_LINES, 0),
    "a wait that spins": ("1:la 2:a", {"spin_rounds": 1}, 0),
    "ranges, stores at home": ("1:r 2:w", {"attribute": THROUGH, **TWO_LINES}, 0),
    "a range written at home": ("0:w 1:rr", TWO_LINES, 0),
    "a range of one's own beside an add": ("1:w 2:a", {"num_ways": 2, **TWO_LINES, **OWNED}, 0),
    "a range of one's own beside a load": ("1:x 2:l", OWNED, 0),
    "a range beside a sibling's range": ("1:x 1:x", OWNED, 0),
    "a range beside a sibling's store": ("1:x 1:s", OWNED, 0),
    "a range beside a sibling's add": ("1:x 1:a", OWNED, 0),
    "a range beside a sibling's compare-swap": ("1:x 1:c", OWNED, 0),
    "a range beside a sibling that evicts": ("1:x 1:L", {**TWO_LINES, **OWNED}, 0),
    "a kill beside a range": ("1:w 2:l", {"num_ways": 2, **TWO_LINES, **OWNED}, 1),
    "a kill, stores at home": ("1:l 2:a", {"attribute": THROUGH}, 1),
    "a kill beside the home": ("0:al 1:a", {"protocol": MESI}, 1),
    "a kill beside an eviction": ("1:L 2:a", {**TWO_LINES, **OWNED}, 1),
    "a kill of one who takes a copy": ("2:a 3:l", {"num_ranks": 4, **OWNED}, 1),
}
# A wide version only multiplies the states: where nothing depends on it, the search may have a narrow one.
NARROW, NONE = {"version_bits": 1}, {"version_bits": 0}
LARGE = {
    "a range beside a sibling": ("1:r 1:al", {"version_bits": 2, **TWO_LINES}, 0),
    "upgrades": ("1:la 2:la", {}, 0),
    "all operations": ("1:sl 2:cs", {}, 0),
    "loads and stores": ("1:ls 2:sl", {}, 0),
    "MESI": ("1:la 2:al", {"protocol": MESI}, 0),
    "snooping, a rank that only is asked": ("1:la 2:a", {"protocol": SNOOP, "num_ranks": 4}, 0),
    "ranges, one of them read": ("1:r 2:w", {**TWO_LINES, **NARROW}, 0),
    "ranges of two ranks": ("1:w 2:w", {"num_ways": 2, **TWO_LINES, **OWNED, **NARROW}, 0),
    "a range beside a sibling that reads both lines": ("1:x 1:r", {**TWO_LINES, **OWNED}, 0),
    "eviction": ("1:aA 2:a", TWO_LINES, 0),
    "eviction, MESI": ("1:lA 2:aL", {**TWO_LINES, "protocol": MESI}, 0),
    "two ways": ("1:aA 2:Aa", {**TWO_LINES, "num_ways": 2}, 0),
    "siblings that evict": ("1:aA 1:a", TWO_LINES, 0),
    "two lines, three operations": ("1:laA 2:Aal", {**TWO_LINES, **NARROW}, 0),
    "a kill": ("1:al 2:al", NARROW, 1),
    "a kill, MESI": ("1:al 2:la", {"protocol": MESI, **NARROW}, 1),
    "a kill, snooping": ("1:l 2:a", {"protocol": SNOOP}, 1),
    "a kill, private": ("1:l 2:a", {"attribute": PRIVATE}, 1),
    "a kill, two lines, three operations": ("1:aAl 2:al", {**TWO_LINES, **NARROW}, 1),
    "both killed": ("1:a 2:a", {}, 2),
}
THREE_LANES = {
    "a reader": ("1:a 2:l 3:a", {"num_ranks": 4, **NARROW}, 0),
    "three adds": ("1:a 2:a 3:a", {"num_ranks": 4, **NARROW}, 0),
    "MESI": ("1:l 2:l 3:a", {"num_ranks": 4, "protocol": MESI, **NONE}, 0),
    "the home": ("1:a 2:a 0:a", NARROW, 0),
    "siblings that add": ("1:a 1:a 2:a", NARROW, 0),
    "siblings, one reads": ("1:l 1:a 2:a", NARROW, 0),
    "siblings, one evicts": ("1:a 1:A 2:a", {**TWO_LINES, **NARROW}, 0),
    "siblings, two ways": ("1:a 1:a 2:a", {"num_ways": 2, **NARROW}, 0),
    "siblings, one writes a range": ("1:x 1:l 2:a", {**OWNED, **NONE}, 0),
    "siblings that write ranges": ("1:x 1:x 2:l", {**OWNED, **NONE}, 0),
    "siblings, one writes a range, one evicts": ("1:x 1:L 2:a", {**TWO_LINES, **OWNED, **NARROW}, 0),
    "two lines": ("1:aA 2:l 3:a", {"num_ranks": 4, **TWO_LINES, **NONE}, 0),
    "a kill": ("1:a 2:a 3:l", {"num_ranks": 4, **NONE}, 1),
    "a kill of the home beside an upgrade": ("0:a 1:la 2:ll", NONE, 1),
}
# Of three lanes the last, on another rank, may be killed beside two siblings.
KILLED_BESIDE_SIBLINGS = {
    "a range, an eviction": ("1:xl 1:L 2:l", {**TWO_LINES, **OWNED, **NONE}, 1),
    "a range, an add": ("1:xl 1:a 2:l", {**OWNED, **NONE}, 1),
    "two ranges": ("1:xl 1:x 2:a", {**OWNED, **NONE}, 1),
}


def check(lanes, fields, kills, model="weak", mortal=None):
    verdict = search(Small(**fields), lanes, model, kills, limit_s=240, mortal=mortal)
    assert (verdict.result, verdict.bug) == (Result.EXHAUSTED, "")


@pytest.mark.parametrize("name", SMALL)
def test_small_programs_are_right(name):
    check(*SMALL[name])


@pytest.mark.soak
@pytest.mark.parametrize("name", LARGE)
def test_larger_programs_are_right(name):
    check(*LARGE[name])


@pytest.mark.soak
@pytest.mark.parametrize("name", THREE_LANES)
def test_three_lanes_are_right_in_sequential_memory(name):
    check(*THREE_LANES[name], "sequential")


@pytest.mark.soak
@pytest.mark.parametrize("name", KILLED_BESIDE_SIBLINGS)
def test_siblings_are_right_beside_a_kill(name):
    check(*KILLED_BESIDE_SIBLINGS[name], "sequential", mortal=(2,))


@pytest.mark.long
@pytest.mark.parametrize("lanes", ["1:a 2:l 3:a", "1:l 1:a 2:a"])
def test_what_is_met_of_three_lanes_in_weak_memory_is_right(lanes):
    """No pass of the whole, which is too large: of what a minute reaches."""
    verdict = search(Small(num_ranks=4, version_bits=1), lanes, limit_s=60)
    print(f"{lanes}: {verdict.num_states} states")
    assert verdict.bug == ""
