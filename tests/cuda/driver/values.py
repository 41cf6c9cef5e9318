"""Registers and operands of a function of PTX as values of LLVM: what every instruction builds on.

Every register is an integer of its declared width, in memory of the function that LLVM turns into values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llvmlite import ir

from .parse import Function, Unsupported
from .types import (
    BUDGET,
    CLOCKS,
    CONSTANTS,
    I8,
    I32,
    I64,
    POINTER,
    SPECIAL,
    bits_of,
    immediate,
    is_signed,
    llvm_type,
)

if TYPE_CHECKING:
    from .translate import Translator


class Values:
    """One function under translation: where its registers and variables are, and the builder of its code."""

    def __init__(self, translator: Translator, source: Function):
        self.translator, self.source = translator, source
        self.function: ir.Function = translator.functions[source.name]
        self.registers: list[dict[str, ir.Value]] = [{}]  # a scope of PTX each
        self.memory: dict[str, ir.Value] = dict(translator.globals)  # variables and parameters: their address
        self.shared: dict[str, int] = dict(translator.shared)  # offsets in the block's shared memory
        self.blocks: dict[str, ir.Block] = {}
        self.targets: dict[str, list[str]] = {}  # of indirect branches
        self.waits = False  # may wait for other threads: it must run as a fiber
        self.thread = self.function.args[0]
        self.head = self.function.append_basic_block("head")  # holds what is allocated
        self.builder = ir.IRBuilder(self.function.append_basic_block("start"))

    @contextmanager
    def in_head(self) -> Iterator[ir.IRBuilder]:
        """A builder that adds to the start of the function."""
        yield ir.IRBuilder(self.head)

    def slot(self, kind: ir.Type) -> ir.Value:
        """Room for a register."""
        with self.in_head() as head:
            return head.alloca(kind)

    def room(self, num_bytes: int, alignment: int) -> ir.Value:
        """Room for a variable: its address."""
        with self.in_head() as head:
            made = head.alloca(ir.ArrayType(I8, max(num_bytes, 1)))
            made.align = max(alignment, 8)
            return head.bitcast(made, POINTER)

    def new_block(self, name: str) -> ir.Block:
        return self.function.append_basic_block(name)

    # --- operands

    def register(self, name: str) -> ir.Value | None:
        """Where a register is kept, or None where `name` is none."""
        for scope in reversed(self.registers):
            if name in scope:
                return scope[name]
        return None

    def bits(self, text: str, width: int, signed: bool = False) -> ir.Value:
        """The operand as an integer of `width` bits."""
        text, slot = text.strip(), self.register(text.strip())
        builder = self.builder
        if slot is not None:
            value = builder.load(slot)
        elif text in SPECIAL:
            value = self.word(SPECIAL[text])
        elif text in CLOCKS:
            value = self.help("ptx_clock", I32(int(text == "%globaltimer")))
        elif text in self.shared:
            value = I64(self.shared[text])
        elif text in self.memory:
            value = builder.ptrtoint(self.memory[text], I64)
        elif text in self.translator.functions:
            value = builder.ptrtoint(self.translator.functions[text], I64)
        elif text.startswith("!"):
            value = builder.not_(self.bits(text[1:], 1))
        elif text in CONSTANTS:
            value = I64(CONSTANTS[text])
        else:
            number = immediate(text, {32: "f32", 64: "f64"}.get(width, "b"))
            return ir.Constant(ir.IntType(width), number & ((1 << width) - 1))
        return self.resize(value, width, signed)

    def resize(self, value: ir.Value, width: int, signed: bool = False) -> ir.Value:
        """An integer, cut or extended to `width` bits."""
        if value.type.width > width:
            return self.builder.trunc(value, ir.IntType(width))
        if value.type.width < width:
            return (self.builder.sext if signed else self.builder.zext)(value, ir.IntType(width))
        return value

    def value(self, text: str, kind: str) -> ir.Value:
        """The operand as a value of PTX's type `kind`."""
        raw, wanted = self.bits(text, bits_of(kind), is_signed(kind)), llvm_type(kind)
        return raw if isinstance(wanted, ir.IntType) else self.builder.bitcast(raw, wanted)

    def put(self, name: str, value: ir.Value, kind: str) -> None:
        """Write a register, which may be wider than `kind`."""
        if name == "_":
            return
        slot = self.register(name)
        if slot is None:
            raise Unsupported(f"no register {name}")
        if not isinstance(value.type, ir.IntType):
            value = self.builder.bitcast(value, ir.IntType(bits_of(kind)))
        self.builder.store(self.resize(value, slot.type.pointee.width, is_signed(kind)), slot)

    # --- the thread's state, and the driver's functions

    def word_pointer(self, word: int, kind: ir.Type = I32) -> ir.Value:
        return self.builder.bitcast(self.builder.gep(self.thread, [I64(4 * word)]), kind.as_pointer())

    def word(self, word: int, kind: ir.Type = I32) -> ir.Value:
        """A word of the thread's state."""
        return self.builder.load(self.word_pointer(word, kind))

    def help(self, name: str, *operands: ir.Value) -> ir.Value:
        """Call one of the driver's functions."""
        return self.builder.call(self.translator.helpers[name], [self.thread, *operands])

    def intrinsic(self, name: str, result: ir.Type, *operands: ir.Value) -> ir.Value:
        """Call one of LLVM's own functions."""
        function = self.translator.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(result, [value.type for value in operands])
            function = ir.Function(self.translator.module, kind, name)
        return self.builder.call(function, operands)

    def tick(self) -> None:
        """Let other threads run now and then: this access may be one of a loop that waits for them."""
        self.waits = True
        pointer = self.word_pointer(BUDGET)
        left = self.builder.sub(self.builder.load(pointer), I32(1))
        self.builder.store(left, pointer)
        with self.builder.if_then(self.builder.icmp_signed("<=", left, I32(0)), likely=False):
            self.help("ptx_yield")
