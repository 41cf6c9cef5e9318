"""Logic, shifts and moves of bits (PTX ISA 9.0, chapters 9.7.1, 9.7.8 and 9.7.9). Counts past the width are clamped."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from .parse import Instruction, Unsupported, operands
from .types import I1, I8, I32, I64, I128, SHARED, bits_of, is_signed
from .values import Values


class Bits(Values):
    """Instructions that see their operands as bits."""

    def op_mov(self, one: Instruction) -> None:
        dst, src = one.operands
        width = bits_of(one.kind)
        if src.startswith("{"):  # pack
            parts, total = operands(src.strip("{}")), ir.Constant(ir.IntType(width), 0)
            piece = width // len(parts)
            for n, part in enumerate(parts):
                wide = self.resize(self.bits(part, piece), width)
                total = self.builder.or_(total, self.builder.shl(wide, ir.Constant(wide.type, n * piece)))
            self.put(dst, total, one.kind)
        elif dst.startswith("{"):  # unpack
            parts, whole = operands(dst.strip("{}")), self.bits(src, width)
            piece = width // len(parts)
            for n, part in enumerate(parts):
                shifted = self.builder.lshr(whole, ir.Constant(whole.type, n * piece))
                self.put(part, self.resize(shifted, piece), f"b{piece}")
        else:
            self.put(dst, self.value(src, one.kind), one.kind)

    def op_cvta(self, one: Instruction) -> None:
        """Addresses of the block's shared memory are offsets; all other spaces are the generic one."""
        value = self.bits(one.operands[1], 64)
        if any(part.startswith("shared") for part in one.modifiers):
            change = self.builder.sub if one.has("to") else self.builder.add
            value = change(value, self.word(SHARED, I64))
        self.put(one.operands[0], value, one.kind)

    def op_and(self, one: Instruction) -> None:
        self._logic(one, self.builder.and_)

    def op_or(self, one: Instruction) -> None:
        self._logic(one, self.builder.or_)

    def op_xor(self, one: Instruction) -> None:
        self._logic(one, self.builder.xor)

    def op_not(self, one: Instruction) -> None:
        self.put(one.operands[0], self.builder.not_(self.value(one.operands[1], one.kind)), one.kind)

    def op_lop3(self, one: Instruction) -> None:
        values = [self.bits(text, 32) for text in one.operands[1:4]]
        table, total = int(one.operands[4], 0), I32(0)
        for n in range(8):
            if table >> n & 1:
                a, b, c = (
                    value if n >> bit & 1 else self.builder.not_(value)
                    for value, bit in zip(values, (2, 1, 0), strict=True)
                )
                total = self.builder.or_(total, self.builder.and_(self.builder.and_(a, b), c))
        self.put(one.operands[0], total, "b32")

    def op_shl(self, one: Instruction) -> None:
        self._shift(one, self.builder.shl, lambda value: value.type(0))

    def op_shr(self, one: Instruction) -> None:
        if is_signed(one.kind):
            self._shift(
                one,
                self.builder.ashr,
                lambda value: self.builder.ashr(value, value.type(value.type.width - 1)),
            )
        else:
            self._shift(one, self.builder.lshr, lambda value: value.type(0))

    def op_shf(self, one: Instruction) -> None:
        low, high, count = (self.bits(text, 32) for text in one.operands[1:4])
        if one.has("wrap"):
            count = self.builder.and_(count, I32(31))
        else:
            count = self._at_most(count, 32)
        both, wide = self._joined(low, high), self.builder.zext(count, I64)
        if one.has("l"):
            result = self.builder.lshr(self.builder.shl(both, wide), I64(32))
        else:
            result = self.builder.lshr(both, wide)
        self.put(one.operands[0], self.builder.trunc(result, I32), "b32")

    def op_popc(self, one: Instruction) -> None:
        self._count(one, "ctpop")

    def op_clz(self, one: Instruction) -> None:
        self._count(one, "ctlz", I1(0))

    def op_brev(self, one: Instruction) -> None:
        value = self.value(one.operands[1], one.kind)
        reversed_bits = self.intrinsic(f"llvm.bitreverse.i{value.type.width}", value.type, value)
        self.put(one.operands[0], reversed_bits, one.kind)

    def op_bfe(self, one: Instruction) -> None:
        """A field of bits, moved down, with its sign for signed types."""
        kind, builder = one.kind, self.builder
        start, length = (self._byte(text) for text in one.operands[2:4])
        down = builder.ashr if is_signed(kind) else builder.lshr
        field = down(
            self.resize(self.value(one.operands[1], kind), 128, is_signed(kind)), self._at_most(start, 127)
        )
        is_empty = builder.icmp_unsigned("==", length, I128(0))
        above = builder.select(is_empty, I128(0), builder.sub(I128(128), self._at_most(length, 128)))
        field = builder.select(is_empty, I128(0), down(builder.shl(field, above), above))
        self.put(one.operands[0], self.resize(field, bits_of(kind)), kind)

    def op_bfi(self, one: Instruction) -> None:
        """A field of bits put into another number."""
        width, builder = bits_of(one.kind), self.builder
        piece, into = (self.resize(self.value(text, one.kind), 128) for text in one.operands[1:3])
        start, length = (self._at_most(self._byte(text), width) for text in one.operands[3:5])
        mask = builder.shl(builder.sub(builder.shl(I128(1), length), I128(1)), start)
        result = builder.or_(
            builder.and_(into, builder.not_(mask)), builder.and_(builder.shl(piece, start), mask)
        )
        self.put(one.operands[0], self.resize(result, width), one.kind)

    def op_prmt(self, one: Instruction) -> None:
        """Four bytes chosen from eight; bit 3 of a selector spreads the byte's sign."""
        if one.modifiers != ("b32",):
            raise Unsupported(one.text)
        a, b, selector = (self.bits(text, 32) for text in one.operands[1:4])
        both, total, builder = self._joined(a, b), I32(0), self.builder
        for n in range(4):
            nibble = builder.and_(builder.lshr(selector, I32(4 * n)), I32(15))
            place = builder.zext(builder.shl(builder.and_(nibble, I32(7)), I32(3)), I64)
            byte = builder.trunc(builder.lshr(both, place), I8)
            byte = builder.select(builder.icmp_unsigned(">", nibble, I32(7)), builder.ashr(byte, I8(7)), byte)
            total = builder.or_(total, builder.shl(builder.zext(byte, I32), I32(8 * n)))
        self.put(one.operands[0], total, "b32")

    # --- shapes that several share

    def _logic(self, one: Instruction, make: Callable[[ir.Value, ir.Value], ir.Value]) -> None:
        result = make(self.value(one.operands[1], one.kind), self.value(one.operands[2], one.kind))
        self.put(one.operands[0], result, one.kind)

    def _shift(
        self,
        one: Instruction,
        shift: Callable[[ir.Value, ir.Value], ir.Value],
        past: Callable[[ir.Value], ir.Value],
    ) -> None:
        """LLVM leaves counts from the width on undefined: `past` gives the result there."""
        value, count = self.value(one.operands[1], one.kind), self.bits(one.operands[2], 32)
        width = value.type.width
        is_past = self.builder.icmp_unsigned(">=", count, I32(width))
        inside = self.resize(self.builder.select(is_past, I32(width - 1), count), width)
        result = self.builder.select(is_past, past(value), shift(value, inside))
        self.put(one.operands[0], result, one.kind)

    def _count(self, one: Instruction, name: str, *more: ir.Value) -> None:
        value = self.value(one.operands[1], one.kind)
        count = self.intrinsic(f"llvm.{name}.i{value.type.width}", value.type, value, *more)
        self.put(one.operands[0], self.resize(count, 32), "u32")

    def _joined(self, low: ir.Value, high: ir.Value) -> ir.Value:
        wide = self.builder.shl(self.builder.zext(high, I64), I64(32))
        return self.builder.or_(self.builder.zext(low, I64), wide)

    def _byte(self, text: str) -> ir.Value:
        """The low byte of an operand, wide enough for any shift."""
        return self.resize(self.builder.and_(self.bits(text, 32), I32(255)), 128)

    def _at_most(self, value: ir.Value, most: int) -> ir.Value:
        limit = value.type(most)
        return self.builder.select(self.builder.icmp_unsigned(">", value, limit), limit, value)
