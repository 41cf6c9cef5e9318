"""Words of a small world for the model checker: ranks with one-slot caches, lines of one word at home of rank 0."""

from __future__ import annotations

from dataclasses import dataclass

from umem.address import BASE
from umem.coherence.protocol import MSI, Protocol
from umem.kernels import coherence_layout as words
from umem.kernels import control
from umem.kernels.coherence_layout import BACK, IS_HOME, NOT_HOME
from umem.kernels.coherent import (
    coherent_compare_swap_i64,
    coherent_fetch_add_i64,
    coherent_load_i64,
    coherent_store_i64,
)
from umem.kernels.control import ALIVE, DEAD, PEER_MAPPED, PEER_STATE
from umem.kernels.directory import directory_word, line_state, owner_of
from umem.kernels.heap_layout import BLOCK_LOG2
from umem.kernels.status import OK

LINE_LOG2 = 3  # a line is one word: more would only multiply the states
META_STRIDE_LOG2 = 20
LINEAR = BASE + (1 << 32)
STRIDE_LOG2 = 30
DIRECTORY, BLOCKS, NOTES, TAGS, COPIES = (1 << 62) + 0, 1 << 50, 1 << 51, 1 << 52, 1 << 53
VERSION_BITS = 3


@dataclass(frozen=True)
class Small:
    """A world of `num_ranks`, of which rank 0 is home to `num_lines`."""

    num_ranks: int = 3
    num_lines: int = 1
    attribute: int = BACK
    protocol: Protocol = MSI
    version_bits: int = VERSION_BITS
    num_ways: int = 1

    def page(self, rank: int) -> int:
        """Address of a rank's control page."""
        return BASE + (rank << META_STRIDE_LOG2)

    def cache(self, rank: int) -> int:
        """Address of a rank's coherence header."""
        return self.page(rank) + control.CONTROL_BYTES

    def line(self, number: int) -> int:
        """Address of a line."""
        return LINEAR + (number << LINE_LOG2)

    def initial(self, number: int) -> int:
        """What it holds at first: each line another value."""
        return 100 * (number + 1)

    def tag(self, rank: int, slot: int = 0) -> int:
        """Address of a tag."""
        return TAGS + (rank << 12) + 8 * slot

    def copy(self, rank: int, slot: int = 0) -> int:
        """Address of a copy."""
        return COPIES + (rank << 12) + 8 * slot

    def directory(self, number: int) -> int:
        """Address of a line's directory word."""
        block = ((number & 7) << (BLOCK_LOG2 - LINE_LOG2 - 3)) + (number >> 3)
        return DIRECTORY + 8 * block

    @property
    def memory(self) -> dict[int, int]:
        """The words that change."""
        found = {}
        for number in range(self.num_lines):
            found[self.directory(number)] = 0
            found[self.line(number)] = self.initial(number)
        for rank in range(1, self.num_ranks):
            for slot in range(self.num_ways):
                found[self.tag(rank, slot)] = 0
                found[self.copy(rank, slot)] = 7_000 + 10 * rank + slot
            if self.num_ways > 1:
                found[self.cache(rank) + 8 * words.CLOCK] = 0
        return found

    @property
    def states(self) -> dict[int, int]:
        """Who is alive, as each rank knows it: words that change where ranks die."""
        return {
            self.page(rank) + 8 * (PEER_STATE + peer): ALIVE
            for rank in range(self.num_ranks)
            for peer in range(self.num_ranks)
        }

    @property
    def constants(self) -> dict[int, int]:
        """Control pages and headers."""
        found = dict(self.states)
        for rank in range(self.num_ranks):
            page, cache = self.page(rank), self.cache(rank)
            fields = {
                control.RANK: rank,
                control.NUM_RANKS: self.num_ranks,
                control.META_BASE: BASE,
                control.META_STRIDE_LOG2: META_STRIDE_LOG2,
                control.COHERENCE: control.CONTROL_BYTES,
                control.LINEAR_BASE: LINEAR,
                control.LINEAR_END: LINEAR + (2 * self.num_ranks << STRIDE_LOG2),
                control.STRIDE_LOG2: STRIDE_LOG2,
                control.STRIPED_BASE: LINEAR + (2 * self.num_ranks << STRIDE_LOG2),
                control.STRIPED_END: 0,
                control.SPIN_ROUNDS: 0,
                control.STOP: 0,
            }
            found |= {page + 8 * field: value for field, value in fields.items()}
            for peer in range(self.num_ranks):
                found[page + 8 * (PEER_MAPPED + peer)] = 1
                found[page + 8 * (control.SEGMENT_BYTES + 2 * peer)] = 1 << 21
            notes = NOTES + (rank << 40)
            header = {
                words.CONTROL: page,
                words.GATE: 0,
                words.NOTES: notes,
                words.RANK: rank,
                words.LINE_SHIFT: words.STATE_BITS + self.version_bits,
                words.COUNTERS: 0,
                words.DIRECTORIES: DIRECTORY if rank == 0 else 0,
                words.BLOCKS: BLOCKS,
                words.CLOCK: 0,
            }
            header |= {words.ROWS + index: row for index, row in enumerate(self.protocol.words())}
            geometry = words.GEOMETRIES + LINE_LOG2 * words.GEOMETRY_WORDS
            header |= {
                geometry + words.TAGS: self.tag(rank),
                geometry + words.COPIES: self.copy(rank),
                geometry + words.SLOT_MASK: self.num_ways - 1,
                geometry + words.NUM_WAYS: self.num_ways,
            }
            found |= {cache + 8 * field: value for field, value in header.items()}
            block = LINE_LOG2 | self.attribute << words.ATTRIBUTE_SHIFT
            found[BLOCKS] = block
            found[notes + ((LINEAR - BASE) >> BLOCK_LOG2)] = block | (IS_HOME if rank == 0 else NOT_HOME)
        changing = self.memory
        return {address: value for address, value in found.items() if address not in changing}


def run(cache, *program):
    """A lane: each of `program` is ("load", address), ("store", address, value) or ("add", address); its results."""
    results = ()
    step = 0
    while step < len(program):
        operation = program[step]
        if operation[0] == "load":
            code, value = coherent_load_i64(cache, operation[1])
        elif operation[0] == "add":
            code, value = coherent_fetch_add_i64(cache, operation[1], 1)
        elif operation[0] == "swap":
            code, value = coherent_compare_swap_i64(cache, operation[1], operation[2], operation[3])
        else:
            code = coherent_store_i64(cache, operation[1], operation[2])
            value = 0
        assert code == OK, code
        results = (*results, value)
        step += 1
    return results


def value_of(small: Small, memory, number: int) -> int:
    """What a line holds when all is over: the owner's copy, or home."""
    word = memory[small.directory(number)]
    assert not word & words.DIRECTORY_LOCK, f"line {number} is left locked"
    if line_state(word) == words.OWNED:
        owner = owner_of(word)
        for slot in range(small.num_ways):
            tag = memory[small.tag(owner, slot)]
            if tag >> (words.STATE_BITS + small.version_bits) == (small.line(number) - BASE) >> LINE_LOG2:
                state = tag & words.STATE_MASK
                assert state in (words.EXCLUSIVE, words.MODIFIED), f"owner {owner} has state {state}"
                return memory[small.copy(owner, slot)]
        raise AssertionError(f"owner {owner} of line {number} has no copy")
    return memory[small.line(number)]


def counted(small: Small, programs):
    """A check of an end where lanes only load and add: nothing is lost, nothing goes back, no copy is stale."""

    def check(results, memory):
        for number in range(small.num_lines):
            address, first = small.line(number), small.initial(number)
            olds = []
            for result, program in zip(results, programs, strict=True):
                if not isinstance(result, tuple):
                    return None  # a lane was killed: checked by others
                last = first
                for operation, value in zip(program, result, strict=True):
                    if operation[1] != address:
                        continue
                    if value < last:
                        return f"line {number} went back from {last} to {value}"
                    last = value
                    if operation[0] == "add":
                        olds.append(value)
                        last = value + 1
            if sorted(olds) != list(range(first, first + len(olds))):
                return f"line {number}: additions found {sorted(olds)}"
            try:
                value = value_of(small, memory, number)
            except AssertionError as error:
                return str(error)
            if value != first + len(olds):
                return f"line {number} holds {value} after {len(olds)} additions to {first}"
            for rank in range(1, small.num_ranks):
                for slot in range(small.num_ways):
                    tag = memory[small.tag(rank, slot)]
                    is_line = tag >> (words.STATE_BITS + small.version_bits) == (address - BASE) >> LINE_LOG2
                    is_valid = (words.READABLE >> (tag & words.STATE_MASK)) & 1
                    if is_line and is_valid and memory[small.copy(rank, slot)] != value:
                        return f"rank {rank} keeps a stale copy of line {number}"
        return None

    return check


assert directory_word


def deaths(small: Small, ranks) -> dict[int, dict[int, int]]:
    """What the others are told when the lane of a rank is killed, for lanes that run at `ranks`."""
    return {
        lane: {small.page(other) + 8 * (PEER_STATE + rank): DEAD for other in ranks if other != rank}
        for lane, rank in enumerate(ranks)
    }


def survived(small: Small, programs):
    """A check of an end where lanes were killed: to those that live, nothing was lost and nothing went back."""

    def check(results, memory):
        for number in range(small.num_lines):
            address, first = small.line(number), small.initial(number)
            most = first + sum(operation == ("add", address) for program in programs for operation in program)
            found = []
            for result, program in zip(results, programs, strict=True):
                if not isinstance(result, tuple):
                    continue
                last = first
                for operation, value in zip(program, result, strict=True):
                    if operation[1] == address:
                        if not last <= value <= most:
                            return f"line {number}: {value} after {last}"
                        last = value + (operation[0] == "add")
                        if operation[0] == "add":
                            found.append(value)
            if len(set(found)) < len(found):
                return f"line {number}: two additions found {found}"
        return None

    return check
