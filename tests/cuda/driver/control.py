"""Branches, calls, barriers and what lanes of a warp say to each other (PTX ISA 9.0, chapters 9.7.12 and 9.7.13)."""

from __future__ import annotations

from llvmlite import ir

from .memory import FENCE, SCOPES
from .parse import Instruction, Unsupported, operands
from .types import I1, I32, I64
from .values import Values

SHUFFLES = ("up", "down", "bfly", "idx")
VOTES = ("all", "any", "uni", "ballot")
MEET = 0  # a vote that only meets
TRAP_INSTRUCTION = 715  # CUDA_ERROR_ILLEGAL_INSTRUCTION


class Control(Values):
    """Instructions that say which code runs next, and which wait for other threads."""

    def op_bra(self, one: Instruction) -> None:
        target = self.blocks[one.operands[0]]
        if not one.predicate:
            self.builder.branch(target)
            return
        after = self.new_block("after")
        taken, other = (after, target) if one.negated else (target, after)
        self.builder.cbranch(self.value(one.predicate, "pred"), taken, other)
        self.builder.position_at_end(after)

    def op_brx(self, one: Instruction) -> None:
        names = self.targets[one.operands[1]]
        switch = self.builder.switch(self.bits(one.operands[0], 32), self.blocks[names[0]])
        for n, name in enumerate(names):
            switch.add_case(I32(n), self.blocks[name])

    def op_ret(self, one: Instruction) -> None:
        self.builder.ret_void()

    def op_exit(self, one: Instruction) -> None:
        if self.source.is_entry:
            self.builder.ret_void()
        else:
            raise Unsupported(one.text)

    def op_trap(self, one: Instruction) -> None:
        self.help("ptx_trap", I32(TRAP_INSTRUCTION))

    op_brkpt = op_trap

    def op_call(self, one: Instruction) -> None:
        """A direct call: results and parameters travel in memory."""
        has_results = one.operands[0].startswith("(")
        results = operands(one.operands[0].strip("()")) if has_results else []
        name, *rest = one.operands[has_results:]
        given = operands(rest[0].strip("()")) if rest else []
        if name not in self.translator.functions:
            raise Unsupported(one.text)
        self.waits = True  # what is called may wait
        places = [self.memory[place] for place in [*results, *given]]
        self.builder.call(self.translator.functions[name], [self.thread, *places])

    def op_bar(self, one: Instruction) -> None:
        self.waits = True
        if one.has("warp"):
            self.order_block()
            self.help("ptx_vote", I32(MEET), I32(0), self.bits(one.operands[0], 32))
            self.order_block()
        elif one.has("sync") and len(one.operands) == 1 and not one.has("red"):
            self.meet_block(I32(0))
        elif one.has("red") and one.has("or") and len(one.operands) == 3:
            met = self.meet_block(self.builder.zext(self.bits(one.operands[2], 1), I32))
            self.put(one.operands[0], self.builder.icmp_unsigned("!=", met, I32(0)), "pred")
        else:
            raise Unsupported(one.text)

    op_barrier = op_bar

    def meet_block(self, flag: ir.Value) -> ir.Value:
        """Whether a thread of the block came with a flag, as an i32."""
        self.order_block()
        met = self.help("ptx_barrier", flag)
        self.order_block()  # what others of the block stored, and acquired, until now
        return met

    def order_block(self) -> None:
        self.builder.fence("seq_cst")
        if self.translator.weak:
            self.help("ptx_weak_order", I32(FENCE), I32(SCOPES["cta"]), I64(0))

    def op_nanosleep(self, one: Instruction) -> None:
        self.waits = True
        self.help("ptx_yield")

    def op_shfl(self, one: Instruction) -> None:
        self.waits = True
        target, _, valid = one.operands[0].partition("|")
        mode = SHUFFLES.index(one.one_of(*SHUFFLES))
        values = [self.bits(text, 32) for text in one.operands[1:5]]
        got = self.help("ptx_shuffle", I32(mode), *values)
        self.put(target, self.resize(got, 32), "b32")
        if valid:
            self.put(valid, self.builder.trunc(self.builder.lshr(got, I64(32)), I1), "pred")

    def op_vote(self, one: Instruction) -> None:
        self.waits = True
        mode = VOTES.index(one.one_of(*VOTES))
        mine = self.builder.zext(self.bits(one.operands[1], 1), I32)
        got = self.help("ptx_vote", I32(mode + 1), mine, self.bits(one.operands[2], 32))
        if VOTES[mode] == "ballot":
            self.put(one.operands[0], got, "b32")
        else:
            self.put(one.operands[0], self.builder.icmp_unsigned("!=", got, I32(0)), "pred")

    def op_pragma(self, one: Instruction) -> None:
        """Nothing: advice to the compiler."""
