"""A PTX module as one of LLVM: every function one function, whose one call runs one thread.

module = Translator(ptx_text)
module.kernels["name"]              # what a launch must know of it
str(module.module)                  # void name(thread state *, parameters *)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from llvmlite import ir

from . import parse
from .arithmetic import Arithmetic
from .bits import Bits
from .control import Control
from .convert import Convert
from .memory import Memory
from .parse import Function, Instruction, Unsupported, Variable
from .types import HELPERS, I8, I64, POINTER, VOID, bits_of


@dataclass
class Kernel:
    """What a launch must know: where parameters lie, bytes of shared memory, whether threads wait for others."""

    name: str
    parameters: list[tuple[int, int]] = field(default_factory=list)  # offset, bytes
    shared_bytes: int = 0
    waits: bool = False


class Translator:
    """`weak`: plain accesses go through a cache that is not coherent; `strict`: each is checked first."""

    def __init__(self, text: str, weak: bool = False, strict: bool = False):
        self.weak, self.strict = weak, strict
        self.module = ir.Module("ptx")
        self.helpers = {
            name: ir.Function(self.module, ir.FunctionType(result, [POINTER, *operands]), name)
            for name, (result, operands) in HELPERS.items()
        }
        self.kernels: dict[str, Kernel] = {}
        self.functions: dict[str, ir.Function] = {}
        self.globals: dict[str, ir.Value] = {}
        self.shared: dict[str, int] = {}
        self.shared_bytes = 0
        variables, functions = parse.module(text)
        for variable in variables:
            self.declare(variable)
        for function in functions:
            self._sign(function)
        for function in functions:
            if function.body is not None:
                _Body(self, function).translate(function.body)

    def declare(self, variable: Variable) -> None:
        """Give a variable of the module, or of the block's shared memory, its place."""
        if variable.space == "shared":
            self.shared_bytes = -(-self.shared_bytes // variable.alignment) * variable.alignment
            self.shared[variable.name] = self.shared_bytes
            self.shared_bytes += variable.num_bytes
            return
        kind = ir.ArrayType(I8, variable.num_bytes)
        made = ir.GlobalVariable(self.module, kind, variable.name)
        made.align, made.linkage = max(variable.alignment, 16), "internal"
        made.initializer = ir.Constant(kind, bytearray(variable.data))
        self.globals[variable.name] = made

    def _sign(self, function: Function) -> None:
        if function.name in self.functions:
            return
        if function.is_entry:
            kernel, offset = Kernel(function.name), 0
            for parameter in function.parameters:
                offset = -(-offset // parameter.alignment) * parameter.alignment
                kernel.parameters.append((offset, parameter.num_bytes))
                offset += parameter.num_bytes
            self.kernels[function.name] = kernel
            arguments = [POINTER, POINTER]
        else:
            arguments = [POINTER] * (1 + len(function.results) + len(function.parameters))
        made = ir.Function(self.module, ir.FunctionType(VOID, arguments), function.name)
        made.linkage = "internal"
        self.functions[function.name] = made


class _Body(Arithmetic, Bits, Convert, Memory, Control):
    """The statements of one function."""

    def __init__(self, translator: Translator, source: Function):
        super().__init__(translator, source)
        self.kernel = translator.kernels.get(source.name)
        places = self.function.args[1:]
        with self.in_head() as head:
            if self.kernel is not None:
                offsets = [offset for offset, _ in self.kernel.parameters]
                places = [head.gep(places[0], [I64(offset)]) for offset in offsets]
        names = [one.name for one in (*source.results, *source.parameters)]
        self.memory.update(zip(names, places, strict=True))

    def translate(self, body: str) -> None:
        items = list(parse.statements(body))
        self.blocks = {text: self.new_block(text.replace("$", "")) for kind, text in items if kind == "label"}
        for position, (kind, text) in enumerate(items):
            if kind == "open":
                self.registers.append({})
            elif kind == "close":
                self.registers.pop()
            elif kind == "label":
                following = items[position + 1][1] if position + 1 < len(items) else ""
                self._label(text, following)
            elif text.startswith("."):
                self._directive(text)
            elif text:
                if self.builder.block.is_terminated:
                    self.builder.position_at_end(self.new_block("unreached"))
                self._guarded(parse.instruction(text))
        if not self.builder.block.is_terminated:
            self.builder.ret_void()
        with self.in_head() as head:
            head.branch(self.function.basic_blocks[1])
        if self.kernel is not None:
            self.kernel.waits, self.kernel.shared_bytes = self.waits, self.translator.shared_bytes

    def _label(self, name: str, following: str) -> None:
        if not self.builder.block.is_terminated:
            self.builder.branch(self.blocks[name])
        self.builder.position_at_end(self.blocks[name])
        if following.startswith(".branchtargets"):
            self.targets[name] = parse.operands(following.removeprefix(".branchtargets"))

    def _directive(self, text: str) -> None:
        """Registers and variables; all else (.loc, .pragma, ...) is of no effect here."""
        found = re.match(r"\.reg\s+\.(\w+)\s+(.*)", text, re.S)
        if found:
            kind = ir.IntType(bits_of(found[1]))
            for name in parse.operands(found[2]):
                many = re.match(r"(.+)<(\d+)>", name)
                for one in [f"{many[1]}{n}" for n in range(int(many[2]))] if many else [name]:
                    self.registers[-1][one] = self.slot(kind)
            return
        for parameter in parse.parameters(text):
            self.memory[parameter.name] = self.room(parameter.num_bytes, parameter.alignment)
        for variable in parse.variables(text):
            if variable.space == "shared":
                self.translator.declare(variable)
                self.shared = dict(self.translator.shared)
            else:
                self.memory[variable.name] = self.room(variable.num_bytes, variable.alignment)

    def _guarded(self, one: Instruction) -> None:
        """An instruction under its predicate; branches take theirs themselves."""
        if not one.predicate or one.name == "bra":
            self._emit(one)
            return
        taken = self.value(one.predicate, "pred")
        taken = self.builder.not_(taken) if one.negated else taken
        then, after = self.new_block("then"), self.new_block("after")
        self.builder.cbranch(taken, then, after)
        self.builder.position_at_end(then)
        self._emit(one)
        if not self.builder.block.is_terminated:
            self.builder.branch(after)
        self.builder.position_at_end(after)

    def _emit(self, one: Instruction) -> None:
        method = getattr(self, f"op_{one.name}", None)
        if method is None:
            raise Unsupported(one.text)
        try:
            method(one)
        except (KeyError, IndexError, ValueError) as error:
            raise Unsupported(f"{one.text}: {error!r}") from error
