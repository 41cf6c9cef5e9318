"""Writes docs/sass.md: what becomes of every CUDA kernel on compute capability 9.0: `make sass`. Tests hold it current.

Reads the cubins of the code objects with nvdisasm. Needs the compilers and nvdisasm (the extra `dev`), no GPU.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path
from typing import Any

from cuda_kernels import cuda_kernels, signature_of

from umem.errors import DeviceMissing
from umem.kernels.build.code_object import code_object

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "sass.md"
CAPABILITY = (9, 0)
COMPILERS = ("numba", "numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink")

INTRODUCTION = """\
Machine code (SASS) for sm_90 of every kernel that umem has for CUDA, counted by instruction: of the entry and of the
functions that the compiler left out of line. Counts say what stands in the code, not how often it runs. Entries of
data movement launch as they are; signals, the barrier and coherent access are called by kernels of yours, and stand
here with the least caller (scripts/cuda_kernels.py).

- **Registers** a thread: 64 or fewer let an SM hold 1,024 threads, half of what it can.
- **Spills**: bytes of a thread's stack, with loads and stores of it. There are none.
- **Fences**: `sys` orders for all processors, `sc` sequentially consistent among them. An ordered atomic is a fence,
  the access, and `L1 out`, which empties the SM's L1 cache; so is each poll that acquires.
- **Loads, stores**: how many of each width in bytes; 16 is the widest of a thread. `ordered` are those of system scope,
  which pass by the L1 cache.
- **Calls**: of functions out of line; the compiler does a 64-bit division so."""

HEADS = (
    "kernel",
    "instructions",
    "registers",
    "spills",
    "fences",
    "L1 out",
    "loads",
    "stores",
    "atomics",
    "calls",
)


@dataclass(frozen=True)
class Sass:
    """What a cubin holds: how often each instruction stands in it, registers of a thread, bytes of its stack."""

    counts: Counter[str]
    registers: int
    stack_bytes: int

    def num(self, pattern: str) -> int:
        """Instructions whose whole name matches."""
        return sum(count for name, count in self.counts.items() if re.fullmatch(pattern, name))


def nvdisasm() -> Path:
    """The disassembler of the package nvidia-cuda-nvdisasm. DeviceMissing where it is not installed."""
    try:
        found = [file for file in files("nvidia-cuda-nvdisasm") or [] if file.name == "nvdisasm"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise DeviceMissing("nvdisasm is not installed: scripts/setup dev")
    return Path(str(found[0].locate()))


def made_by() -> str:
    """The versions that decide what the page says."""
    try:
        compilers = [f"{name} {version(name)}" for name in COMPILERS]
    except PackageNotFoundError as error:
        raise DeviceMissing(f"{error.name} is not installed: scripts/setup dev") from error
    python = ".".join(platform.python_version_tuple()[:2])
    return f"Made by Python {python}, {', '.join(compilers)}."


def disassemble(cubin: bytes) -> Sass:
    """Read a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [nvdisasm(), file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    instructions = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?([A-Z][\w.]*)", text, re.MULTILINE)
    counts = Counter(name for name in instructions if name != "NOP")
    return Sass(counts, max(attributes(text, "REGCOUNT")), max(attributes(text, "MIN_STACK_SIZE")))


def attributes(text: str, name: str) -> list[int]:
    """The values that the cubin's notes give `name`, one a function."""
    values = re.findall(rf"EIATTR_{name}\n(?:.*\n){{7,8}}?.*\.word\s+(0x\w+)", text)
    return [int(value, 16) for value in values]


def widths(sass: Sass, operation: str) -> str:
    """How many accesses of each width, the widest first."""
    found: Counter[int] = Counter()
    ordered = 0
    for name, count in sass.counts.items():
        first, *rest = name.split(".")
        if first in (f"{operation}G", operation):
            found[next((WIDTHS[part] for part in rest if part in WIDTHS), 4)] += count
            ordered += count if "SYS" in rest else 0
    said = ", ".join(f"{count} of {num_bytes}" for num_bytes, count in sorted(found.items(), reverse=True))
    return said + (f"; {ordered} ordered" if ordered else "")


WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


def fences(sass: Sass) -> str:
    """Fences by what they order and for whom."""
    kinds = {"sc sys": r"MEMBAR\.SC\.SYS", "sys": r"MEMBAR\.ALL\.SYS", "gpu": r"MEMBAR\.\w+\.GPU"}
    return ", ".join(f"{sass.num(pattern)} {kind}" for kind, pattern in kinds.items() if sass.num(pattern))


def row(name: str, sass: Sass) -> str:
    """A kernel's line of the table."""
    spills = sass.num(r"(LDL|STL)\b.*")
    cells: Iterable[object] = (
        f"`{name}`",
        f"{sum(sass.counts.values()):,}",
        sass.registers,
        f"{sass.stack_bytes} B, {spills}" if sass.stack_bytes or spills else 0,
        fences(sass),
        sass.num(r"CCTL\.IVALL") or "",
        widths(sass, "LD"),
        widths(sass, "ST"),
        sass.num(r"(ATOMG?|REDG?)\b.*") or "",
        sass.num(r"CALL\b.*") or "",
    )
    return f"| {' | '.join(map(str, cells))} |"


def row_of(name: str) -> str:
    """The line of the kernel `name`, whose code object is compiled unless it is kept."""
    body: Callable[..., Any] = cuda_kernels()[name]
    return row(name, disassemble(code_object(body, signature_of(body)).cubins[CAPABILITY]))


def page() -> str:
    """The whole page. On a machine that has compiled none of the kernels it takes minutes, on all cores."""
    names = list(cuda_kernels())
    slowest_first = sorted(names, key=lambda name: "coherent" not in name)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        rows = dict(zip(slowest_first, pool.map(row_of, slowest_first), strict=True))
    head = f"| {' | '.join(HEADS)} |\n|{' --- |' * len(HEADS)}"
    table = "\n".join([head, *(rows[name] for name in names)])
    title = "# Kernels for CUDA as machine code"
    written = f"Written by `make sass` (scripts/write_sass.py); do not edit. {made_by()}"
    return "\n\n".join([title, written, INTRODUCTION, table]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(ROOT)}")
