"""The calls of a function's bytecode, each with the locals that are still read after it.

A suspended frame's future depends on its place in the code and on these live locals alone. They are found by
dataflow over the bytecode that `dis` shows, without a list of instructions: only the families *_FAST*, which read
and write locals, are known by name. Where a call is made in the middle of an expression or of a `for`, values wait
on the interpreter's stack, which Python code cannot read: `is_clean` is False there.
"""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

_NEVER_FALLS_THROUGH = ("RETURN", "RAISE", "RERAISE", "JUMP_FORWARD", "JUMP_BACKWARD")


@dataclass(frozen=True)
class Place:
    """A call in a function: its offset, the locals read after it, and whether the stack holds only its result."""

    offset: int
    live: tuple[str, ...]
    is_clean: bool


@functools.cache
def places(code: CodeType) -> dict[int, Place]:
    """The calls of `code`, by every offset that `frame.f_lasti` may have while one is made."""
    instructions = list(dis.get_instructions(code))
    successors = _successors(instructions)
    depths = _depths(instructions, successors)
    live = _live(instructions, successors, _handlers(code, instructions))
    ends = [*(instruction.offset for instruction in instructions[1:]), len(code.co_code)]
    found: dict[int, Place] = {}
    for index, instruction in enumerate(instructions):
        if not instruction.opname.startswith("CALL") or index not in depths:
            continue
        after = depths[index] + dis.stack_effect(instruction.opcode, instruction.arg, jump=False)
        names = set().union(*(live[number] for number, _ in successors[index])) | set(code.co_cellvars)
        place = Place(instruction.offset, tuple(sorted(names)), is_clean=after == 1)  # nothing but the result
        # While it runs, f_lasti may stand anywhere in the call's inline cache.
        found |= dict.fromkeys(range(instruction.offset, ends[index], 2), place)
    return found


def _successors(instructions: list[dis.Instruction]) -> list[list[tuple[int, bool]]]:
    """For each instruction its successors: (index, whether by a jump)."""
    at = {instruction.offset: index for index, instruction in enumerate(instructions)}
    result: list[list[tuple[int, bool]]] = []
    for index, instruction in enumerate(instructions):
        following: list[tuple[int, bool]] = []
        if instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs:
            following.append((at[instruction.argval], True))
        if not instruction.opname.startswith(_NEVER_FALLS_THROUGH) and index + 1 < len(instructions):
            following.append((index + 1, False))
        result.append(following)
    return result


def _depths(instructions: list[dis.Instruction], successors: list[list[tuple[int, bool]]]) -> dict[int, int]:
    """Values on the stack before each instruction that can be reached."""
    depths = {0: 0}
    waiting = [0]
    while waiting:
        index = waiting.pop()
        instruction = instructions[index]
        for number, by_jump in successors[index]:
            if number not in depths:
                effect = dis.stack_effect(instruction.opcode, instruction.arg, jump=by_jump)
                depths[number] = depths[index] + effect
                waiting.append(number)
    return depths


def _handlers(code: CodeType, instructions: list[dis.Instruction]) -> list[list[int]]:
    """For each instruction the first instructions of its exception handlers."""
    at = {instruction.offset: index for index, instruction in enumerate(instructions)}
    entries = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]  # not in typeshed
    return [
        [at[entry.target] for entry in entries if entry.start <= instruction.offset < entry.end]
        for instruction in instructions
    ]


def _live(
    instructions: list[dis.Instruction], successors: list[list[tuple[int, bool]]], handlers: list[list[int]]
) -> list[frozenset[str]]:
    """For each instruction the locals that may still be read from it on."""
    live = [frozenset[str]()] * len(instructions)
    has_changed = True
    while has_changed:
        has_changed = False
        for index in range(len(instructions) - 1, -1, -1):
            names = set().union(*(live[number] for number, _ in successors[index]))
            for name, is_read in reversed(list(_accesses(instructions[index]))):
                if is_read:
                    names.add(name)
                else:
                    names.discard(name)
            names.update(*(live[number] for number in handlers[index]))
            if names != live[index]:
                live[index], has_changed = frozenset(names), True
    return live


def _accesses(instruction: dis.Instruction) -> Iterator[tuple[str, bool]]:
    """(name, whether it is read) of each local that an instruction uses, in order; some instructions use two."""
    if "_FAST" not in instruction.opname:
        return
    names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
    verbs = [part.rstrip("_") for part in instruction.opname.replace("_FAST", " ").split()]
    verbs = [verb.lstrip("_") for verb in verbs if verb.lstrip("_") in ("LOAD", "STORE", "DELETE")]
    for name, verb in zip(names, verbs * len(names) if len(verbs) == 1 else verbs, strict=False):
        yield name, verb == "LOAD"
