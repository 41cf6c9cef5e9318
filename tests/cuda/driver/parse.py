"""The text of PTX taken apart: functions, their parameters and variables, statements, instructions.

PTX ISA 9.0, chapter 4. What is not known raises Unsupported with its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .types import bits_of, immediate


class Unsupported(Exception):
    """PTX that is not translated: an instruction, a form of it, or text that is not understood."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: `@!predicate name.modifier.modifier operand, operand`."""

    predicate: str  # empty where there is none
    negated: bool
    name: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    text: str

    @property
    def kind(self) -> str:
        """The type that it works on, its last modifier: s32, b64, f16."""
        return self.modifiers[-1]

    def has(self, modifier: str) -> bool:
        return modifier in self.modifiers

    def one_of(self, *names: str) -> str:
        """The modifier that is among `names`."""
        for modifier in self.modifiers:
            if modifier in names:
                return modifier
        raise Unsupported(self.text)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function, or memory for one at a call."""

    name: str
    num_bytes: int
    alignment: int


@dataclass(frozen=True)
class Variable:
    """Memory that PTX declares; `data` has its first contents."""

    name: str
    space: str  # global, const, shared, local
    num_bytes: int
    alignment: int
    data: bytes


@dataclass(frozen=True)
class Function:
    """A kernel (entry) or a function that kernels call. `body` is None where it is only declared."""

    name: str
    is_entry: bool
    results: tuple[Parameter, ...]
    parameters: tuple[Parameter, ...]
    body: str | None


FUNCTION = re.compile(
    r"\.(?P<kind>entry|func)\s*(?:\((?P<result>[^)]*)\)\s*)?(?P<name>[\w$]+)\s*(?:\((?P<params>[^)]*)\))?"
    r"(?P<directives>[^;{]*)(?P<end>[;{])",
    re.S,
)
PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s*(?:\.\w+\s*)*(?:\.align\s+\d+\s*)?)?([\w$]+)"
    r"\s*(?:\[(\d+)\])?"
)
VARIABLE = re.compile(
    r"\.(?P<space>global|const|shared|local)\s+(?:\.align\s+(?P<align>\d+)\s+)?(?:\.attribute\([^)]*\)\s*)?"
    r"\.(?P<type>[a-z]+\d+)\s+(?P<name>[\w$]+)\s*(?P<dims>(?:\[\d*\])*)\s*(?:=\s*(?P<init>\{[^}]*\}|[^;]+))?",
    re.S,
)
STATEMENT = re.compile(
    r"\s*(?:(?P<open>\{)|(?P<close>\})|(?P<label>[\w$%]+):(?!:)|(?P<rest>[^;{}]*(?:\{[^{}]*\}[^;{}]*)*;))"
)
INSTRUCTION = re.compile(r"(?:@(!?)(%?[\w$]+)\s+)?([\w.:]+)\s*(.*)", re.S)


def module(text: str) -> tuple[list[Variable], list[Function]]:
    """Variables and functions of a PTX module."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.S)
    functions, outside, position = [], [], 0
    for found in FUNCTION.finditer(text):
        if found.start() < position:
            continue
        has_body = found["end"] == "{"
        end = _closing(text, found.end() - 1) if has_body else found.end()
        outside.append(text[position : found.start()])
        functions.append(
            Function(
                found["name"],
                found["kind"] == "entry",
                tuple(parameters(found["result"])),
                tuple(parameters(found["params"])),
                text[found.end() : end - 1] if has_body else None,
            )
        )
        position = end
    return variables(" ".join([*outside, text[position:]])), functions


def parameters(text: str | None) -> list[Parameter]:
    """Every `.param` in `text`."""
    found = []
    for alignment, kind, name, extent in PARAMETER.findall(text or ""):
        size = bits_of(kind) // 8
        found.append(Parameter(name, size * int(extent or 1), max(int(alignment or 0), size)))
    return found


def variables(text: str) -> list[Variable]:
    """Every variable that `text` declares."""
    return [_variable(found) for found in VARIABLE.finditer(text)]


def _variable(found: re.Match[str]) -> Variable:
    size = bits_of(found["type"]) // 8
    num_bytes = size
    for extent in re.findall(r"\[(\d*)\]", found["dims"]):
        num_bytes *= int(extent or 0)
    data = bytearray(num_bytes)
    for n, item in enumerate(re.findall(r"[\w.+-]+", found["init"] or "")):
        value = immediate(item, found["type"]) & ((1 << 8 * size) - 1)
        data[n * size : (n + 1) * size] = value.to_bytes(size, "little")
    alignment = max(int(found["align"] or 0), size)
    return Variable(found["name"], found["space"], num_bytes, alignment, bytes(data))


def statements(body: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of a body in order: label, open and close of a scope, rest (directive or instruction)."""
    position, end = 0, len(body.rstrip())
    while position < end:
        found = STATEMENT.match(body, position)
        if not found or not found.lastgroup:
            raise Unsupported(body[position : position + 60])
        yield found.lastgroup, (found[found.lastgroup] or "").strip().rstrip(";").strip()
        position = found.end()


def instruction(text: str) -> Instruction:
    """The instruction that `text` writes."""
    found = INSTRUCTION.match(text)
    if not found:
        raise Unsupported(text)
    name, *modifiers = [part for part in found[3].replace("::", "__").split(".") if part]
    return Instruction(
        found[2] or "", bool(found[1]), name, tuple(modifiers), tuple(operands(found[4])), text
    )


def operands(text: str) -> list[str]:
    """`text` divided at the commas that stand outside of brackets."""
    parts, depth, last = [], 0, 0
    for n, char in enumerate(text):
        depth += (char in "[{(") - (char in "]})")
        if char == "," and depth == 0:
            parts.append(text[last:n])
            last = n + 1
    return [part.strip() for part in [*parts, text[last:]] if part.strip()]


def _closing(text: str, start: int) -> int:
    """The position behind the brace that closes the one at `start`."""
    depth = 0
    for found in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return found.end()
    raise Unsupported("a brace is not closed")
