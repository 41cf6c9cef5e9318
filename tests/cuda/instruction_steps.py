"""Every instruction of instruction_table.py on the driver, a kernel each, over bits that are edges and random ones."""

from __future__ import annotations

import random

import numpy as np
from arena import Arena, arena
from instruction_table import ROWS, Row, same

NUM_CASES = 96
EDGES = {
    32: [
        0,
        1,
        31,
        32,
        33,
        0x7FFFFFFF,
        0x80000000,
        0xFFFFFFFF,
        0x3F800000,
        0x7F800000,
        0xFF800000,
        0x7FC00000,
    ],
    64: [0, 1, 63, 64, 65, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 0x3FF0 << 48, 0x7FF0 << 48, 0x7FF8 << 48],
}
HEADER = ".version 9.0\n.target sm_100\n.address_size 64\n"
rng = random.Random(5)


def kernel(n: int, row: Row) -> str:
    """PTX that reads the n-th thread's operands, 8 bytes each, and writes its result."""
    names = "abc"[: len(row.operand_bits)]
    loads = [
        f"ld.global.u{bits} %{name}, [%at+{8 * place}];"
        for place, (name, bits) in enumerate(zip(names, row.operand_bits, strict=True))
    ]
    registers = [f".reg .b{bits} %{name};" for name, bits in zip(names, row.operand_bits, strict=True)]
    result = max(row.result_bits, 32)
    text = row.text.replace("mov.b16 %d, %h;", "cvt.u32.u16 %d, %h;")
    lines = [
        f".visible .entry row_{n}(.param .u64 operands, .param .u64 results) {{",
        f".reg .pred %p; .reg .b16 %h; .reg .b{result} %d; .reg .b32 %t; .reg .b64 %at; .reg .b64 %to;",
        *registers,
        "ld.param.u64 %at, [operands]; ld.param.u64 %to, [results];",
        "mov.u32 %t, %tid.x; mad.wide.u32 %at, %t, 24, %at; mad.wide.u32 %to, %t, 8, %to;",
        *loads,
        text,
        f"st.global.u{result} [%to], %d;",
        "ret; }",
    ]
    return "\n".join(lines)


def cases(row: Row) -> list[tuple[int, ...]]:
    """Bits of operands: every pair of edges first, as far as they go, then random ones."""
    edges = [tuple(rng.choice(EDGES[bits]) for bits in row.operand_bits) for _ in range(NUM_CASES // 2)]
    return edges + [tuple(rng.getrandbits(bits) for bits in row.operand_bits) for _ in range(NUM_CASES // 2)]


def check(gpu: Arena, text: str, n: int, row: Row) -> str:
    given = cases(row)
    operands = np.zeros((NUM_CASES, 3), np.uint64)
    for case, values in enumerate(given):
        operands[case, : len(values)] = values
    gpu.put(gpu[0], operands)
    gpu.put(gpu[1], np.zeros(NUM_CASES, np.uint64))
    gpu.run_ptx(text, f"row_{n}", gpu[0], gpu[1], blocks=1, threads=NUM_CASES)
    for values, result in zip(given, gpu.got(gpu[1], np.uint64, NUM_CASES).tolist(), strict=True):
        expected = int(row.twin(*values)) & ((1 << row.result_bits) - 1)
        if not same(row, result, expected):
            return f"gives {result:#x} for {', '.join(map(hex, values))}, not {expected:#x}"
    return "ok"


def run_all() -> None:
    """Print a line a row."""
    text = HEADER + "\n".join(kernel(n, row) for n, row in enumerate(ROWS))
    with arena() as gpu, np.errstate(all="ignore"):
        for n, row in enumerate(ROWS):
            print(f"{row.text} {check(gpu, text, n, row)}", flush=True)
