"""Host memory under any sequence of create, grow, map, unmap, write: it holds what a model says."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from umem.errors import ConfigError
from umem.memory.device import host

PAGE = host.granularity
BASE = 0x1E00_0000_0000  # clear of umem's range and of the other tests'
NUM_PAGES = 12
MAX_MEMORY_PAGES = 6


class HostMemory(RuleBasedStateMachine):
    """A reserved range of NUM_PAGES and two memories; the model knows which page shows what.

    Invariant: every mapped page shows the bytes of its memory's page, written through whatever mapping.
    """

    @initialize()
    def start(self) -> None:
        host.reserve(BASE, NUM_PAGES * PAGE)
        self.fds = [host.create(PAGE, "umem-stateful") for _ in range(2)]
        self.contents = [[0] for _ in self.fds]  # memory -> first byte of each of its pages
        self.shown: dict[int, tuple[int, int]] = {}  # page of the range -> (memory, page of it)

    @rule(memory=st.integers(0, 1), num_pages=st.integers(1, MAX_MEMORY_PAGES))
    def grow(self, memory: int, num_pages: int) -> None:
        present = len(self.contents[memory])
        if num_pages < present:
            with pytest.raises(ConfigError, match="shrink"):
                host.grow(self.fds[memory], num_pages * PAGE)
        else:
            host.grow(self.fds[memory], num_pages * PAGE)
            self.contents[memory] += [0] * (num_pages - present)

    @rule(
        memory=st.integers(0, 1),
        at=st.integers(0, NUM_PAGES - 1),
        offset=st.integers(0, MAX_MEMORY_PAGES - 1),
        num_pages=st.integers(1, 3),
        prefault=st.booleans(),
    )
    def map(self, memory: int, at: int, offset: int, num_pages: int, prefault: bool) -> None:
        num_pages = min(num_pages, NUM_PAGES - at)
        arguments = (self.fds[memory], BASE + at * PAGE, num_pages * PAGE, offset * PAGE)
        if offset + num_pages > len(self.contents[memory]):
            with pytest.raises(ConfigError, match="grow it first"):
                host.map(*arguments)
            return
        host.map(*arguments)
        if prefault:
            host.prefault(arguments[1], arguments[2])
        self.shown |= {at + i: (memory, offset + i) for i in range(num_pages)}

    @rule(at=st.integers(0, NUM_PAGES - 1), num_pages=st.integers(1, NUM_PAGES))
    def unmap(self, at: int, num_pages: int) -> None:
        num_pages = min(num_pages, NUM_PAGES - at)
        host.unmap_to_reserved(BASE + at * PAGE, num_pages * PAGE)
        for page in range(at, at + num_pages):
            self.shown.pop(page, None)

    @rule(page=st.integers(0, NUM_PAGES - 1), value=st.integers(0, 255))
    def write(self, page: int, value: int) -> None:
        if page in self.shown:
            host.view(BASE + page * PAGE, 1)[0] = value
            memory, offset = self.shown[page]
            self.contents[memory][offset] = value

    @invariant()
    def every_mapped_page_shows_its_memory(self) -> None:
        for page, (memory, offset) in getattr(self, "shown", {}).items():
            assert host.view(BASE + page * PAGE, 1)[0] == self.contents[memory][offset]

    def teardown(self) -> None:
        if hasattr(self, "fds"):
            host.release_range(BASE, NUM_PAGES * PAGE)
            for fd in self.fds:
                os.close(fd)


def run(max_examples: int) -> None:
    options = settings(
        max_examples=max_examples,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(HostMemory, settings=options)


def test_any_sequence_of_calls():
    run(max_examples=15)


@pytest.mark.soak
def test_any_sequence_of_calls_at_length(soak_factor):
    run(max_examples=2000 * soak_factor)
