"""Arithmetic of PTX: integers, floating point, comparisons (PTX ISA 9.0, chapters 9.7.1 to 9.7.6).

Approximations of a device (ex2, rsqrt, ...) are exact here. Division by zero, which gives some value on a
device, does so here too.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from .parse import Instruction, Unsupported
from .types import FLOAT, I32, I64, PACKED, bits_of, is_float, is_signed
from .values import Values

SIGNS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
UNSIGNED_SIGNS = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}

Binary = Callable[[ir.Value, ir.Value], ir.Value]


class Arithmetic(Values):
    """Instructions that compute numbers from numbers."""

    def op_add(self, one: Instruction) -> None:
        self._exact(one)
        self._each_half(one, lambda o: self._binary(o, self.builder.add, self.builder.fadd))

    def op_sub(self, one: Instruction) -> None:
        self._exact(one)
        self._each_half(one, lambda o: self._binary(o, self.builder.sub, self.builder.fsub))

    def op_mul(self, one: Instruction) -> None:
        if one.kind[0] == "f":
            self._each_half(one, lambda o: self._binary(o, None, self.builder.fmul))
        else:
            self.put(one.operands[0], self._product(one), self._product_kind(one))

    def op_mad(self, one: Instruction) -> None:
        if one.kind[0] == "f":
            self.op_fma(one)
            return
        self._exact(one)
        kind = self._product_kind(one)
        total = self.builder.add(self._product(one), self.value(one.operands[3], kind))
        self.put(one.operands[0], total, kind)

    def op_fma(self, one: Instruction) -> None:
        def emit(o: Instruction) -> None:
            values = [self.value(text, o.kind) for text in o.operands[1:4]]
            self._float(o.kind, o)
            fused = self.intrinsic(f"llvm.fma.{o.kind}", values[0].type, *values)
            self.put(o.operands[0], fused, o.kind)

        self._each_half(one, emit)

    def op_div(self, one: Instruction) -> None:
        if is_float(one.kind):
            self._binary(one, None, self.builder.fdiv)
        else:
            self._divide(one, self.builder.sdiv if is_signed(one.kind) else self.builder.udiv)

    def op_rem(self, one: Instruction) -> None:
        self._divide(one, self.builder.srem if is_signed(one.kind) else self.builder.urem)

    def op_neg(self, one: Instruction) -> None:
        value = self.value(one.operands[1], one.kind)
        negated = self.builder.fneg(value) if is_float(one.kind) else self.builder.neg(value)
        self.put(one.operands[0], negated, one.kind)

    def op_abs(self, one: Instruction) -> None:
        value = self.value(one.operands[1], one.kind)
        if is_float(one.kind):
            result = self.intrinsic(f"llvm.fabs.{one.kind}", value.type, value)
        else:
            is_negative = self.builder.icmp_signed("<", value, value.type(0))
            result = self.builder.select(is_negative, self.builder.neg(value), value)
        self.put(one.operands[0], result, one.kind)

    def op_min(self, one: Instruction) -> None:
        self._extreme(one, "<")

    def op_max(self, one: Instruction) -> None:
        self._extreme(one, ">")

    def op_sqrt(self, one: Instruction) -> None:
        self._function(one, "sqrt")

    def op_ex2(self, one: Instruction) -> None:
        self._function(one, "exp2")

    def op_lg2(self, one: Instruction) -> None:
        self._function(one, "log2")

    def op_sin(self, one: Instruction) -> None:
        self._function(one, "sin")

    def op_cos(self, one: Instruction) -> None:
        self._function(one, "cos")

    def op_rcp(self, one: Instruction) -> None:
        value = self.value(one.operands[1], one.kind)
        self.put(one.operands[0], self.builder.fdiv(value.type(1.0), value), one.kind)

    def op_rsqrt(self, one: Instruction) -> None:
        value = self.value(one.operands[1], one.kind)
        root = self.intrinsic(f"llvm.sqrt.{one.kind}", value.type, value)
        self.put(one.operands[0], self.builder.fdiv(value.type(1.0), root), one.kind)

    # --- comparisons

    def op_setp(self, one: Instruction) -> None:
        holds = self._compare(one, one.modifiers[0])
        target, _, other = one.operands[0].partition("|")
        opposite = self.builder.not_(holds)
        if len(one.operands) > 3:
            combine = getattr(self.builder, {"and": "and_", "or": "or_", "xor": "xor"}[one.modifiers[1]])
            third = self.bits(one.operands[3], 1)
            holds, opposite = combine(holds, third), combine(opposite, third)
        self.put(target, holds, "pred")
        if other:
            self.put(other, opposite, "pred")

    def op_set(self, one: Instruction) -> None:
        holds, kind = self._compare(one, one.modifiers[0]), one.modifiers[-2]
        value = self.builder.uitofp(holds, FLOAT) if kind == "f32" else self.builder.sext(holds, I32)
        self.put(one.operands[0], value, kind)

    def op_selp(self, one: Instruction) -> None:
        chosen = self.builder.select(
            self.bits(one.operands[3], 1),
            self.value(one.operands[1], one.kind),
            self.value(one.operands[2], one.kind),
        )
        self.put(one.operands[0], chosen, one.kind)

    def _compare(self, one: Instruction, sign: str) -> ir.Value:
        kind, builder = one.kind, self.builder
        a, b = self.value(one.operands[1], kind), self.value(one.operands[2], kind)
        if is_float(kind):
            if sign == "num":
                return builder.fcmp_ordered("ord", a, b)
            if sign == "nan":
                return builder.fcmp_unordered("uno", a, b)
            if sign.endswith("u"):
                return builder.fcmp_unordered(SIGNS[sign[:-1]], a, b)
            return builder.fcmp_ordered(SIGNS[sign], a, b)
        is_unsigned = kind[0] in "ub" or sign in UNSIGNED_SIGNS
        compare = builder.icmp_unsigned if is_unsigned else builder.icmp_signed
        return compare(SIGNS[UNSIGNED_SIGNS.get(sign, sign)], a, b)

    # --- shapes that several share

    def _exact(self, one: Instruction) -> None:
        """Refuse carries and saturation."""
        if one.has("cc") or one.has("sat"):
            raise Unsupported(one.text)

    def _float(self, kind: str, one: Instruction) -> None:
        if not is_float(kind):
            raise Unsupported(one.text)

    def _binary(self, one: Instruction, integer: Binary | None, floating: Binary | None) -> None:
        kind = one.kind
        make = floating if is_float(kind) else integer
        if make is None or kind in PACKED:
            raise Unsupported(one.text)
        result = make(self.value(one.operands[1], kind), self.value(one.operands[2], kind))
        self.put(one.operands[0], result, kind)

    def _function(self, one: Instruction, name: str) -> None:
        self._float(one.kind, one)
        value = self.value(one.operands[1], one.kind)
        self.put(one.operands[0], self.intrinsic(f"llvm.{name}.{one.kind}", value.type, value), one.kind)

    def _each_half(self, one: Instruction, emit: Callable[[Instruction], None]) -> None:
        """f32x2 is two floats in a register of 64 bits (sm_100); all else is one number."""
        if one.kind != "f32x2":
            emit(one)
            return
        wide = [self.bits(text, 64) for text in one.operands[1:]]
        names = tuple(f"%half{n}" for n in range(len(one.operands)))
        halves = []
        for shift in (0, 32):
            scope = {name: self.slot(I32) for name in names}
            for name, value in zip(names[1:], wide, strict=True):
                self.builder.store(self.resize(self.builder.lshr(value, I64(shift)), 32), scope[name])
            self.registers.append(scope)
            modifiers = (*one.modifiers[:-1], "f32")
            emit(Instruction("", False, one.name, modifiers, names, one.text))
            halves.append(self.builder.zext(self.builder.load(scope[names[0]]), I64))
            self.registers.pop()
        both = self.builder.or_(halves[0], self.builder.shl(halves[1], I64(32)))
        self.put(one.operands[0], both, "b64")

    def _product_kind(self, one: Instruction) -> str:
        return f"{one.kind[0]}{2 * bits_of(one.kind)}" if one.has("wide") else one.kind

    def _product(self, one: Instruction) -> ir.Value:
        kind = one.kind
        width, signed = bits_of(kind), is_signed(kind)
        a, b = self.value(one.operands[1], kind), self.value(one.operands[2], kind)
        if one.has("lo"):
            return self.builder.mul(a, b)
        both = self.builder.mul(self.resize(a, 2 * width, signed), self.resize(b, 2 * width, signed))
        if one.has("wide"):
            return both
        return self.resize(self.builder.lshr(both, ir.Constant(both.type, width)), width)

    def _divide(self, one: Instruction, divide: Binary) -> None:
        a, b = self.value(one.operands[1], one.kind), self.value(one.operands[2], one.kind)
        kills = self.builder.icmp_unsigned("==", b, b.type(0))
        if is_signed(one.kind):
            is_lowest = self.builder.icmp_unsigned("==", a, a.type(1 << (a.type.width - 1)))
            is_minus_one = self.builder.icmp_unsigned("==", b, b.type(-1))
            kills = self.builder.or_(kills, self.builder.and_(is_lowest, is_minus_one))
        self.put(one.operands[0], divide(a, self.builder.select(kills, b.type(1), b)), one.kind)

    def _extreme(self, one: Instruction, sign: str) -> None:
        kind = one.kind
        a, b = self.value(one.operands[1], kind), self.value(one.operands[2], kind)
        if is_float(kind):
            if one.has("NaN") or one.has("xorsign"):
                raise Unsupported(one.text)
            name = "minnum" if sign == "<" else "maxnum"
            self.put(one.operands[0], self.intrinsic(f"llvm.{name}.{kind}", a.type, a, b), kind)
            return
        compare = self.builder.icmp_signed if is_signed(kind) else self.builder.icmp_unsigned
        self.put(one.operands[0], self.builder.select(compare(sign, a, b), a, b), kind)
