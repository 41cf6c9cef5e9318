"""Loads, stores, atomics and fences of PTX, with their orders and scopes (PTX ISA 9.0, chapters 8 and 9.7.9).

Ordered accesses become LLVM's atomics of the same order, plain ones plain accesses. Under weak memory, plain and
relaxed accesses of global memory go through the cache and the write buffer of the thread (c/weak.c), which ordered
accesses empty as far as their order and scope say. An access that is not aligned to its size traps, as on a device.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llvmlite import ir

from .parse import Instruction, Unsupported, operands
from .types import I32, I64, SHARED, bits_of, llvm_type
from .values import Values

ORDER = {
    "relaxed": "monotonic",
    "volatile": "monotonic",
    "acquire": "acquire",
    "release": "release",
    "acq_rel": "acq_rel",
    "sc": "seq_cst",
}
FAILED = {"acq_rel": "acquire", "release": "monotonic"}  # order of a compare-and-swap that fails
ATOMICS = {
    "add": {"u": "add", "s": "add", "f": "fadd"},
    "and": {"b": "and"},
    "or": {"b": "or"},
    "xor": {"b": "xor"},
    "exch": {"b": "xchg"},
    "min": {"s": "min", "u": "umin"},
    "max": {"s": "max", "u": "umax"},
}
SCOPES = {"cta": 0, "gl": 1, "gpu": 1, "sys": 2}  # c/weak.c has the same numbers; `gl` is membar's
# What ptx_weak_order is asked for: c/weak.c has the same.
LOAD, WRITE, ACQUIRE, RELEASE, FENCE, FENCE_SC = range(6)
TRAP_MISALIGNED = 716  # CUDA_ERROR_MISALIGNED_ADDRESS
MAX_ATOMIC_BYTES = 8


@dataclass(frozen=True)
class Access:
    """What an instruction does to memory: `count` elements of `kind` in `space`, ordered for `scope`."""

    space: str
    order: str  # weak where there is none
    scope: int
    count: int
    kind: str

    @property
    def num_bytes(self) -> int:
        return bits_of(self.kind) // 8

    @property
    def is_global(self) -> bool:
        return self.space in ("global", "generic")


def access_of(one: Instruction) -> Access:
    """What the modifiers of a load, a store or an atomic say."""
    count, space, order, scope = 1, "generic", "weak", SCOPES["sys"]
    for part in one.modifiers:
        if re.fullmatch(r"v\d", part):
            count = int(part[1:])
        elif re.match(r"param|global|shared|local|const", part):
            space = part
        elif part in ORDER:
            order = part
        elif part in SCOPES:
            scope = SCOPES[part]
    return Access(space, order, scope, count, one.kind)


class Memory(Values):
    """Instructions that touch memory."""

    def op_ld(self, one: Instruction) -> None:
        what = access_of(one)
        address = self._address(one.operands[1], what.space)
        names = operands(one.operands[0].strip("{}")) if what.count > 1 else [one.operands[0]]
        self._check(address, what, is_write=False)
        is_loose = self._is_loose(what)
        if self._is_weak(what) and not is_loose:
            self._order(LOAD, what, address)  # own stores to this place are seen
        loaded = []
        for n in range(what.count):
            at, pointer = self._element(address, what, n)
            if is_loose:
                kind = 0 if what.order == "weak" else 1
                value = self.help("ptx_weak_load", at, I32(what.num_bytes), I32(kind))
                loaded.append(self.resize(value, 8 * what.num_bytes))
            elif what.order != "weak":
                loaded.append(self.builder.load_atomic(pointer, ORDER[what.order], what.num_bytes))
            else:
                loaded.append(self.builder.load(pointer, align=what.num_bytes))
        for name, value in zip(names, loaded, strict=True):
            self.put(name, value, what.kind)
        if what.order == "acquire" and self._is_weak(what):
            self._order(ACQUIRE, what, address)
        if what.order != "weak":
            self.tick()

    op_ldu = op_ld

    def op_st(self, one: Instruction) -> None:
        what = access_of(one)
        address = self._address(one.operands[0], what.space)
        names = operands(one.operands[1].strip("{}")) if what.count > 1 else [one.operands[1]]
        self._check(address, what, is_write=True)
        is_loose = self._is_loose(what)
        if self._is_weak(what) and not is_loose:
            self._order(RELEASE if what.order == "release" else WRITE, what, address)
        for n, name in enumerate(names):
            at, pointer = self._element(address, what, n)
            value = self.bits(name, 8 * what.num_bytes)
            if is_loose:
                self.help("ptx_weak_store", at, I32(what.num_bytes), self.resize(value, 64))
            elif what.order != "weak":
                self.builder.store_atomic(value, pointer, ORDER[what.order], what.num_bytes)
            else:
                self.builder.store(value, pointer, align=what.num_bytes)
        if what.order != "weak" and what.space != "param":
            self.tick()

    def op_atom(self, one: Instruction) -> None:
        what = access_of(one)
        operation = one.one_of("cas", *ATOMICS)
        if what.num_bytes > MAX_ATOMIC_BYTES or what.count > 1:
            raise Unsupported(one.text)
        order = ORDER["relaxed" if what.order == "weak" else what.order]
        address = self._address(one.operands[1], what.space)
        self._check(address, what, is_write=True)
        if self._is_weak(what):
            self._order(RELEASE if order in ("release", "acq_rel") else WRITE, what, address)
        if operation == "cas":
            wanted, new = (self.bits(text, 8 * what.num_bytes) for text in one.operands[2:4])
            pointer = self.builder.inttoptr(address, wanted.type.as_pointer())
            pair = self.builder.cmpxchg(pointer, wanted, new, order, FAILED.get(order, order))
            old = self.builder.extract_value(pair, 0)
        else:
            pointer = self.builder.inttoptr(address, llvm_type(what.kind).as_pointer())
            verb = ATOMICS[operation][what.kind[0]]
            old = self.builder.atomic_rmw(verb, pointer, self.value(one.operands[2], what.kind), order)
        self.put(one.operands[0], old, what.kind)
        if self._is_weak(what) and order in ("acquire", "acq_rel"):
            self._order(ACQUIRE, what, address)
        self.tick()

    def op_red(self, one: Instruction) -> None:
        self.op_atom(
            Instruction(one.predicate, one.negated, "atom", one.modifiers, ("_", *one.operands), one.text)
        )

    def op_fence(self, one: Instruction) -> None:
        if one.has("proxy") or one.has("mbarrier_init"):
            raise Unsupported(one.text)
        is_sc = not one.has("acq_rel")
        self.builder.fence("seq_cst" if is_sc else "acq_rel")
        if self.translator.weak:
            scope = next((SCOPES[part] for part in one.modifiers if part in SCOPES), SCOPES["sys"])
            self.help("ptx_weak_order", I32(FENCE_SC if is_sc else FENCE), I32(scope), I64(0))

    op_membar = op_fence

    def op_prefetch(self, one: Instruction) -> None:
        """Nothing: there is no cache to fill."""

    op_prefetchu = op_prefetch

    # --- shapes that several share

    def _address(self, text: str, space: str) -> ir.Value:
        found = re.fullmatch(r"\[\s*(.+?)\s*(?:\+\s*(-?\w+))?\s*\]", text.strip(), re.S)
        if not found:
            raise Unsupported(text)
        base = self.bits(found[1], 64)
        if found[2]:
            base = self.builder.add(base, I64(int(found[2], 0)))
        if space.startswith("shared"):
            base = self.builder.add(base, self.word(SHARED, I64))
        return base

    def _element(self, address: ir.Value, what: Access, n: int) -> tuple[ir.Value, ir.Value]:
        """Address and pointer of the n-th element."""
        at = self.builder.add(address, I64(n * what.num_bytes))
        return at, self.builder.inttoptr(at, ir.IntType(8 * what.num_bytes).as_pointer())

    def _check(self, address: ir.Value, what: Access, is_write: bool) -> None:
        """Trap where the device may not touch the memory (strict), or the address is not aligned."""
        if what.space in ("param", "local"):
            return
        num_bytes = what.num_bytes * what.count
        if self.translator.strict and what.is_global:
            self.help("ptx_check", address, I32(num_bytes), I32(int(is_write)))
        if num_bytes > 1:
            off = self.builder.and_(address, I64(num_bytes - 1))
            with self.builder.if_then(self.builder.icmp_unsigned("!=", off, I64(0)), likely=False):
                self.help("ptx_trap", I32(TRAP_MISALIGNED))

    def _is_weak(self, what: Access) -> bool:
        return self.translator.weak and what.is_global

    def _is_loose(self, what: Access) -> bool:
        """Whether the cache and the write buffer of the thread stand between this access and memory."""
        return self._is_weak(what) and what.order in ("weak", "relaxed", "volatile")

    def _order(self, kind: int, what: Access, address: ir.Value) -> None:
        self.help("ptx_weak_order", I32(kind), I32(what.scope), address)
