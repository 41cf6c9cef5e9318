"""A small world for the model checker: ranks with caches of a slot or two, lines of one word at home of rank 0.

Lanes are written as "1:la 2:A": a lane on rank 1 that loads and then adds, one on rank 2 that adds. Small letters
access line 0, capitals line 1: l loads, a adds a power of ten that is the lane's own, s stores, c compares with the
first value and swaps; r reads and w writes both lines as one range, x writes one line as a range.
"""

from __future__ import annotations

from dataclasses import dataclass

from umem.coherence.protocol import MSI, Protocol
from umem.kernels.coherent import layout as words
from umem.kernels.coherent.cache import is_readable, state_of_line
from umem.kernels.coherent.directory import line_state, owned_by, owner_of
from umem.kernels.coherent.layout import BACK, IS_HOME, NOT_HOME
from umem.kernels.coherent.span import coherent_read, coherent_write
from umem.kernels.coherent.typed import (
    coherent_compare_swap_i64,
    coherent_fetch_add_i64,
    coherent_load_i64,
    coherent_store_i64,
)
from umem.kernels.heap.layout import BLOCK_LOG2
from umem.kernels.intrinsics.scalar import load_i64
from umem.kernels.page import control
from umem.kernels.page.control import ALIVE, CONTROL_PEER_STATE, CONTROL_REACH, DEAD
from umem.kernels.status import OK
from umem.memory.address import BASE
from umem.verify import Verdict, explore

from .histories import UNTOLD, explains

LINE_LOG2 = 3  # a line is one word: more would only multiply the states
META_STRIDE_LOG2 = 20
LINEAR = BASE + (1 << 32)
STRIDE_LOG2 = 30
DIRECTORY, BLOCKS, NOTES, TAGS, COPIES, OWN = (1 << 62) + 0, 1 << 50, 1 << 51, 1 << 52, 1 << 53, 1 << 54
RANGE_BYTES = 2 << LINE_LOG2
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
    spin_rounds: int = 0
    first_owner: int = 0  # a rank that has the first `num_ways` lines MODIFIED from the start; 0: none has

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

    def pin(self, rank: int) -> int:
        """Address of the pin of a rank's only group of slots."""
        return self.tag(rank, self.num_ways)

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
                found[self.cache(rank) + 8 * words.CACHE_CLOCK] = 0
        for number in range(min(self.num_lines, self.num_ways) if self.first_owner else 0):
            found[self.directory(number)] = owned_by(self.first_owner)
            line = (self.line(number) - BASE) >> LINE_LOG2
            found[self.tag(self.first_owner, number)] = line << words.TAG_STATE_BITS | words.MODIFIED
            found[self.copy(self.first_owner, number)] = self.initial(number)
            found[self.line(number)] = 9_000 + number  # stale
        return found

    @property
    def states(self) -> dict[int, int]:
        """Who is alive, as each rank knows it: words that change where ranks die."""
        return {
            self.page(rank) + 8 * (CONTROL_PEER_STATE + peer): ALIVE
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
                control.CONTROL_RANK: rank,
                control.CONTROL_NUM_RANKS: self.num_ranks,
                control.CONTROL_META_BASE: BASE,
                control.CONTROL_META_STRIDE_LOG2: META_STRIDE_LOG2,
                control.CONTROL_COHERENCE: control.CONTROL_BYTES,
                control.CONTROL_LINEAR_BASE: LINEAR,
                control.CONTROL_LINEAR_END: LINEAR + (2 * self.num_ranks << STRIDE_LOG2),
                control.CONTROL_STRIDE_LOG2: STRIDE_LOG2,
                control.CONTROL_STRIPED_BASE: LINEAR + (2 * self.num_ranks << STRIDE_LOG2),
                control.CONTROL_STRIPED_END: 0,
                control.CONTROL_SPIN_ROUNDS: self.spin_rounds,
                control.CONTROL_STOP: 0,
            }
            found |= {page + 8 * field: value for field, value in fields.items()}
            for peer in range(self.num_ranks):
                found[page + 8 * (CONTROL_REACH + peer)] = 7
                found[page + 8 * (control.CONTROL_SEGMENT_BYTES + 2 * peer)] = 1 << 21
            notes = NOTES + (rank << 40)
            header = {
                words.CACHE_CONTROL: page,
                words.CACHE_GATE: 0,
                words.CACHE_NOTES: notes,
                words.CACHE_RANK: rank,
                words.CACHE_VERSION_MASK: (1 << self.version_bits) - 1,
                words.CACHE_COUNTERS: 0,
                words.CACHE_DIRECTORIES: DIRECTORY if rank == 0 else 0,
                words.CACHE_BLOCKS: BLOCKS,
                words.CACHE_CLOCK: 0,
            }
            if rank == 0:  # it has no copies; SNOOP asks it all the same
                found |= {self.tag(0, slot): 0 for slot in range(self.num_ways)}
            header |= {words.CACHE_ROWS + index: row for index, row in enumerate(self.protocol.words())}
            geometry = words.CACHE_GEOMETRIES + LINE_LOG2 * words.GEOMETRY_WORDS
            header |= {
                geometry + words.GEOMETRY_TAGS: self.tag(rank),
                geometry + words.GEOMETRY_COPIES: self.copy(rank),
                geometry + words.GEOMETRY_SLOT_MASK: self.num_ways - 1,
                geometry + words.GEOMETRY_NUM_WAYS: self.num_ways,
            }
            found |= {cache + 8 * field: value for field, value in header.items()} | {self.pin(rank): 0}
            block = LINE_LOG2 | self.attribute << words.ATTRIBUTE_SHIFT
            found[BLOCKS] = block
            found[notes + ((LINEAR - BASE) >> BLOCK_LOG2)] = block | (IS_HOME if rank == 0 else NOT_HOME)
        changing = self.memory
        return {address: value for address, value in found.items() if address not in changing}


def run(cache, *program):
    """A lane: each of `program` is (verb, address, operands...); its results, 0 for a store."""
    results = ()
    step = 0
    while step < len(program):
        operation = program[step]
        if operation[0] == "load":
            code, value = coherent_load_i64(cache, operation[1])
        elif operation[0] == "add":
            code, value = coherent_fetch_add_i64(cache, operation[1], operation[2])
        elif operation[0] == "read":
            code, _ = coherent_read(cache, operation[2], operation[1], RANGE_BYTES)
            results = (*results, load_i64(operation[2], 0))
            value = load_i64(operation[2], 1)
        elif operation[0] == "write":
            code, _ = coherent_write(cache, operation[1], operation[2], operation[3])
            if operation[3] == RANGE_BYTES:
                results = (*results, 0)
            value = 0
        elif operation[0] == "swap":
            code, value = coherent_compare_swap_i64(cache, operation[1], operation[2], operation[3])
        else:
            code = coherent_store_i64(cache, operation[1], operation[2])
            value = 0
        assert code == OK, code
        results = (*results, value)
        step += 1
    return results


def lanes_of(small: Small, text: str) -> tuple[list[int], list[tuple]]:
    """(rank of each lane, program of each lane)"""
    ranks, programs = [], []
    for lane, word in enumerate(text.split()):
        rank, _, letters = word.partition(":")
        ranks.append(int(rank))
        programs.append(tuple(operation_of(small, letter, lane, step) for step, letter in enumerate(letters)))
    return ranks, programs


def operation_of(small: Small, letter: str, lane: int, step: int) -> tuple:
    """An operation; those that store write a value that no other does."""
    line, number = 1 if letter.isupper() else 0, 1000 * lane + step
    address = small.line(line)
    match letter.lower():
        case "l":
            return ("load", address)
        case "a":
            return ("add", address, 10**lane)
        case "s":
            return ("store", address, 10_000 + number)
        case "c":
            return ("swap", address, small.initial(line), 20_000 + number)
        case "r":
            return ("read", small.line(0), OWN + RANGE_BYTES * number)
        case "w":
            return ("write", small.line(0), OWN + RANGE_BYTES * number, RANGE_BYTES)
        case "x":
            return ("write", address, OWN + RANGE_BYTES * number, 1 << LINE_LOG2)
    raise AssertionError(letter)


def own_words(programs) -> tuple[dict[int, int], dict[int, int]]:
    """The lanes' own memory: (what ranges are read to, what they are written from)."""
    read, written = {}, {}
    for operation in [operation for program in programs for operation in program]:
        if operation[0] in ("read", "write"):
            of = read if operation[0] == "read" else written
            of |= {operation[2]: operation[2] - OWN + 1, operation[2] + 8: operation[2] - OWN + 9}
    return read, written


def accesses(program) -> tuple:
    """The operations of a program, each on one line: a range is one on each."""
    single = []
    for operation in program:
        first, own = operation[1], operation[2] if len(operation) > 2 else 0
        if operation[0] == "read":
            single += [("load", first), ("load", first + 8)]
        elif operation[0] == "write":
            single += [
                ("store", first + at, own - OWN + 1 + at) for at in range(0, operation[3], 1 << LINE_LOG2)
            ]
        else:
            single.append(operation)
    return tuple(single)


def search(
    small: Small,
    text: str,
    model: str = "weak",
    kills: int = 0,
    limit_s: float = 240.0,
    mortal: tuple[int, ...] | None = None,
) -> Verdict:
    """Every execution of the lanes of `text`; with `kills` the others are told of a death behind all it did.

    Where a rank with several lanes is not to die by one of them, `mortal` names those that may.
    """
    ranks, programs = lanes_of(small, text)
    lanes = [(run, small.cache(rank), *program) for rank, program in zip(ranks, programs, strict=True)]
    read, written = own_words(programs)
    memory, constants = small.memory | read, small.constants | written
    if written:  # else nobody ever pins a group
        memory |= {pin: constants.pop(pin) for pin in map(small.pin, range(1, small.num_ranks))}
    programs = [accesses(program) for program in programs]
    if not kills:
        final = in_order(small, programs)
        return explore(lanes, memory, final, model, constants=constants, limit_s=limit_s)
    told = deaths(small, ranks)
    memory |= {word: ALIVE for words_ in told.values() for word in words_}
    constants = {word: value for word, value in constants.items() if word not in memory}
    final = survived(small, ranks, programs)
    return explore(lanes, memory, final, model, kills, constants, told, limit_s=limit_s, mortal=mortal)


def deaths(small: Small, ranks: list[int]) -> dict[int, dict[int, int]]:
    """What the others are told when the lane of a rank is killed, for lanes that run at `ranks`."""
    return {
        lane: {small.page(other) + 8 * (CONTROL_PEER_STATE + rank): DEAD for other in ranks if other != rank}
        for lane, rank in enumerate(ranks)
    }


# --- what must hold at an end


def in_order(small: Small, programs):
    """A check of an end: for each line there is an order of all operations that explains what they found and what
    the line holds (sequential consistency of every address), and no valid copy is stale."""

    def check(results, memory):
        for number in range(small.num_lines):
            histories = histories_of(small, number, programs, results)
            try:
                value = value_of(small, memory, number)
            except AssertionError as error:
                return str(error)
            if not explains(histories, small.initial(number), value):
                return f"line {number} holds {value}: no order explains {histories}"
            for rank, copy in valid_copies(small, memory, number):
                if copy != value:
                    return f"rank {rank} keeps a stale copy of line {number}: {copy}, not {value}"
        return None

    return check


def histories_of(small: Small, number: int, programs, results) -> tuple:
    """What each lane did to a line, with what it found."""
    address = small.line(number)
    return tuple(
        tuple(pair for pair in zip(program, result, strict=True) if pair[0][1] == address)
        for program, result in zip(programs, results, strict=True)
    )


def value_of(small: Small, memory, number: int) -> int:
    """What a line holds when all is over: the owner's copy, or home."""
    word = memory[small.directory(number)]
    assert not word & words.DIRECTORY_LOCK, f"line {number} is left locked"
    if line_state(word) != words.LINE_OWNED:
        return memory[small.line(number)]
    copies = dict(valid_copies(small, memory, number))
    assert owner_of(word) in copies, f"owner {owner_of(word)} of line {number} has no copy"
    return copies[owner_of(word)]


def valid_copies(small: Small, memory, number: int):
    """(rank, value) of every copy of a line that its rank may read."""
    line = (small.line(number) - BASE) >> LINE_LOG2
    for rank in range(1, small.num_ranks):
        for slot in range(small.num_ways):
            tag = memory[small.tag(rank, slot)]
            if is_readable(state_of_line(tag, line)):
                yield rank, memory[small.copy(rank, slot)]


def survived(small: Small, ranks, programs):
    """A check of an end where lanes were killed: some order explains what the living found, with or without what the
    dead were about to do, and a copy is whole wherever the directory names an owner."""

    def check(results, memory):
        dead = {rank for rank, result in zip(ranks, results, strict=True) if not isinstance(result, tuple)}
        told = [
            result if isinstance(result, tuple) else (UNTOLD,) * len(program)
            for program, result in zip(programs, results, strict=True)
        ]
        for number in range(small.num_lines):
            histories = histories_of(small, number, programs, told)
            if not explains(histories, small.initial(number), None):
                return f"line {number}: no order explains {histories}"
            bug = lost(small, memory, number, dead)
            if bug:
                return bug
        return None

    return check


def lost(small: Small, memory, number: int, dead: set[int]) -> str | None:
    """The owner of a line that has no copy; a dead one may have been filling it when it was named."""
    word = memory[small.directory(number)]
    if line_state(word) != words.LINE_OWNED:
        return None
    owner, line = owner_of(word), (small.line(number) - BASE) >> LINE_LOG2
    others = (words.TAKEN, words.FILLING) if owner in dead else (words.TAKEN,)
    for slot in range(small.num_ways):
        state = state_of_line(memory[small.tag(owner, slot)], line)
        if is_readable(state) or state in others:
            return None
    return f"owner {owner} of line {number} has no copy"
