"""docs/protocol.md is current and its variant loads; what sharing costs is what one counts by hand."""

from __future__ import annotations

import re

import pytest
import write_protocol

from umem.coherence.load import load_protocol
from umem.coherence.machine import Attribute
from umem.coherence.patterns import PATTERNS, RANKS, cost
from umem.coherence.protocol import MESI, MSI, SNOOP

BACK, THROUGH = Attribute.BACK, Attribute.THROUGH
OTHERS = RANKS - 1
# pattern, protocol, attribute: messages a round, and those that carry the line
COUNTED = [
    # GET_SHARED, GET_OWNED and PUT_OWNED with their replies; the line comes once and goes once
    ("private", MSI, BACK, 6, 2),
    # the store needs nobody
    ("private", MESI, BACK, 4, 2),
    # everybody is asked before the store
    ("private", SNOOP, BACK, 6 + 2 * OTHERS, 2),
    # a load, a store at home, and the probe of the storing rank's own copy
    ("private", MSI, THROUGH, 6, 1),
    # an upgrade asks all other sharers; then one of them takes the line from the owner, and all get it
    ("read-mostly", MSI, BACK, 2 + 2 * OTHERS + 2 + 2 * OTHERS, 1 + OTHERS),
    # the line goes home and on to the next, which then upgrades and asks the one before
    ("migratory", MSI, BACK, 4 + 4, 2),
    ("producer-consumer", MSI, BACK, 4 + 4, 2),
    # each store takes the line from the other, which still has a name where no sharer has one
    ("false sharing", MSI, BACK, 4 + 4, 4),
    ("false sharing", SNOOP, BACK, 4 + 4, 4),
    # what is stored at home moves no line
    ("false sharing", MSI, THROUGH, 2 + 2, 0),
]


def test_the_page_is_current():
    assert write_protocol.PAGE.read_text() == write_protocol.page(), "run `make docs`"


def test_the_variant_of_the_page_is_mesi(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(re.search(r"```python\n(.*?)```", write_protocol.PAGE.read_text(), re.DOTALL).group(1))
    assert load_protocol(file).rows == MESI.rows


@pytest.mark.parametrize(("name", "protocol", "attribute", "messages", "lines"), COUNTED)
def test_the_messages_of_a_pattern(name, protocol, attribute, messages, lines):
    pattern = next(pattern for pattern in PATTERNS if pattern.name == name)
    assert cost(protocol, pattern, attribute) == (messages, lines)
