"""Types and constants of PTX, and what they are for LLVM; the words of a thread that translated code reads."""

from __future__ import annotations

import re
import struct

from llvmlite import ir

VOID, I1, I8, I16, I32, I64, I128 = ir.VoidType(), *(ir.IntType(n) for n in (1, 8, 16, 32, 64, 128))
HALF, FLOAT, DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()
POINTER = I8.as_pointer()
PACKED = {"f16x2": 32, "bf16x2": 32, "bf16": 16}  # kept as bits

# Words of 32 bits at the start of a thread's state: c/execute.h has the same struct.
SPECIAL = {
    f"%{name}.{axis}": 3 * row + column
    for row, name in enumerate(("tid", "ntid", "ctaid", "nctaid"))
    for column, axis in enumerate("xyz")
}
SPECIAL |= {"%laneid": 12, "%warpid": 13, "%smid": 14, "%nsmid": 15, "%lanemask_lt": 16, "%lanemask_eq": 17}
BUDGET, SHARED = 18, 20  # ordered accesses until others run; address of the block's shared memory (64 bits)
CLOCKS = ("%clock", "%clock64", "%clock_hi", "%globaltimer")
CONSTANTS = {"WARP_SZ": 32}

# Functions of the driver that translated code calls: their result, and operands behind the thread's state.
HELPERS = {
    "ptx_yield": (VOID, []),
    "ptx_barrier": (I32, [I32]),
    "ptx_trap": (VOID, [I32]),
    "ptx_shuffle": (I64, [I32, I32, I32, I32, I32]),
    "ptx_vote": (I32, [I32, I32, I32]),
    "ptx_clock": (I64, [I32]),
    "ptx_weak_load": (I64, [I64, I32, I32]),
    "ptx_weak_store": (VOID, [I64, I32, I64]),
    "ptx_weak_order": (VOID, [I32, I32, I64]),
    "ptx_check": (VOID, [I64, I32, I32]),
}


def bits_of(kind: str) -> int:
    """Width of a type of PTX."""
    return 1 if kind == "pred" else PACKED.get(kind) or int(kind.lstrip("abcdefghijklmnopqrstuvwxyz"))


def llvm_type(kind: str) -> ir.Type:
    """LLVM's type of PTX's: s32, b64, f16, pred."""
    floats = {"f16": HALF, "f32": FLOAT, "f64": DOUBLE}
    return floats[kind] if kind in floats else ir.IntType(bits_of(kind))


def is_float(kind: str) -> bool:
    return kind in ("f16", "f32", "f64")


def is_signed(kind: str) -> bool:
    return kind[0] == "s"


def immediate(text: str, kind: str) -> int:
    """Bits of a constant where the instruction works on `kind`."""
    text = text.strip()
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
        bits = int(text[2:], 16)
        return _recast(bits, "<f", "<d") if kind == "f64" else bits
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
        bits = int(text[2:], 16)
        return _recast(bits, "<d", "<f") if kind == "f32" else bits
    return int(text.rstrip("U"), 0)


def _recast(bits: int, given: str, wanted: str) -> int:
    """Bits of a floating point number in another width."""
    (number,) = struct.unpack(given, bits.to_bytes(struct.calcsize(given), "little"))
    return int.from_bytes(struct.pack(wanted, number), "little")
