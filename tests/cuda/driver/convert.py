"""Conversions between numbers of PTX (PTX ISA 9.0, chapter 9.7.9.21): widths, signs, rounding, saturation."""

from __future__ import annotations

from llvmlite import ir

from .parse import Instruction, Unsupported
from .types import bits_of, is_float, is_signed, llvm_type
from .values import Values

ROUNDINGS = {"rni": "roundeven", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}


class Convert(Values):
    """The instruction cvt."""

    def op_cvt(self, one: Instruction) -> None:
        to, given = one.modifiers[-2:]
        if "bf16" in to or "bf16" in given or "x2" in to:
            raise Unsupported(one.text)
        value = self.value(one.operands[1], given)
        if is_float(given):
            value = self._from_float(one, value, to, given)
        elif is_float(to):
            make = self.builder.sitofp if is_signed(given) else self.builder.uitofp
            value = make(value, llvm_type(to))
        elif one.has("sat"):
            raise Unsupported(one.text)
        else:
            value = self.resize(value, bits_of(to), is_signed(given))
        self.put(one.operands[0], value, to)

    def _from_float(self, one: Instruction, value: ir.Value, to: str, given: str) -> ir.Value:
        for modifier, name in ROUNDINGS.items():
            if one.has(modifier):
                value = self.intrinsic(f"llvm.{name}.{given}", value.type, value)
        target = llvm_type(to)
        if is_float(to):
            if one.has("sat"):
                raise Unsupported(one.text)
            widening = bits_of(to) - bits_of(given)
            if widening > 0:
                return self.builder.fpext(value, target)
            return self.builder.fptrunc(value, target) if widening else value
        sign = "s" if is_signed(to) else "u"
        return self.intrinsic(f"llvm.fpto{sign}i.sat.i{target.width}.{given}", target, value)
